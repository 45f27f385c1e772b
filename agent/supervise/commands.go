package supervise

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/internal/id"
)

// Row is one daemon's line in status.
type Row struct {
	Name         string
	Category     string
	Scope        kit.Scope
	State        State
	Epoch        id.Epoch // of the lease held here; 0 for node scope or when it is not held
	Held         bool     // a singleton that is assigned here, or any node-scope daemon
	Since        time.Time
	Restarts     int
	DependsOn    []string
	BlockedOn    []string
	LastProgress time.Time // zero: none yet
	Deadline     time.Duration
	LastError    string
	AliasOf      string
	Critical     bool
	Gauges       map[string]float64
}

// Rows is the state of all daemons, sorted by name.
func (s *Supervisor) Rows() []Row {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Row
	for _, u := range s.units {
		out = append(out, u.row())
	}
	for _, a := range s.aliases {
		if u, ok := s.units[a.AliasOf]; ok {
			r := u.row()
			r.Name, r.AliasOf, r.Category = a.Name, a.AliasOf, a.Category
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b Row) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// State is one daemon's state; ok is false for an unknown name.
func (s *Supervisor) State(name string) (State, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if u, ok := s.units[s.real(name)]; ok {
		return u.state, true
	}
	return "", false
}

// Changed is closed at the next change of any daemon's state.
func (s *Supervisor) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

func (s *Supervisor) find(name string) (*unit, error) {
	u, ok := s.units[s.real(name)]
	if !ok {
		return nil, fmt.Errorf("%s: %w", name, ErrUnknown)
	}
	if a, ok := s.aliases[name]; ok {
		s.log.Warn().Str("daemon", name).Str("instead", a.AliasOf).Msg("this name is deprecated")
	}
	return u, nil
}

// Stop switches a node-scope daemon off until Start, across restarts of the agent.
func (s *Supervisor) Stop(name string) error { return s.toggle(name, true) }

// Start switches it on again, and clears the history of its failures.
func (s *Supervisor) Start(name string) error { return s.toggle(name, false) }

func (s *Supervisor) toggle(name string, off bool) error {
	u, err := s.find(name)
	if err != nil {
		return err
	}
	if u.spec.Scope == kit.ScopeCluster {
		return fmt.Errorf("%s: %w", name, ErrCluster)
	}
	if s.cfg.Switches != nil {
		if err := s.cfg.Switches.SetOff(u.spec.Name, off); err != nil {
			return fmt.Errorf("keep switch of %s: %w", u.spec.Name, err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	u.off = off
	if !off {
		u.forget()
	} else if u.cancel != nil {
		u.cancel(errStopped)
	}
	s.wake()
	return nil
}

// Restart ends a daemon and starts it at once, as if it had never failed. A singleton restarts under the epoch it holds.
func (s *Supervisor) Restart(name string) error { return s.anew(name, errRestart) }

// Renew is Restart for settings that have changed. It is no restart in the daemon's books.
func (s *Supervisor) Renew(name string) error { return s.anew(name, errSettings) }

func (s *Supervisor) anew(name string, cause error) error {
	u, err := s.find(name)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	u.forget()
	if u.cancel != nil {
		u.cancel(cause)
	}
	s.wake()
	return nil
}

// Running and Cancel are the watchdog's view (kit.Daemons): it judges and cancels, the restart is the supervisor's own.

// Running lists the daemons that are RUNNING with their last progress.
func (s *Supervisor) Running() []kit.DaemonProgress {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []kit.DaemonProgress
	for _, u := range s.units {
		if u.state == Running {
			out = append(out, kit.DaemonProgress{Name: u.spec.Name, Since: u.since, Last: u.progress, Deadline: u.deadline})
		}
	}
	slices.SortFunc(out, func(a, b kit.DaemonProgress) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// Cancel ends a daemon's attempt, which counts as a failure with reason.
func (s *Supervisor) Cancel(name, reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if u, ok := s.units[s.real(name)]; ok && u.cancel != nil {
		u.cancel(fmt.Errorf("cancelled: %s", reason))
	}
}

// Offering is every daemon that runs here and offers T beside Run, by name.
func Offering[T any](s *Supervisor) map[string]T {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[string]T{}
	for _, u := range s.units {
		if d, ok := u.daemon.(T); ok {
			out[u.spec.Name] = d
		}
	}
	return out
}

// Drain has every running daemon that holds something push it out, in parallel, until all are done or ctx ends.
func (s *Supervisor) Drain(ctx context.Context) error {
	all := Offering[kit.Drainer](s)
	errs := make(chan error, len(all))
	for name, d := range all {
		go func() {
			if err := kit.Guard(ctx, d.Drain); err != nil {
				errs <- fmt.Errorf("%s: %w", name, err)
				return
			}
			errs <- nil
		}()
	}
	var out error
	for range all {
		select {
		case err := <-errs:
			out = errors.Join(out, err)
		case <-ctx.Done():
			return errors.Join(out, fmt.Errorf("drain: %w", ctx.Err()))
		}
	}
	return out
}
