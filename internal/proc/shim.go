package proc

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/ringagent/ringagent/internal/disk"
)

const (
	shimTick       = 100 * time.Millisecond
	diskEvery      = 2 * time.Second
	sessionsEvery  = 3 * time.Second
	sessionsAgain  = 500 * time.Millisecond
	progressEvery  = 250 * time.Millisecond
	unkillableTime = 10 * time.Second
	lockFD         = 3
	statusRetries  = 120
)

// ShimMain is the shim's whole program: `<binary> <verb> <job-dir>`, called with the arguments after the verb. It returns
// the exit code of the shim, which says only whether the shim could do its duty (0), could not (1) or was called wrongly
// (2); how the job ended stands in its status file.
func ShimMain(args []string) int {
	return shimMain(args, func() time.Time { return time.Now().Round(0) })
}

// shimMain is ShimMain by a wall clock.
func shimMain(args []string, wall func() time.Time) int {
	if len(args) != 1 {
		fmt.Fprintln(os.Stderr, "usage: job-shim JOB-DIR")
		return 2
	}
	// The parent-death signal and the priorities belong to the thread that forks: it must stay ours, and must not end.
	runtime.LockOSThread()
	syscall.CloseOnExec(lockFD)
	s := &shim{dir: args[0], wall: wall, exited: make(chan exit, 1), empty: make(chan struct{})}
	status := s.run()
	s.finish()
	for range statusRetries {
		err := writeJSON(filepath.Join(s.dir, statusName), status, true)
		if err == nil {
			_ = syscall.Close(lockFD) // the owner need not wait for our own end
			return 0
		}
		fmt.Fprintln(os.Stderr, err)
		if s.vanished() {
			return 1
		}
		// Nothing matters more now than this one small file.
		_ = os.Truncate(filepath.Join(s.dir, logName), 0)
		_ = os.Truncate(filepath.Join(s.dir, oldLogName), 0)
		time.Sleep(time.Second)
	}
	return 1
}

type exit struct {
	status syscall.WaitStatus
	at     time.Time
}

// shim is the state of one shim. Everything but meter and log is used by the main goroutine alone.
type shim struct {
	dir   string
	spec  spec
	meter *meter
	log   *ringLog

	wall     func() time.Time // without a monotonic part
	child    int
	began    time.Time     // by the monotonic clock
	since    time.Time     // the earliest that this was by the wall clock, which may be set while the job runs
	exited   chan exit     // the command's own end
	empty    chan struct{} // closed when no child is left
	captured chan struct{} // closed when the output is at its end
	ended    *exit

	why        Reason // why we end the job; "" while it runs
	detail     string
	phase      Phase
	killAt     time.Time
	stragglers int

	nextDisk, nextProgress, nextSessions time.Time
	lastProgress                         Progress
}

func (s *shim) run() Status {
	failed := func(r Reason, code int, format string, args ...any) Status {
		return Status{Reason: r, Detail: fmt.Sprintf(format, args...), Ended: time.Now(), ExitCode: code}
	}
	if err := readJSON(filepath.Join(s.dir, specName), &s.spec); err != nil {
		return failed(NotStarted, -1, "%v", err)
	}
	// Laid in now, so that the end can be written on a full disk.
	_ = os.WriteFile(filepath.Join(s.dir, statusName+".tmp"), make([]byte, 4096), 0o600)
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM, syscall.SIGINT)
	defer signal.Stop(term)
	// Caught rather than ignored: what is ignored would stay ignored in the command.
	deaf := make(chan os.Signal, 1)
	signal.Notify(deaf, syscall.SIGHUP, syscall.SIGPIPE)
	defer signal.Stop(deaf)
	if err := becomeShim(); err != nil {
		return failed(NotStarted, -1, "%v", err)
	}
	oom := oomKills()
	if err := s.start(); err != nil {
		var nr *notRunnable
		switch {
		case errors.As(err, &nr) && nr.reason == NotFound:
			return failed(NotFound, 127, "%v", err)
		case errors.As(err, &nr) && nr.reason == NotExecutable:
			return failed(NotExecutable, 126, "%v", err)
		}
		return failed(NotStarted, -1, "%v", err)
	}
	s.watch(term)
	return s.status(oom)
}

