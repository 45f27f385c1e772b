package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/internal/disk"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/mesh/identity"
)

// ballastBytes are kept back at init, so that a full disk leaves room to say so and to recover.
const ballastBytes = 32 << 20

// maxSocketPath is what the system takes as a socket's path: 107 bytes on Linux, 103 on macOS.
const maxSocketPath = len(syscall.RawSockaddrUnix{}.Path) - 1

func socketIn(root string) string { return filepath.Join(root, "agent.sock") }

// dataDir is one agent's folder. Its layout is part of the contract that operators rely on.
type dataDir struct {
	root string // absolute: jobs have working directories of their own
	lock *os.File
}

// path copies nothing of d: what still ends after the agent may ask for one while the lock is given up.
func (d *dataDir) path(parts ...string) string {
	return filepath.Join(append([]string{d.root}, parts...)...)
}

// nodeFile is node.json: who this machine is.
type nodeFile struct {
	ID     id.Node  `json:"id"`
	Name   string   `json:"name"`
	Ring   string   `json:"ring"`
	RingID id.Ring  `json:"ring_id"`
	Class  id.Class `json:"class"`
}

// openDataDir makes the folder where it is missing and takes its lock. A second agent in the same folder is refused.
func openDataDir(root string) (*dataDir, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, fmt.Errorf("find data dir: %w", err)
	}
	if socket := socketIn(root); len(socket) > maxSocketPath {
		return nil, api.Errorf(api.CodeInvalid, "data dir %s: its path is %d bytes too long for the agent's socket in it", root, len(socket)-maxSocketPath).
			WithHint("name a folder with a shorter path with --data-dir")
	}
	if err := os.MkdirAll(root, 0o700); err != nil {
		return nil, fmt.Errorf("make data dir: %w", err)
	}
	if err := os.Chmod(root, 0o700); err != nil {
		return nil, fmt.Errorf("guard data dir: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(root, "agent.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock of data dir: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		holder, _ := os.ReadFile(f.Name())
		f.Close()
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, api.Errorf(api.CodeInvalid, "data dir %s: its file system cannot lock a file: %v", root, err).
				WithHint("name a folder on a local disk with --data-dir")
		}
		who := strings.TrimSpace(string(holder))
		if who == "" {
			who = "unknown"
		}
		return nil, api.Errorf(api.CodeLocked, "data dir %s is in use by process %s", root, who).
			WithHint("one agent per data dir; name another with --data-dir, or end that process first")
	}
	if err := f.Truncate(0); err == nil {
		_, _ = f.WriteAt([]byte(fmt.Sprintln(os.Getpid())), 0)
	}
	d := &dataDir{root: root, lock: f}
	if err := d.sweepUnfinished(); err != nil {
		d.close()
		return nil, err
	}
	for _, sub := range []string{"blobs", "games", "datasets", "models", "spool", "quarantine", "jobs", "staging"} {
		if err := os.MkdirAll(d.path(sub), 0o700); err != nil {
			d.close()
			return nil, fmt.Errorf("make data dir: %w", err)
		}
	}
	return d, nil
}

// unfinished tells what a crash leaves of a file that was being replaced, and which file that was; it may hold a key.
func unfinished(name string) (of string, ok bool) {
	stem, hidden := strings.CutPrefix(name, ".")
	i := strings.LastIndexByte(stem, '.')
	if !hidden || i <= 0 || i+1 == len(stem) || strings.Trim(stem[i+1:], "0123456789") != "" {
		return "", false
	}
	return stem[:i], true
}

// sweepUnfinished removes such files. Whoever holds the lock is the only one who writes here.
func (d *dataDir) sweepUnfinished() error {
	for _, dir := range []string{d.root, d.path("tls")} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("sweep data dir: %w", err)
		}
		for _, e := range entries {
			of, ok := unfinished(e.Name())
			if !ok || !e.Type().IsRegular() || dir == d.root && !slices.Contains(layout[:], of) {
				continue
			}
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return fmt.Errorf("sweep data dir: %w", err)
			}
		}
	}
	return nil
}

func (d *dataDir) close() {
	if d.lock != nil {
		// Closing alone would leave it to a child that is between its fork and its exec, and has the file still open.
		_ = syscall.Flock(int(d.lock.Fd()), syscall.LOCK_UN)
		d.lock.Close()
		d.lock = nil
	}
}

// used says whether the folder belongs to a ring already.
func used(root string) bool {
	_, err := os.Stat(filepath.Join(root, "node.json"))
	return err == nil
}

// hasRun says whether an agent has run in the folder.
func hasRun(root string) bool {
	for _, name := range []string{"raft", "events.db", "outbox.db", "state.db"} {
		if exists(filepath.Join(root, name)) {
			return true
		}
	}
	return false
}

// headless is the refusal to make anything of a folder that an agent has run in and that has lost its node.json: its keys
// may be the only ones of a ring.
func headless(root string) error {
	return api.Errorf(api.CodeRefused, "an agent has run in data dir %s, but its node.json is missing", root).
		WithHint("put node.json back from a copy; for another ring name an empty folder with --data-dir")
}

