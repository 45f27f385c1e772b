package proc

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// end begins to end the job for a reason. The first reason stays; a later, shorter grace counts.
func (s *shim) end(why Reason, detail string, grace time.Duration) {
	if s.why == "" && s.ended == nil {
		s.why, s.detail = why, detail
	}
	s.terminate(grace)
}

func (s *shim) terminate(grace time.Duration) {
	killAt := time.Now().Add(max(0, grace))
	if s.phase == Running {
		s.phase, s.killAt = Terminating, killAt
		s.signalAll(syscall.SIGTERM)
		s.signalAll(syscall.SIGCONT) // a stopped process would not see the TERM
		return
	}
	if s.phase == Terminating && killAt.Before(s.killAt) {
		s.killAt = killAt
	}
}

// drive goes from TERM to KILL, and kills again and again what is still there: a process may fork while it is counted.
func (s *shim) drive(now time.Time) {
	if now.Before(s.killAt) {
		return
	}
	s.phase = Killing
	if now.Sub(s.killAt) > unkillableTime {
		s.phase = Unkillable
	}
	s.signalAll(syscall.SIGKILL)
}

func (s *shim) signalAll(sig syscall.Signal) {
	left, err := descendants(os.Getpid(), s.child)
	if err != nil {
		return // asked again at the next tick
	}
	for _, p := range left {
		signalProcess(p, sig)
	}
}

// status is called when nothing of the job is left.
func (s *shim) status(oomBefore int64) Status {
	select {
	case <-s.captured:
	case <-time.After(time.Second): // a stranger was handed our pipe
	}
	if s.ended == nil {
		select {
		case e := <-s.exited:
			s.ended = &e
		default:
		}
	}
	s.follow()
	value, _, printed := s.meter.read()
	at := func(end time.Time) time.Time { return s.since.Add(end.Sub(s.began)) }
	st := Status{
		Reason: Exited, Started: s.since, Ended: at(time.Now()), ExitCode: -1, Progress: value,
		Stragglers: s.stragglers, OutputBytes: printed,
	}
	var ru syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_CHILDREN, &ru); err == nil {
		st.Usage = Usage{
			UserSeconds:   time.Duration(ru.Utime.Nano()).Seconds(),
			SystemSeconds: time.Duration(ru.Stime.Nano()).Seconds(),
			MaxRSSBytes:   maxRSS(ru.Maxrss),
		}
	}
	if e := s.ended; e != nil {
		st.Ended = at(e.at)
		if e.status.Signaled() {
			st.Signal = signalName(e.status.Signal())
			st.Reason, st.Detail = Signaled, "ended by "+st.Signal
			if e.status.Signal() == syscall.SIGKILL && oomKills() > oomBefore {
				st.Reason, st.Detail = OutOfMemory, "killed while the machine was out of memory"
			}
		} else {
			st.ExitCode = e.status.ExitStatus()
			st.Detail = fmt.Sprintf("exit code %d", st.ExitCode)
		}
	}
	if s.stragglers > 0 {
		st.Detail += fmt.Sprintf("; left %d processes behind, which were ended", s.stragglers)
	}
	if s.why != "" {
		st.Reason, st.Detail = s.why, s.detail
	}
	return st
}

// finish removes what nobody needs after the end.
func (s *shim) finish() {
	_ = RemoveAll(filepath.Join(s.dir, tmpName))
}
