package worker

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/ringagent/ringagent/internal/workload"
)

// jobRecord is what a job carries with it for a later agent process: the claim, and the contract under which it was
// started, which counts even if the workload changes meanwhile.
type jobRecord struct {
	Claim   Claim             `json:"claim"`
	Grant   Grant             `json:"grant"`
	Outputs []workload.Output `json:"outputs"`
	Grace   time.Duration     `json:"grace"`
}

// action is what has to be told to the queue.
type action string

const (
	actFinish  action = "finish"
	actRelease action = "release"
	actNothing action = "nothing" // the claim was lost: whatever we say changes nothing
)

// answer is outcome.json in a job's directory: written before the queue is told, and again when it has heard.
type answer struct {
	Action  action  `json:"action"`
	Outcome Outcome `json:"outcome"`
	// Why is the reason of a release, or of a lost claim.
	Why string `json:"why,omitempty"`
	// Heard is when the queue answered; zero while it has not.
	Heard time.Time `json:"heard,omitzero"`
	// Stale says that the claim was not ours any more.
	Stale bool `json:"stale,omitempty"`
}

const (
	answerName    = "outcome.json"
	reservedBytes = 8 << 10
	releasedName  = "released" // its games are safe: the directory may go
)

var plainID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,55}$`)

// jobID derives a directory name from a claim. Ids that are no plain words are hashed: they come from the network.
func jobID(c ClaimRef) string {
	if plainID.MatchString(c.WorkID) && plainID.MatchString(c.ClaimID) {
		return c.WorkID + "." + c.ClaimID
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q", c.WorkID, c.ClaimID))
	return "job-" + hex.EncodeToString(sum[:16])
}

func readAnswer(dir string) (answer, bool, error) {
	var a answer
	data, err := os.ReadFile(filepath.Join(dir, answerName))
	if errors.Is(err, os.ErrNotExist) {
		return a, false, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &a)
	}
	if err != nil {
		return a, false, fmt.Errorf("read outcome: %w", err)
	}
	return a, true, nil
}

// reserveAnswer lays in the room for the first answer, so that a job that fills the disk can still be told of.
func reserveAnswer(dir string) error {
	return os.WriteFile(filepath.Join(dir, answerName+".tmp"), make([]byte, reservedBytes), 0o600)
}

// writeAnswer replaces outcome.json so that a crash leaves the old or the new one.
func writeAnswer(dir string, a answer) error {
	data, err := json.Marshal(a)
	if err != nil {
		return fmt.Errorf("encode outcome: %w", err)
	}
	path := filepath.Join(dir, answerName)
	f, err := os.OpenFile(path+".tmp", os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("write outcome: %w", err)
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Truncate(int64(len(data)))
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(path+".tmp", path)
	}
	if err == nil {
		err = syncDir(dir)
	}
	if err != nil {
		return fmt.Errorf("write outcome: %w", err)
	}
	return nil
}

// mark leaves an empty file that a crash does not undo.
func (w *Worker) mark(dir, name string) error {
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	return w.sync(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
