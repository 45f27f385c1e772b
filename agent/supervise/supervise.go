package supervise

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/internal/id"
)

// State is where a daemon stands.
type State string

// The states. A daemon that waits for something is PENDING and says for what.
const (
	Pending    State = "PENDING"
	Starting   State = "STARTING"
	Running    State = "RUNNING"
	Stopping   State = "STOPPING"
	Stopped    State = "STOPPED"
	Failed     State = "FAILED"
	Restarting State = "RESTARTING"
)

// Figures are the supervisor's times; zero values mean the defaults.
type Figures struct {
	First    time.Duration // delay of the first restart, doubling, ±10 %; default 5 s
	Slowest  time.Duration // its cap, and the pace of what is FAILED; default 5 min
	Forget   time.Duration // of health, after which failures are forgotten; default 10 min
	Window   time.Duration // in which more than Most restarts mean FAILED; default 1 h
	Most     int           // default 5
	Lapse    time.Duration // that a singleton gets to end after its lease; default and at most 2 s
	Grace    time.Duration // that a daemon gets to end when it alone is stopped; default 10 s
	Shutdown time.Duration // for all of them together; default 10 s
	Poll     time.Duration // how often RingWide is asked while somebody waits for it; default 500 ms
}

func (f Figures) withDefaults() Figures {
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	def(&f.First, 5*time.Second)
	def(&f.Slowest, 5*time.Minute)
	def(&f.Forget, 10*time.Minute)
	def(&f.Window, time.Hour)
	def(&f.Lapse, 2*time.Second)
	f.Lapse = min(f.Lapse, 2*time.Second)
	def(&f.Grace, 10*time.Second)
	def(&f.Shutdown, 10*time.Second)
	def(&f.Poll, 500*time.Millisecond)
	if f.Most <= 0 {
		f.Most = 5
	}
	return f
}

// Lease says that this node holds a singleton under an epoch until Context ends. The same epoch may come again with a new
// context: the lease had lapsed and was renewed before anybody else got it.
type Lease struct {
	Daemon  string
	Epoch   id.Epoch
	Context context.Context //nolint:containedctx // the lease's life is what it says
}

// Switches keeps what an operator has stopped, across restarts.
type Switches interface {
	Off(daemon string) (bool, error)
	SetOff(daemon string, off bool) error
}

// Config is what a Supervisor is made of.
type Config struct {
	// Specs are the daemons of this node's profile that may run here, aliases and singletons included.
	Specs []kit.Spec
	// Env makes the environment of one attempt; epoch is 0 for node scope. The supervisor itself fills in Progress, Trouble,
	// Gauge and Daemons. ErrSkip says that there is nothing to do now, until Renew.
	Env func(spec kit.Spec, epoch id.Epoch) (kit.Env, error)
	// RingWide says whether a cluster-scope daemon is RUNNING anywhere in the ring.
	RingWide func(daemon string) bool
	// Leases is the stream of held leases; it may be nil, and is closed by its owner or never.
	Leases   <-chan Lease
	Switches Switches
	// Tell is called, never under a lock, when a daemon has FAILED, was abandoned, or recovered from it.
	Tell    func(daemon string, state State, reason string)
	Figures Figures
	Log     zerolog.Logger
}

// Supervisor runs the daemons of one node.
type Supervisor struct {
	cfg     Config
	fig     Figures
	log     zerolog.Logger
	units   map[string]*unit
	aliases map[string]kit.Spec
	levels  [][]*unit // by dependency: a level depends on earlier ones only

	mu      sync.Mutex
	changed chan struct{} // closed and replaced at every change
}

// Errors of commands.
var (
	ErrUnknown = errors.New("unknown daemon")
	ErrCluster = errors.New("a singleton is switched in the whole ring, not on a node")
)