// start executes the command and the goroutines that reap and read it.
func (s *shim) start() error {
	me, err := identify(os.Getpid())
	if err != nil {
		return fmt.Errorf("identify shim: %w", err)
	}
	file := shimFile{Shim: me}
	if err := writeJSON(filepath.Join(s.dir, shimName), file, false); err != nil {
		return err
	}
	dir := s.spec.Dir
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return &notRunnable{NotFound, fmt.Sprintf("no working directory %s", dir)}
	}
	path, err := lookPath(s.spec.Argv[0], dir, s.spec.FullEnv)
	if err != nil {
		return err
	}
	if s.meter, err = newMeter(s.spec.Limits, time.Now()); err != nil {
		return fmt.Errorf("compile progress pattern: %w", err)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return fmt.Errorf("open null device: %w", err)
	}
	defer func() { _ = null.Close() }()
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("make pipe: %w", err)
	}
	widenPipe(r)
	pid, err := syscall.ForkExec(path, s.spec.Argv, &syscall.ProcAttr{
		Dir: dir, Env: s.spec.FullEnv, Files: []uintptr{null.Fd(), w.Fd(), w.Fd()}, Sys: childAttr(),
	})
	_ = w.Close()
	if err != nil {
		_ = r.Close()
		return execError(path, err)
	}
	s.child, s.began, s.since, s.phase = pid, time.Now(), s.wall(), Running
	sacrifice(pid)
	file.Started = s.since
	// It cannot have been reaped yet, so this is the right process, even if it is a zombie by now.
	file.Child, _ = identify(pid)
	if err := writeJSON(filepath.Join(s.dir, shimName), file, false); err != nil {
		fmt.Fprintln(os.Stderr, err) // the command runs; only the sweep after our own death gets weaker
	}
	s.sessions(time.Now()) // this looks through all processes: whoever adopts the job is not to wait for it
	s.log, s.captured = newRingLog(s.dir), make(chan struct{})
	go s.reap()
	go s.capture(r)
	return nil
}

func execError(path string, err error) error {
	switch {
	case errors.Is(err, syscall.ENOENT):
		return &notRunnable{NotFound, fmt.Sprintf("%s cannot be executed: its interpreter or loader is missing", path)}
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.ENOEXEC), errors.Is(err, syscall.EPERM):
		return &notRunnable{NotExecutable, fmt.Sprintf("%s cannot be executed: %v", path, err)}
	}
	return fmt.Errorf("execute %s: %w", path, err)
}

// reap collects every process that ends below us. No child left means, for a subreaper, no descendant left.
func (s *shim) reap() {
	defer close(s.empty)
	for {
		var ws syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &ws, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return
		case pid == s.child:
			s.exited <- exit{ws, time.Now()}
		}
	}
}

// capture reads the command's output until the last process that holds the pipe is gone.
func (s *shim) capture(r io.ReadCloser) {
	defer close(s.captured)
	defer func() { _ = r.Close() }()
	buf := make([]byte, 256<<10)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			_, _ = s.log.Write(buf[:n])
			s.meter.feed(buf[:n], time.Now())
		}
		if err != nil {
			s.meter.flush(time.Now())
			s.log.close()
			return
		}
	}
}

// watch returns when no process of the job is left.
func (s *shim) watch(term <-chan os.Signal) {
	tick := time.NewTicker(shimTick)
	defer tick.Stop()
	empty := s.empty
	for {
		select {
		case e := <-s.exited:
			s.ended = &e
		case <-empty:
			empty = nil
			if s.gone() {
				return
			}
		case <-term:
			s.end(Stopped, "the shim was asked to terminate", s.spec.Limits.Grace)
		case now := <-tick.C:
			if empty == nil && s.gone() {
				return
			}
			s.check(now)
		}
	}
}

