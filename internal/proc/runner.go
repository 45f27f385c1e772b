package proc

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/rs/zerolog"
)

// Runner starts jobs, and finds those that were started before. Its fields are set once, before the first call.
type Runner struct {
	// Dir holds one directory a job; it is made when needed.
	Dir string
	// Shim is the argv that leads to ShimMain, without the job's directory: {"/usr/bin/ringagent", "job-shim"}.
	Shim []string
	// Environ is the agent's own environment, of which an allow-list is passed on; nil means that of this process.
	Environ []string
	Log     zerolog.Logger

	// synced replaces syncDir in tests.
	synced func(dir string) error
	// same replaces sameProcess in tests of what happens without it.
	same func(process) bool
}

// OutDir is the output directory of a job, which exists from Start on and is empty then.
func (r *Runner) OutDir(jobID string) string { return filepath.Join(r.jobDir(jobID), outName) }

func (r *Runner) jobDir(jobID string) string { return filepath.Join(r.Dir, jobID) }

func (r *Runner) isSame(p process) bool {
	if r.same != nil {
		return r.same(p)
	}
	return sameProcess(p)
}

// Start runs a job. It returns as soon as the shim runs; a program that is missing or cannot be executed is told by the
// job's status. The job goes on when ctx ends, and when this process ends.
//
// Errors: ErrExists if there was ever a job of that id and it was not removed, whatever became of it. After any other
// error nothing runs and nothing is left behind.
func (r *Runner) Start(ctx context.Context, job Job) (*Handle, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("start job: %w", err)
	}
	if err := job.check(); err != nil {
		return nil, fmt.Errorf("start job: %w", err)
	}
	if len(r.Shim) == 0 {
		return nil, errors.New("start job: no shim is configured")
	}
	dir := r.jobDir(job.ID)
	if job.Dir == "" {
		job.Dir = filepath.Join(dir, outName)
	}
	sp := spec{Job: job, Mark: mark(job.ID), Created: time.Now()}
	var err error
	if sp.Boot, err = bootID(); err != nil {
		return nil, fmt.Errorf("start job: %w", err)
	}
	environ := r.Environ
	if environ == nil {
		environ = withHome(os.Environ())
	}
	sp.FullEnv = environment(environ, job, filepath.Join(dir, tmpName), sp.Mark)
	lock, err := r.lay(sp)
	if err != nil {
		return nil, fmt.Errorf("start job %s: %w", job.ID, err)
	}
	// The shim has its own descriptor of the same lock: it stays held until the last of the two is closed.
	defer func() { _ = lock.Close() }()
	cmd, err := r.command(dir, lock)
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start shim of job %s: %w", job.ID, err), RemoveAll(dir))
	}
	h := &Handle{runner: r, spec: sp, reaped: make(chan struct{})}
	go func() {
		defer close(h.reaped)
		if err := cmd.Wait(); err != nil {
			r.Log.Warn().Str("job", job.ID).Err(err).Msg("shim failed")
		}
	}()
	return h, nil
}

func mark(jobID string) string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return jobID + "." + hex.EncodeToString(b[:])
}

// lay makes the job's directory under a name that Adopt throws away, and gives it its own name when it is whole. It
// returns the held lock.
func (r *Runner) lay(sp spec) (lock *os.File, err error) {
	dir := r.jobDir(sp.ID)
	if _, err := os.Lstat(dir); err == nil {
		return nil, ErrExists
	}
	fresh := filepath.Join(r.Dir, newPrefix+sp.ID)
	if err := RemoveAll(fresh); err != nil {
		return nil, fmt.Errorf("clear job directory: %w", err)
	}
	defer func() {
		if err != nil {
			_ = RemoveAll(fresh)
			if lock != nil {
				_ = lock.Close()
				lock = nil
			}
		}
	}()
	for _, d := range []string{fresh, filepath.Join(fresh, outName), filepath.Join(fresh, tmpName)} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("make job directory: %w", err)
		}
	}
	if lock, err = takeLock(filepath.Join(fresh, lockName)); err != nil {
		return lock, err
	}
	if err = writeJSON(filepath.Join(fresh, specName), sp, true); err != nil {
		return lock, err
	}
	// Rename does not replace a directory that has something in it, so of two Starts of one id the second fails.
	if err = os.Rename(fresh, dir); err != nil {
		if errors.Is(err, os.ErrExist) || errors.Is(err, syscall.ENOTEMPTY) {
			err = ErrExists
		}
		return lock, err
	}
	return lock, syncDir(r.Dir)
}

