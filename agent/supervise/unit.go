package supervise

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"runtime/pprof"
	"strings"
	"time"

	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/internal/id"
)

// unit is one daemon's books. All fields but the constant ones are under the supervisor's mutex.
type unit struct {
	s    *Supervisor
	spec kit.Spec
	stop context.CancelFunc // ends turn; set by Run
	done chan struct{}      // closed when turn has ended

	state   State
	since   time.Time
	blocked []string
	off     bool  // by an operator
	skip    error // New said that there is nothing to do here
	lease   Lease
	over    bool // the held epoch was refused: nothing to do until there is another

	cancel   context.CancelCauseFunc // of the attempt that runs
	daemon   kit.Daemon              // what runs; nil when nothing does
	progress time.Time
	deadline time.Duration
	lastErr  string
	gauges   map[string]float64

	failures  int         // in a row, for the delay
	recent    []time.Time // failures within the window
	restarts  int         // in all
	notBefore time.Time   // of the next attempt
	condemned bool        // FAILED until it has been healthy long enough
}

var (
	errStopped  = errors.New("stopped by an operator")
	errRestart  = errors.New("restarted by an operator")
	errSettings = errors.New("its settings have changed")
	errEnded    = errors.New("ended by itself")
)

func (u *unit) row() Row {
	held := u.spec.Scope == kit.ScopeNode || u.held()
	r := Row{Name: u.spec.Name, Category: u.spec.Category, Scope: u.spec.Scope, State: u.state, Held: held, Since: u.since,
		Restarts: u.restarts, DependsOn: u.spec.DependsOn, BlockedOn: u.blocked, LastProgress: u.progress, Deadline: u.deadline,
		LastError: u.lastErr, Critical: u.spec.Critical, Gauges: maps.Clone(u.gauges)}
	if u.spec.Scope == kit.ScopeCluster && held {
		r.Epoch = u.lease.Epoch
	}
	return r
}

func (u *unit) held() bool { return u.lease.Context != nil && u.lease.Context.Err() == nil }

func (u *unit) forget() {
	u.failures, u.recent, u.notBefore, u.condemned, u.skip = 0, nil, time.Time{}, false, nil
}

// set changes the state and says so. Called with mu held.
func (u *unit) set(st State, blocked ...string) {
	if u.state == st && strings.Join(u.blocked, "\n") == strings.Join(blocked, "\n") {
		return
	}
	if u.state != st {
		u.since = time.Now()
		u.s.log.Debug().Str("daemon", u.spec.Name).Str("state", string(st)).Strs("blocked_on", blocked).Msg("state")
	}
	u.state, u.blocked = st, blocked
	u.s.wake()
}

// turn is one daemon's life: wait until it may start, run it, take its end into account.
func (s *Supervisor) turn(ctx context.Context, u *unit) {
	for s.ready(ctx, u) {
		s.attempt(ctx, u)
	}
	s.mu.Lock()
	u.set(Stopped)
	s.mu.Unlock()
}

