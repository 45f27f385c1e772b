package proc

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"time"
)

// Errors that callers branch on.
var (
	// ErrExists: a job of that id has a directory already; it was started once and is never started again.
	ErrExists = errors.New("job exists")
	// ErrUnknown: there is no such job.
	ErrUnknown = errors.New("no such job")
	// ErrRunning: the job's processes are not known to be gone.
	ErrRunning = errors.New("job is still running")
)

// Job is a command to run, with what it may take.
type Job struct {
	// ID names the job's directory: letters, digits, '.', '_', '-', at most 128, first a letter or digit.
	ID string `json:"id"`
	// Argv is executed as it stands, without a shell; Argv[0] is looked up in PATH unless it holds a slash.
	Argv []string `json:"argv"`
	// Env ("NAME=value") is added to an allow-list of the agent's own environment and wins over it.
	Env []string `json:"env,omitempty"`
	// Dir is the working directory; empty means the job's output directory.
	Dir string `json:"dir,omitempty"`
	// CPUs is given to the command as GOMAXPROCS, OMP_NUM_THREADS and the like, also over Env: what a job takes is
	// what its owner granted. 0 leaves them alone.
	CPUs int64 `json:"cpus,omitempty"`
	// GPUs is given as CUDA_VISIBLE_DEVICES; nil leaves it alone, an empty list hides all devices.
	GPUs   []int  `json:"gpus"`
	Limits Limits `json:"limits"`
	// Record is the owner's own note about the job, kept with it for its next life.
	Record json.RawMessage `json:"record,omitempty"`
}

// Limits are the deadlines and sizes to which the shim holds a job. Zero values mean no limit.
type Limits struct {
	// Timeout bounds the run as a whole.
	Timeout time.Duration `json:"timeout,omitempty"`
	// NoProgress is the longest time without a larger progress number.
	NoProgress time.Duration `json:"no_progress,omitempty"`
	// Grace is the time between TERM and KILL.
	Grace time.Duration `json:"grace,omitempty"`
	// Progress is a regular expression for a line of output; ProgressGroup the group that holds the number.
	Progress      string `json:"progress,omitempty"`
	ProgressGroup int    `json:"progress_group,omitempty"`
	// OutBytes bounds the bytes below the job's directory, MinFreeBytes what has to stay free on its disk. Both are
	// looked at every two seconds, so a fast writer overshoots.
	OutBytes     int64 `json:"out_bytes,omitempty"`
	MinFreeBytes int64 `json:"min_free_bytes,omitempty"`
}

// Reason says why a job ended.
type Reason string

// The reasons. Only Exited with code 0 is a success, and even that proves nothing about outputs.
const (
	Exited        Reason = "exited"         // by itself; see ExitCode
	Signaled      Reason = "signaled"       // by a signal that was not ours; see Signal
	OutOfMemory   Reason = "out_of_memory"  // by SIGKILL while the kernel's out-of-memory killer was active
	TimedOut      Reason = "timeout"        // Limits.Timeout
	Stalled       Reason = "no_progress"    // Limits.NoProgress
	Stopped       Reason = "stopped"        // Handle.Stop, or a TERM to the shim
	DiskFull      Reason = "disk_full"      // Limits.OutBytes or Limits.MinFreeBytes
	NotFound      Reason = "not_found"      // no such program, interpreter or directory; exit code 127
	NotExecutable Reason = "not_executable" // a file that cannot be executed here; exit code 126
	NotStarted    Reason = "not_started"    // the command never ran, for another reason
	Lost          Reason = "lost"           // the shim died: nobody saw the end
)

// Status is how a job ended.
type Status struct {
	Reason Reason `json:"reason"`
	// Detail explains Reason in a sentence for people.
	Detail string `json:"detail,omitempty"`
	// Started is zero if the command never ran. Where the wall clock was set meanwhile it is the earliest time that the start
	// had by it, and Ended is as much later as the command took.
	Started time.Time `json:"started,omitzero"`
	Ended   time.Time `json:"ended"`
	// ExitCode is −1 when the command was ended by a signal, or nobody knows.
	ExitCode int `json:"exit_code"`
	// Signal is the name of the signal that ended the command, whoever sent it.
	Signal string `json:"signal,omitempty"`
	Usage  Usage  `json:"usage"`
	// Progress is the largest progress number seen.
	Progress float64 `json:"progress"`
	// Stragglers is how many processes the command left behind; they were ended.
	Stragglers int `json:"stragglers,omitempty"`
	// OutputBytes is how much was printed, kept or not.
	OutputBytes int64 `json:"output_bytes"`
}

// OK says whether the command ran and exited with code 0.
func (s Status) OK() bool { return s.Reason == Exited && s.ExitCode == 0 }