// gone says whether nothing is left after the last child was reaped; only where orphans escape can anything be.
func (s *shim) gone() bool {
	left, err := descendants(os.Getpid(), s.child)
	return err == nil && len(left) == 0
}

// check looks at everything that can end a running job, and drives the end of one that is ending.
func (s *shim) check(now time.Time) {
	s.follow()
	s.report(now)
	s.sessions(now)
	var stop stopFile
	if err := readJSON(filepath.Join(s.dir, stopName), &stop); err == nil {
		s.end(Stopped, stop.Why, stop.Grace)
	}
	if s.phase != Running {
		s.drive(now)
		return
	}
	limits := s.spec.Limits
	if s.ended != nil {
		if left, err := descendants(os.Getpid(), s.child); err == nil && len(left) > 0 {
			s.stragglers = len(left)
			s.terminate(limits.Grace)
		}
		return
	}
	_, grown, _ := s.meter.read()
	switch {
	case limits.Timeout > 0 && now.Sub(s.began) > limits.Timeout:
		s.end(TimedOut, fmt.Sprintf("ran longer than %s", limits.Timeout), limits.Grace)
	case limits.NoProgress > 0 && now.Sub(grown) > limits.NoProgress:
		s.end(Stalled, fmt.Sprintf("no progress for %s", limits.NoProgress), limits.Grace)
	case now.After(s.nextDisk):
		s.nextDisk = now.Add(diskEvery)
		if s.vanished() {
			// Whoever starts next does not know of the job, and would give its slots to another one.
			s.end(Stopped, "the job's directory was taken away", limits.Grace)
		} else if text := s.diskTrouble(); text != "" {
			s.end(DiskFull, text, limits.Grace)
		}
	}
}

// vanished says that somebody took the job's directory away.
func (s *shim) vanished() bool {
	_, err := os.Lstat(s.dir)
	return errors.Is(err, os.ErrNotExist)
}

// follow follows the wall clock. Where it is set back, the command's files are older than the time at which it was started,
// and where it is set forward, so is what was written before: what counts is the earliest start of all.
func (s *shim) follow() {
	if began := s.wall().Add(-time.Since(s.began)); began.Before(s.since) {
		s.since = began
	}
}

// sessions puts the command's session behind the agent's, and from time to time those that its descendants have begun, as trainers
// do for their workers.
func (s *shim) sessions(now time.Time) {
	if now.Before(s.nextSessions) || !sharesBySession() {
		return
	}
	again := sessionsEvery
	if below, err := descendants(os.Getpid(), s.child); err == nil && !stepBack(below) {
		again = sessionsAgain + rand.N(sessionsAgain) //nolint:gosec // jitter: other shims wait for the same turn
	}
	s.nextSessions = now.Add(again)
}

func (s *shim) diskTrouble() string {
	limits := s.spec.Limits
	if limits.MinFreeBytes > 0 {
		if free, err := disk.Free(s.dir); err == nil && free < limits.MinFreeBytes {
			return fmt.Sprintf("%d MiB free on the disk, %d MiB have to stay free", free>>20, limits.MinFreeBytes>>20)
		}
	}
	if limits.OutBytes > 0 {
		used, ok := usedBytes(s.dir)
		if !ok {
			return fmt.Sprintf("more than %d files", maxFiles)
		}
		if used > limits.OutBytes {
			return fmt.Sprintf("wrote %d MiB, %d MiB allowed", used>>20, limits.OutBytes>>20)
		}
	}
	return ""
}

// report writes progress.json when there is something new to say.
func (s *shim) report(now time.Time) {
	if now.Before(s.nextProgress) {
		return
	}
	s.nextProgress = now.Add(progressEvery)
	value, at, n := s.meter.read()
	p := Progress{Value: value, At: at, Phase: s.phase, OutputBytes: n}
	if p != s.lastProgress && writeJSON(filepath.Join(s.dir, progressName), p, false) == nil {
		s.lastProgress = p
	}
}