// ready blocks until u may start; false when ctx has ended. What it waits for is the daemon's state meanwhile.
func (s *Supervisor) ready(ctx context.Context, u *unit) bool {
	for {
		if ctx.Err() != nil {
			return false
		}
		s.mu.Lock()
		changed := s.changed
		wait := s.obstacle(u)
		if wait == 0 {
			u.set(Starting)
			s.mu.Unlock()
			return true
		}
		// set may have replaced it: what changed by ourselves is no news.
		changed = s.changed
		lapse := u.lease.Context
		s.mu.Unlock()
		var ended <-chan struct{}
		if lapse != nil && lapse.Err() == nil {
			ended = lapse.Done()
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-changed:
		case <-ended:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// never is longer than any process lives.
const never = 1 << 62

// obstacle says for how long u cannot start yet, 0 if it may, and sets the state that says why. Called with mu held.
func (s *Supervisor) obstacle(u *unit) time.Duration {
	switch {
	case u.off:
		u.set(Stopped, errStopped.Error())
		return never
	case u.skip != nil:
		u.set(Stopped, u.skip.Error())
		return never
	case u.spec.Scope == kit.ScopeCluster && !u.held():
		u.set(Pending, "assignment to this node")
		return never
	case u.over:
		u.set(Pending, "a newer assignment")
		return never
	}
	if wait := time.Until(u.notBefore); wait > 0 {
		st := Restarting
		if u.condemned {
			st = Failed
		}
		u.set(st, fmt.Sprintf("restart at %s", u.notBefore.UTC().Format(time.RFC3339)))
		return wait
	}
	var blocked []string
	wait := time.Duration(never)
	for _, d := range u.spec.DependsOn {
		dep, here := s.units[s.real(d)]
		switch {
		case here && dep.spec.Scope == kit.ScopeNode:
			if dep.state != Running {
				blocked = append(blocked, fmt.Sprintf("%s is %s here", d, dep.state))
			}
		case here && dep.state == Running:
		case s.cfg.RingWide != nil && s.cfg.RingWide(s.real(d)):
		default:
			blocked = append(blocked, d+" is not running in the ring")
			wait = s.fig.Poll
		}
	}
	if len(blocked) == 0 {
		return 0
	}
	u.set(Pending, blocked...)
	return wait
}

// attempt makes the daemon anew and runs it to its end.
func (s *Supervisor) attempt(ctx context.Context, u *unit) {
	s.mu.Lock()
	lease, epoch := context.WithoutCancel(ctx), id.Epoch(0)
	if u.spec.Scope == kit.ScopeCluster {
		lease, epoch = u.lease.Context, u.lease.Epoch
	}
	// The context of the run ends with the lease, whatever the supervisor is doing; all other ends go through cancel.
	run, cancel := context.WithCancelCause(context.WithValue(lease, leaseKey{}, lease))
	u.cancel, u.progress = cancel, time.Time{}
	s.mu.Unlock()
	defer cancel(nil)
	release := context.AfterFunc(ctx, func() { cancel(errShutdown) })
	defer release()

	d, err := s.open(run, u, epoch)
	done := make(chan error, 1)
	if err == nil {
		s.mu.Lock()
		u.daemon = d
		u.set(Running)
		s.mu.Unlock()
		started := time.Now()
		go func() {
			pprof.Do(run, pprof.Labels("daemon", u.spec.Name), func(run context.Context) { done <- kit.Guard(run, d.Run) })
		}()
		err = s.await(run, u, lease, done)
		s.healthy(u, time.Since(started))
	}
	s.settle(ctx, u, lease, run, err)
}

var errShutdown = errors.New("the agent stops")

// open makes the environment and the daemon.
func (s *Supervisor) open(run context.Context, u *unit, epoch id.Epoch) (d kit.Daemon, err error) {
	env, err := s.cfg.Env(u.spec, epoch)
	switch {
	case errors.Is(err, kit.ErrSkip):
		return nil, err
	case err != nil:
		return nil, fmt.Errorf("make environment: %w", err)
	}
	note := func(change func()) {
		s.mu.Lock()
		defer s.mu.Unlock()
		// An abandoned attempt must not keep its successor looking alive.
		if run.Err() == nil {
			change()
		}
	}
	env.Progress = func() { note(func() { u.progress = time.Now() }) }
	env.Trouble = func(err error) {
		note(func() {
			if u.lastErr = ""; err != nil {
				u.lastErr = err.Error()
			}
		})
	}
	env.Gauge = func(name string, v float64) {
		note(func() {
			if math.IsNaN(v) {
				delete(u.gauges, name)
			} else {
				u.gauges[name] = v
			}
		})
	}
	env.Daemons = s
	s.mu.Lock()
	u.deadline = u.spec.ProgressDeadline(env.Every)
	clear(u.gauges) // of a former run
	s.mu.Unlock()
	err = kit.Guard(run, func(context.Context) error {
		var err error
		d, err = u.spec.New(env)
		return err
	})
	return d, err
}

// await returns when Run has ended, or when it has not within the grace after its context did.
func (s *Supervisor) await(run context.Context, u *unit, lease context.Context, done <-chan error) error {
	select {
	case err := <-done:
		if err == nil && run.Err() == nil {
			err = errEnded
		}
		return err
	case <-run.Done():
	}
	grace := s.fig.Grace
	s.mu.Lock()
	u.set(Stopping)
	if lease.Err() != nil {
		grace = s.fig.Lapse
	}
	s.mu.Unlock()
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-done:
		return nil
	case <-timer.C:
		err := fmt.Errorf("abandoned: did not end within %v after %w", grace, context.Cause(run))
		s.log.Error().Err(err).Str("daemon", u.spec.Name).Msg("daemon abandoned")
		s.tell(u, Stopping, err.Error())
		return err
	}
}

func (s *Supervisor) tell(u *unit, st State, reason string) {
	if s.cfg.Tell != nil {
		s.cfg.Tell(u.spec.Name, st, reason)
	}
}

// healthy forgets the failures of a daemon that has run well for long enough.
func (s *Supervisor) healthy(u *unit, ran time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ran >= s.fig.Forget {
		u.failures, u.recent, u.condemned = 0, nil, false
	}
}

// settle takes the end of an attempt into account: an end that was asked for is none, everything else is a failure.
func (s *Supervisor) settle(ctx context.Context, u *unit, lease, run context.Context, err error) {
	cause := context.Cause(run)
	s.mu.Lock()
	u.cancel, u.daemon = nil, nil
	failed := false
	switch {
	case errors.Is(err, kit.ErrSkip):
		if !errors.Is(cause, errSettings) && !errors.Is(cause, errRestart) { // else the reason may have passed meanwhile
			u.skip = err
		}
	case errors.Is(err, kit.ErrStaleEpoch) && u.spec.Scope == kit.ScopeCluster:
		u.over = true
		u.lastErr = err.Error()
	case ctx.Err() != nil, lease.Err() != nil, errors.Is(cause, errStopped):
		if err != nil {
			u.lastErr = err.Error()
		}
	case errors.Is(cause, errSettings), errors.Is(cause, errRestart):
		if err != nil {
			u.lastErr = err.Error()
		}
		if errors.Is(cause, errRestart) {
			u.restarts++
		}
	default:
		if err == nil {
			err = cause // cancelled by the watchdog
		}
		failed = true
	}
	if !failed {
		s.mu.Unlock()
		return
	}
	newly := s.blame(u, err)
	st, reason, failures := u.state, u.lastErr, u.failures
	s.mu.Unlock()
	s.log.Warn().Err(err).Str("daemon", u.spec.Name).Int("failures", failures).Msg("daemon failed")
	if newly {
		s.tell(u, st, reason)
	}
}

// blame writes a failure down and sets the time of the next attempt; true when the daemon is FAILED by it. Called with mu
// held.
func (s *Supervisor) blame(u *unit, err error) (newly bool) {
	now := time.Now()
	u.lastErr = err.Error()
	u.failures++
	u.restarts++
	u.recent = append(u.recent, now)
	for len(u.recent) > 0 && now.Sub(u.recent[0]) > s.fig.Window {
		u.recent = u.recent[1:]
	}
	delay := min(s.fig.First<<min(u.failures-1, 20), s.fig.Slowest)
	was := u.condemned
	u.condemned = len(u.recent) > s.fig.Most
	if u.condemned {
		delay = s.fig.Slowest
	}
	delay += time.Duration((rand.Float64() - 0.5) * 0.2 * float64(delay))
	u.notBefore = now.Add(delay)
	if u.condemned {
		u.set(Failed, "too many restarts")
	} else {
		u.set(Restarting, u.lastErr)
	}
	return u.condemned && !was
}