// New checks the specs and returns a Supervisor that Run starts.
func New(cfg Config) (*Supervisor, error) {
	s := &Supervisor{cfg: cfg, fig: cfg.Figures.withDefaults(), log: cfg.Log, units: map[string]*unit{}, aliases: map[string]kit.Spec{},
		changed: make(chan struct{})}
	for _, spec := range cfg.Specs {
		if _, twice := s.units[spec.Name]; twice || spec.Name == "" {
			return nil, fmt.Errorf("daemon %q is listed twice", spec.Name)
		}
		if spec.AliasOf != "" {
			s.aliases[spec.Name] = spec
			continue
		}
		u := &unit{s: s, spec: spec, state: Pending, since: time.Now(), gauges: map[string]float64{}}
		if cfg.Switches != nil && spec.Scope == kit.ScopeNode {
			off, err := cfg.Switches.Off(spec.Name)
			if err != nil {
				return nil, fmt.Errorf("read switch of %s: %w", spec.Name, err)
			}
			u.off = off
		}
		s.units[spec.Name] = u
	}
	var err error
	s.levels, err = s.order()
	return s, err
}

// order sorts the units into levels by their dependencies on this node.
func (s *Supervisor) order() ([][]*unit, error) {
	level := map[string]int{}
	var visit func(name string, path []string) (int, error)
	visit = func(name string, path []string) (int, error) {
		if slices.Contains(path, name) {
			return 0, fmt.Errorf("daemons depend on each other: %v", append(path, name))
		}
		u, ok := s.units[s.real(name)]
		if !ok {
			return -1, nil
		}
		if l, ok := level[name]; ok {
			return l, nil
		}
		most := 0
		for _, d := range u.spec.DependsOn {
			l, err := visit(s.real(d), append(path, name))
			if err != nil {
				return 0, err
			}
			most = max(most, l+1)
		}
		level[name] = most
		return most, nil
	}
	var out [][]*unit
	for name, u := range s.units {
		l, err := visit(name, nil)
		if err != nil {
			return nil, err
		}
		for len(out) <= l {
			out = append(out, nil)
		}
		out[l] = append(out[l], u)
	}
	return out, nil
}

func (s *Supervisor) real(name string) string {
	if a, ok := s.aliases[name]; ok {
		return a.AliasOf
	}
	return name
}

// Run supervises until ctx ends, then stops everything in reverse order of dependency, each level in parallel, within
// Figures.Shutdown. The error names the daemons that did not end in time.
func (s *Supervisor) Run(ctx context.Context) error {
	// Daemons do not end with ctx but by level, so that nobody loses what it depends on while it still runs.
	base := context.WithoutCancel(ctx)
	var group sync.WaitGroup
	for _, level := range s.levels {
		for _, u := range level {
			var run context.Context
			run, u.stop = context.WithCancel(base)
			u.done = make(chan struct{})
			group.Go(func() {
				defer close(u.done)
				s.turn(run, u)
			})
		}
	}
	leases, end := context.WithCancel(base)
	group.Go(func() { s.follow(leases) })
	<-ctx.Done()
	end()
	err := s.shutdown()
	if err == nil {
		group.Wait()
	}
	return err
}

func (s *Supervisor) shutdown() error {
	deadline := time.Now().Add(s.fig.Shutdown)
	var late []string
	for i := len(s.levels) - 1; i >= 0; i-- {
		for _, u := range s.levels[i] {
			u.stop()
		}
		// What is left is shared among the levels that are still to come, so that a slow one takes nothing from the order.
		share := time.NewTimer(time.Until(deadline) / time.Duration(i+1))
		for _, u := range s.levels[i] {
			select {
			case <-u.done:
				continue
			default:
			}
			select {
			case <-u.done:
			case <-share.C:
				share.Reset(0)
				late = append(late, u.spec.Name)
			}
		}
		share.Stop()
	}
	if len(late) > 0 {
		slices.Sort(late)
		return fmt.Errorf("daemons did not stop in time: %v", late)
	}
	return nil
}

// follow hands held leases to their daemons.
func (s *Supervisor) follow(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case l, ok := <-s.cfg.Leases:
			if !ok {
				return
			}
			s.mu.Lock()
			u := s.units[s.real(l.Daemon)]
			if u != nil && u.spec.Scope == kit.ScopeCluster {
				if u.lease.Epoch != l.Epoch {
					// Another assignment is a new beginning: the failures of the old one were told to the coordinator.
					u.over = false
				}
				u.lease = l
				s.wake()
			}
			s.mu.Unlock()
			if u == nil {
				s.log.Warn().Str("daemon", l.Daemon).Msg("lease of an unknown daemon")
			}
		}
	}
}

// wake tells everybody who waits that something has changed. Called with mu held.
func (s *Supervisor) wake() {
	close(s.changed)
	s.changed = make(chan struct{})
}
