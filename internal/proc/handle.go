package proc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

const (
	pollEvery    = 100 * time.Millisecond
	ownPollEvery = 250 * time.Millisecond
	// How long after a shim's death the processes that carry its mark are looked for.
	buryTime   = 3 * time.Second
	sweepEvery = 20 * time.Millisecond
)

// Handle is one job, started or adopted.
type Handle struct {
	runner *Runner
	spec   spec
	// reaped is closed when the shim, as our own child, has ended; nil for adopted jobs.
	reaped chan struct{}
}

// ID is the job's id.
func (h *Handle) ID() string { return h.spec.ID }

// Record is what the owner put into the job.
func (h *Handle) Record() json.RawMessage { return h.spec.Record }

// Dir is the job's directory; OutDir is where its outputs are expected.
func (h *Handle) Dir() string { return h.runner.jobDir(h.spec.ID) }

// OutDir is the job's output directory.
func (h *Handle) OutDir() string { return h.runner.OutDir(h.spec.ID) }

// Ran says whether the command was executed, as far as is known by now.
func (h *Handle) Ran() bool {
	file, err := h.shimFile()
	return err == nil && !file.Started.IsZero()
}

// Created is when the job was handed to Start.
func (h *Handle) Created() time.Time { return h.spec.Created }

// Wait returns how the job ended, as soon as none of its processes is left. A job whose shim died is Lost (or NotStarted),
// once what remained of it is gone; so is one whose directory somebody took away. Errors: that of ctx, or of the disk.
func (h *Handle) Wait(ctx context.Context) (Status, error) {
	every := pollEvery
	if h.reaped != nil {
		every = ownPollEvery // its end is told by the kernel
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	reaped := h.reaped
	for {
		st, done, err := h.Poll()
		if done || err != nil {
			return st, err
		}
		select {
		case <-ctx.Done():
			return Status{}, fmt.Errorf("wait for job %s: %w", h.spec.ID, context.Cause(ctx))
		case <-reaped:
			reaped = nil
		case <-tick.C:
		}
	}
}

// Poll says without waiting whether the job has ended, and how. Where the shim turns out to be dead, it ends what the job
// left behind and writes the status in its place; that may take some seconds.
func (h *Handle) Poll() (Status, bool, error) {
	// The lock is asked first: a status counts only when the shim that wrote it has let go of
	// the lock. A command could write one too.
	alive, err := h.alive()
	if errors.Is(err, os.ErrNotExist) && h.vanished() {
		return h.mourn()
	}
	if alive || err != nil {
		return Status{}, false, err
	}
	st, err := h.readStatus()
	if err == nil {
		return st, true, nil
	}
	// What is there and makes no sense will never say how the job ended: it would be waited for, and its slots held, for ever.
	if !errors.Is(err, os.ErrNotExist) && !errors.Is(err, errMalformed) {
		return Status{}, false, fmt.Errorf("poll job %s: %w", h.spec.ID, err)
	}
	return h.bury()
}

// vanished says that somebody took the job's directory away.
func (h *Handle) vanished() bool {
	_, err := os.Lstat(h.Dir())
	return errors.Is(err, os.ErrNotExist)
}

// mourn ends what runs of a job without a directory: its shim can be told nothing any more, and there is no place for a status.
func (h *Handle) mourn() (Status, bool, error) {
	boot, err := bootID()
	if err != nil {
		return Status{}, false, fmt.Errorf("bury job %s: %w", h.spec.ID, err)
	}
	if boot == h.spec.Boot {
		if left := h.sweep(shimFile{}); left > 0 {
			return Status{}, false, fmt.Errorf("bury job %s: %d processes cannot be killed: %w", h.spec.ID, left, ErrRunning)
		}
	}
	h.runner.Log.Warn().Str("job", h.spec.ID).Msg("job directory was taken away")
	return Status{Reason: Lost, Started: h.spec.Created, Ended: time.Now(), ExitCode: -1,
		Detail: "the job's directory was taken away"}, true, nil
}

func (h *Handle) readStatus() (Status, error) {
	var st Status
	err := readJSON(filepath.Join(h.Dir(), statusName), &st)
	return st, err
}

// alive says whether a shim looks after the job: the lock is held, and if the shim has written down who it is, then that
// process exists, with the same start time under the same boot.
func (h *Handle) alive() (bool, error) {
	lock, err := takeLock(filepath.Join(h.Dir(), lockName))
	if err == nil {
		return false, lock.Close()
	}
	if !errors.Is(err, syscall.EWOULDBLOCK) {
		return false, fmt.Errorf("poll job %s: %w", h.spec.ID, err)
	}
	file, err := h.shimFile()
	if err != nil {
		return true, nil // it is being born
	}
	return h.runner.isSame(file.Shim), nil
}

func (h *Handle) shimFile() (shimFile, error) {
	var file shimFile
	err := readJSON(filepath.Join(h.Dir(), shimName), &file)
	return file, err
}

// bury ends what a job without a shim left behind and writes its status. Only processes that are provably the job's are
// touched: the command under its own start time, and what carries the job's mark.
func (h *Handle) bury() (Status, bool, error) {
	lock, err := takeLock(filepath.Join(h.Dir(), lockName))
	if err != nil && !errors.Is(err, syscall.EWOULDBLOCK) {
		return Status{}, false, fmt.Errorf("bury job %s: %w", h.spec.ID, err)
	}
	if err == nil {
		defer func() { _ = lock.Close() }()
	}
	if st, err := h.readStatus(); err == nil {
		return st, true, nil // written between our two looks
	}
	file, err := h.shimFile()
	st := Status{Reason: Lost, Started: file.Started, Ended: time.Now(), ExitCode: -1,
		Detail: "the shim died; nobody saw how the command ended"}
	if err != nil || (file.Started.IsZero() && file.Child.PID == 0) {
		st.Reason, st.Detail = NotStarted, "the agent or the machine stopped before the command ran"
	}
	boot, err := bootID()
	if err != nil {
		return Status{}, false, fmt.Errorf("bury job %s: %w", h.spec.ID, err)
	}
	if boot != h.spec.Boot {
		st.Detail += "; the machine was restarted"
	} else if left := h.sweep(file); left > 0 {
		return Status{}, false, fmt.Errorf("bury job %s: %d processes cannot be killed: %w", h.spec.ID, left, ErrRunning)
	}
	if p, err := h.Progress(); err == nil {
		st.Progress, st.OutputBytes = p.Value, p.OutputBytes
	}
	if err := writeJSON(filepath.Join(h.Dir(), statusName), st, true); err != nil {
		return Status{}, false, fmt.Errorf("bury job %s: %w", h.spec.ID, err)
	}
	_ = RemoveAll(filepath.Join(h.Dir(), tmpName))
	h.runner.Log.Warn().Str("job", h.spec.ID).Str("reason", string(st.Reason)).Msg("job lost")
	return st, true, nil
}

// sweep kills what is left of the job and returns how many processes withstood.
func (h *Handle) sweep(file shimFile) int {
	for deadline := time.Now().Add(buryTime); ; time.Sleep(sweepEvery) {
		left, err := marked(h.spec.Mark)
		if h.runner.isSame(file.Child) {
			left = append(left, procStat{pid: file.Child.PID, start: file.Child.Start})
			if orphansEscape {
				below, _ := descendants(file.Child.PID, file.Child.PID)
				left = append(left, below...)
			}
		}
		if (err == nil && len(left) == 0) || time.Now().After(deadline) {
			return len(left)
		}
		for _, p := range left {
			signalProcess(p, syscall.SIGKILL)
		}
	}
}

// Stop asks for the job's end: TERM to all its processes, KILL after grace. It returns at once; Wait tells when it is done.
// It may be called again with a shorter grace, and does nothing to a job that has ended.
func (h *Handle) Stop(grace time.Duration, why string) error {
	if err := writeJSON(filepath.Join(h.Dir(), stopName), stopFile{Grace: max(0, grace), Why: why}, false); err != nil {
		return fmt.Errorf("stop job %s: %w", h.spec.ID, err)
	}
	return nil
}

// Progress is how far the job is, at most a third of a second old while it runs.
func (h *Handle) Progress() (Progress, error) {
	p := Progress{At: h.spec.Created, Phase: Starting}
	if err := readJSON(filepath.Join(h.Dir(), progressName), &p); err != nil && !errors.Is(err, os.ErrNotExist) {
		return Progress{}, fmt.Errorf("read progress of job %s: %w", h.spec.ID, err)
	}
	return p, nil
}

// LogTail returns the last n bytes, at most 8 MiB, of what the command printed, as it printed it; see Sanitise.
func (h *Handle) LogTail(n int) ([]byte, error) {
	tail, err := logTail(h.Dir(), max(0, n))
	if err != nil {
		return nil, fmt.Errorf("read log of job %s: %w", h.spec.ID, err)
	}
	return tail, nil
}