// noNode is why a folder without node.json cannot be used.
func noNode(root string) error {
	if hasRun(root) {
		return headless(root)
	}
	return api.Errorf(api.CodeRefused, "data dir %s belongs to no ring", root).
		WithHint("make a ring with: ringagent init; or join one with: ringagent join SEED --token-file FILE")
}

func (d *dataDir) readNode() (nodeFile, error) {
	var n nodeFile
	b, err := os.ReadFile(d.path("node.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return n, noNode(d.root)
	}
	if err != nil {
		return n, fmt.Errorf("read node.json: %w", err)
	}
	if err := json.Unmarshal(b, &n); err != nil {
		return n, fmt.Errorf("read %s: %w", d.path("node.json"), err)
	}
	if _, err := id.ParseNode(string(n.ID)); err != nil {
		return n, fmt.Errorf("read %s: %w", d.path("node.json"), err)
	}
	return n, nil
}

// Bearer is the name and class under which a data dir belongs to a ring, and the file that says so. No flag changes them.
func Bearer(root string) (name string, class id.Class, file string, ok bool) {
	n, err := (&dataDir{root: root}).readNode()
	return n.Name, n.Class, filepath.Join(root, "node.json"), err == nil
}

func (d *dataDir) writeNode(n nodeFile) error { return writeJSONFile(d.path("node.json"), n) }

func writeJSONFile(path string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", filepath.Base(path), err)
	}
	return identity.WriteFile(path, append(b, '\n'))
}

// reserveBallast fills the ballast file, so that its blocks are really ours.
func (d *dataDir) reserveBallast() error {
	f, err := os.OpenFile(d.path("ballast"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("reserve ballast: %w", err)
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil && st.Size() == ballastBytes {
		return nil
	}
	block := make([]byte, 1<<20)
	for off := int64(0); off < ballastBytes; off += int64(len(block)) {
		if _, err := f.WriteAt(block, off); err != nil {
			_ = os.Remove(f.Name()) // a part of it helps nobody
			return fmt.Errorf("reserve ballast of %d MiB: %w", ballastBytes>>20, err)
		}
	}
	return f.Sync()
}

// tendBallast gives the reserve up where a start would fail for want of space, and takes it back at a start where there is
// plenty again: without it an agent that ended on a full disk could not come back to say so.
func (d *dataDir) tendBallast() error {
	free, err := disk.Free(d.root)
	if err != nil {
		return err
	}
	switch has := exists(d.path("ballast")); {
	case has && free < ballastBytes/8:
		if err := os.Remove(d.path("ballast")); err != nil {
			return fmt.Errorf("give the ballast up: %w", err)
		}
	case !has && free > 8*ballastBytes:
		return d.reserveBallast()
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// layout is what an agent keeps in its folder.
var layout = [...]string{
	"node.json", "tls", "raft", "events.db", "outbox.db", "state.db", "blobs", "games", "datasets", "models", "spool", "quarantine", "jobs",
	"staging", "peers.json", "roster.json", "timing", "seed.json", "agent.sock", "agent.lock", "agent.log", "api.token", "ballast", "config.yaml",
}

// before is what stood in a data dir when an attempt to make something of it began.
type before struct {
	root string
	mode fs.FileMode // 0: there was no folder
	had  map[string]bool
}

// lookBefore refuses folders that hold what is somebody else's: an agent closes its folder to all others and spreads in it.
// Settings, logs and tokens that lie there for the first start are welcome.
func lookBefore(root string) (before, error) {
	b := before{root: root, had: map[string]bool{}}
	st, err := os.Stat(root)
	if errors.Is(err, fs.ErrNotExist) {
		return b, nil
	}
	if err != nil {
		return b, fmt.Errorf("look at data dir: %w", err)
	}
	if !st.IsDir() {
		return b, api.Errorf(api.CodeInvalid, "data dir %s is not a directory", root)
	}
	b.mode = st.Mode().Perm()
	entries, err := os.ReadDir(root)
	if err != nil {
		return b, fmt.Errorf("look at data dir: %w", err)
	}
	for _, e := range entries {
		b.had[e.Name()] = true
		of, _ := unfinished(e.Name())
		switch ext := filepath.Ext(e.Name()); {
		case slices.Contains(layout[:], e.Name()), slices.Contains(layout[:], of), e.Name() == "lost+found", strings.HasPrefix(e.Name(), "token"):
		case ext == ".yaml", ext == ".yml", ext == ".log", ext == ".token":
		default:
			if info, err := e.Info(); err == nil && e.Type().IsRegular() && info.Size() == 0 {
				continue // such as the file that a shell has just opened for our output
			}
			return b, api.Errorf(api.CodeRefused, "folder %s is in use for something else: it holds %q", root, e.Name()).
				WithHint("name an empty folder with --data-dir")
		}
	}
	return b, nil
}

// undo takes back what an attempt that failed has made, and nothing else. Of tls/ it removes only an empty folder when
// keepKey is set: the key in it may still have been granted a place.
func (b before) undo(keepKey bool) {
	for _, name := range layout {
		switch {
		case b.had[name]:
		case name == "tls" && keepKey:
			_ = os.Remove(filepath.Join(b.root, name))
		default:
			_ = os.RemoveAll(filepath.Join(b.root, name))
		}
	}
	if b.mode == 0 {
		_ = os.Remove(b.root)
		return
	}
	_ = os.Chmod(b.root, b.mode)
}