// command is the shim's: its own session, so that nothing sent to the agent's terminal or group reaches it.
func (r *Runner) command(dir string, lock *os.File) (*exec.Cmd, error) {
	// An explicit absolute path, because the shim's environment is nearly empty.
	path, err := exec.LookPath(r.Shim[0])
	if err != nil {
		return nil, err
	}
	logFile, err := os.OpenFile(filepath.Join(dir, shimLogName), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(path, append(slices.Clone(r.Shim[1:]), dir)...)
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.ExtraFiles = []*os.File{lock}
	cmd.Env = []string{"PATH=/usr/bin:/bin", "GOMAXPROCS=2", "GOMEMLIMIT=32MiB"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return cmd, nil
}

// takeLock takes the job's flock without waiting; syscall.EWOULDBLOCK means that it is held.
func takeLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open job lock: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("take job lock: %w", err)
	}
	return f, nil
}

// Adopt finds the jobs of former agent processes: running ones, and ended ones that were not removed. It changes nothing
// about them; Wait or Poll of each handle tells how it stands. Directories that cannot be read are logged and left out.
func (r *Runner) Adopt(ctx context.Context) ([]*Handle, error) {
	entries, err := os.ReadDir(r.Dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("adopt jobs: %w", err)
	}
	var handles []*Handle
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("adopt jobs: %w", err)
		}
		if strings.HasPrefix(e.Name(), newPrefix) {
			if err := RemoveAll(filepath.Join(r.Dir, e.Name())); err != nil {
				r.Log.Warn().Str("job", e.Name()).Err(err).Msg("half-made job not removed")
			}
			continue
		}
		if !e.IsDir() || !idSyntax.MatchString(e.Name()) {
			continue
		}
		h := &Handle{runner: r}
		if err := readJSON(filepath.Join(r.Dir, e.Name(), specName), &h.spec); err != nil || h.spec.ID != e.Name() {
			r.Log.Error().Str("job", e.Name()).Err(err).Msg("job directory not readable")
			continue
		}
		handles = append(handles, h)
	}
	return handles, nil
}

// Remove deletes a job's directory and everything in it; after nil no crash brings it back. Errors: ErrRunning while its end
// is not known.
func (r *Runner) Remove(jobID string) error {
	if !idSyntax.MatchString(jobID) {
		return fmt.Errorf("remove job %q: %w", jobID, ErrUnknown)
	}
	// Out of the way in one step: half a job directory must not be adopted.
	gone := filepath.Join(r.Dir, newPrefix+jobID)
	if err := r.hide(jobID, gone); err != nil {
		return fmt.Errorf("remove job %s: %w", jobID, err)
	}
	sync := r.synced
	if sync == nil {
		sync = syncDir
	}
	if err := sync(r.Dir); err != nil {
		return fmt.Errorf("remove job %s: %w", jobID, err)
	}
	if err := RemoveAll(gone); err != nil {
		return fmt.Errorf("remove job %s: %w", jobID, err)
	}
	return nil
}

// RemoveAll removes what a job has left. Unlike the function of package os it also removes what lies in directories that the
// job made read-only, as caches of modules do, which is no obstacle to root only.
func RemoveAll(dir string) error {
	err := os.RemoveAll(dir)
	if !errors.Is(err, fs.ErrPermission) {
		return err
	}
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			_ = os.Chmod(path, 0o700) // before it is read
		}
		return nil
	})
	return os.RemoveAll(dir)
}

// hide renames a job's directory, unless an earlier attempt to remove it has done so.
func (r *Runner) hide(jobID, gone string) error {
	dir := r.jobDir(jobID)
	_, err := os.Stat(filepath.Join(dir, statusName))
	if err == nil {
		return os.Rename(dir, gone)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		return ErrRunning
	}
	if _, err := os.Stat(filepath.Join(gone, statusName)); err != nil {
		return ErrUnknown // or a job that is just being made
	}
	return nil
}