// Ran says whether the command was executed at all.
func (s Status) Ran() bool { return !s.Started.IsZero() }

// Usage is what all processes of a job took together.
type Usage struct {
	UserSeconds   float64 `json:"user_seconds"`
	SystemSeconds float64 `json:"system_seconds"`
	// MaxRSSBytes is the largest resident size of any single process.
	MaxRSSBytes int64 `json:"max_rss_bytes"`
}

// Phase is what a shim is doing.
type Phase string

// The phases of a job.
const (
	Starting    Phase = "starting"
	Running     Phase = "running"
	Terminating Phase = "terminating" // TERM was sent
	Killing     Phase = "killing"     // KILL was sent
	Unkillable  Phase = "unkillable"  // KILL was sent ten seconds ago, and something still lives: a hung device
)

// Progress is how far a job is.
type Progress struct {
	// Value is the largest number seen; At when it last grew (the start, before the first).
	Value float64   `json:"value"`
	At    time.Time `json:"at"`
	Phase Phase     `json:"phase"`
	// OutputBytes is how much was printed so far.
	OutputBytes int64 `json:"output_bytes"`
}

// spec is spec.json: the job with everything resolved.
type spec struct {
	Job
	// Boot is the kernel's boot id at the start.
	Boot string `json:"boot"`
	// Mark stands in the environment of all the job's processes, so that they can be told from all others.
	Mark    string    `json:"mark"`
	Created time.Time `json:"created"`
	// FullEnv is the command's whole environment.
	FullEnv []string `json:"full_env"`
}

// process names one process so that a reused pid cannot be mistaken for it.
type process struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // in the kernel's own unit
	Boot  string `json:"boot"`
}

// shimFile is shim.json.
type shimFile struct {
	Shim    process   `json:"shim"`
	Child   process   `json:"child"`
	Started time.Time `json:"started,omitzero"`
}

// stopFile is stop.json.
type stopFile struct {
	Grace time.Duration `json:"grace"`
	Why   string        `json:"why"`
}

const (
	specName     = "spec.json"
	lockName     = "lock"
	shimName     = "shim.json"
	stopName     = "stop.json"
	progressName = "progress.json"
	statusName   = "status.json"
	logName      = "log"
	oldLogName   = "log.1"
	shimLogName  = "shim.log"
	outName      = "out"
	tmpName      = "tmp"
	newPrefix    = ".new-"
)

var idSyntax = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)

func (j Job) check() error {
	if !idSyntax.MatchString(j.ID) {
		return fmt.Errorf("job id %q: want letters, digits, dots, dashes or underscores", j.ID)
	}
	if len(j.Argv) == 0 || j.Argv[0] == "" {
		return fmt.Errorf("job %s names no program", j.ID)
	}
	if j.Dir != "" && !filepath.IsAbs(j.Dir) {
		return fmt.Errorf("job %s: working directory %q is not absolute", j.ID, j.Dir)
	}
	l := j.Limits
	if l.Timeout < 0 || l.NoProgress < 0 || l.Grace < 0 || l.OutBytes < 0 || l.MinFreeBytes < 0 {
		return fmt.Errorf("job %s: negative limit", j.ID)
	}
	if l.Progress == "" {
		if l.NoProgress > 0 {
			return fmt.Errorf("job %s: a progress deadline needs a progress pattern", j.ID)
		}
		return nil
	}
	re, err := regexp.Compile(l.Progress)
	if err != nil {
		return fmt.Errorf("job %s: compile progress pattern: %w", j.ID, err)
	}
	if l.ProgressGroup < 0 || l.ProgressGroup > re.NumSubexp() {
		return fmt.Errorf("job %s: progress pattern has no group %d", j.ID, l.ProgressGroup)
	}
	return nil
}

// writeJSON replaces a file atomically. durable adds the two fsyncs without which a crash may undo it.
func writeJSON(path string, v any, durable bool) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s: %w", filepath.Base(path), err)
	}
	// Opened without truncation: where the temporary file was laid in beforehand, a full disk does not matter.
	f, err := os.OpenFile(path+".tmp", os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("create %s: %w", filepath.Base(path), err)
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Truncate(int64(len(data)))
	}
	if err == nil && durable {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		return fmt.Errorf("place %s: %w", filepath.Base(path), err)
	}
	if durable {
		return syncDir(filepath.Dir(path))
	}
	return nil
}

// errMalformed: the file is there, and is not what was written there.
var errMalformed = errors.New("malformed")

func readJSON(path string, v any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("read %s: %w: %w", filepath.Base(path), errMalformed, err)
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("open directory: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	return nil
}
