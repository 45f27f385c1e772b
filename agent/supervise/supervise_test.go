package supervise

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/internal/id"
)

// bench is a supervisor over faked daemons, with a record of what happened.
type bench struct {
	*Supervisor
	mu     sync.Mutex
	trace  []string
	told   []string
	off    map[string]bool
	ring   map[string]bool
	leases chan Lease
	stop   context.CancelFunc
	end    chan error
}

func (b *bench) note(format string, a ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.trace = append(b.trace, fmt.Sprintf(format, a...))
}

func (b *bench) seen() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.trace)
}

func (b *bench) Off(d string) (bool, error)      { return b.off[d], nil }
func (b *bench) SetOff(d string, off bool) error { b.off[d] = off; return nil }
func (b *bench) ringWide(d string) bool          { b.mu.Lock(); defer b.mu.Unlock(); return b.ring[d] }
func (b *bench) tell(d string, st State, _ string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.told = append(b.told, d+" "+string(st))
}

func (b *bench) reports() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.told)
}

func start(t *testing.T, specs ...kit.Spec) *bench {
	t.Helper()
	b := &bench{off: map[string]bool{}, ring: map[string]bool{}, leases: make(chan Lease), end: make(chan error, 1)}
	b.begin(t, specs...)
	return b
}

func (b *bench) begin(t *testing.T, specs ...kit.Spec) {
	t.Helper()
	s, err := New(Config{Specs: specs, RingWide: b.ringWide, Leases: b.leases, Switches: b, Tell: b.tell, Log: zerolog.Nop(),
		Env: func(kit.Spec, id.Epoch) (kit.Env, error) { return kit.Env{Now: time.Now}, nil }})
	if err != nil {
		t.Fatal(err)
	}
	b.Supervisor = s
	ctx, cancel := context.WithCancel(t.Context())
	b.stop = cancel
	go func() { b.end <- s.Run(ctx) }()
	synctest.Wait()
}

func (b *bench) finish(t *testing.T) {
	t.Helper()
	b.stop()
	if err := <-b.end; err != nil {
		t.Error(err)
	}
}

func (b *bench) want(t *testing.T, name string, st State) Row {
	t.Helper()
	synctest.Wait()
	for _, r := range b.Rows() {
		if r.Name == name {
			if r.State != st {
				t.Fatalf("%s is %s (%v, %s), want %s", name, r.State, r.BlockedOn, r.LastError, st)
			}
			return r
		}
	}
	t.Fatalf("no row of %s", name)
	return Row{}
}

// record is a list of moments that several goroutines add to.
type record struct {
	mu sync.Mutex
	at []time.Time
}

func (r *record) add() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.at = append(r.at, time.Now())
	return len(r.at)
}

func (r *record) all() []time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.at)
}

// node is a node-scope daemon that runs until its context ends.
func (b *bench) node(name string, deps ...string) kit.Spec {
	return kit.Spec{Name: name, Scope: kit.ScopeNode, DependsOn: deps, New: func(kit.Env) (kit.Daemon, error) {
		b.note("+%s", name)
		return kit.Run(func(ctx context.Context) error {
			<-ctx.Done()
			b.note("-%s", name)
			return nil
		}), nil
	}}
}

func TestOrderOfStartAndStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bench{off: map[string]bool{}, ring: map[string]bool{}, leases: make(chan Lease), end: make(chan error, 1)}
		b.begin(t, b.node("C", "B"), b.node("A"), b.node("B", "A"), kit.Spec{Name: "OLD", AliasOf: "B"})
		b.want(t, "C", Running)
		if r := b.want(t, "OLD", Running); r.AliasOf != "B" {
			t.Errorf("alias of %q", r.AliasOf)
		}
		b.finish(t)
		if got := strings.Join(b.seen(), " "); got != "+A +B +C -C -B -A" {
			t.Errorf("order %s", got)
		}
	})
}

func TestWaitsForDependenciesAndSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bench{off: map[string]bool{"A": true}, ring: map[string]bool{}, leases: make(chan Lease), end: make(chan error, 1)}
		far := b.node("FAR")
		far.Scope = kit.ScopeCluster
		b.begin(t, b.node("A"), b.node("B", "A"), b.node("D", "FAR"), far)
		if r := b.want(t, "B", Pending); !slices.Equal(r.BlockedOn, []string{"A is STOPPED here"}) {
			t.Errorf("blocked on %v", r.BlockedOn)
		}
		b.want(t, "D", Pending)
		if err := b.Start("A"); err != nil {
			t.Fatal(err)
		}
		b.want(t, "B", Running)
		b.mu.Lock()
		b.ring["FAR"] = true // RUNNING on another node
		b.mu.Unlock()
		time.Sleep(time.Second)
		b.want(t, "D", Running)
		b.finish(t)
	})
}

func TestRestartDelaysGrowAndEndInFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bench{off: map[string]bool{}, ring: map[string]bool{}, leases: make(chan Lease), end: make(chan error, 1)}
		var runs, made record
		bad := kit.Spec{Name: "BAD", Scope: kit.ScopeNode, New: func(kit.Env) (kit.Daemon, error) {
			made.add()
			return kit.Run(func(context.Context) error {
				if runs.add()%2 == 0 {
					panic("deliberate")
				}
				return errors.New("deliberate")
			}), nil
		}}
		b.begin(t, bad, b.node("SIBLING"))
		time.Sleep(3 * time.Minute)
		b.want(t, "BAD", Failed)
		want, at := []float64{5, 10, 20, 40, 80}, runs.all()
		for i, w := range want {
			if d := at[i+1].Sub(at[i]).Seconds(); d < 0.9*w || d > 1.1*w {
				t.Errorf("delay %d is %.1f s, want about %.0f", i, d, w)
			}
		}
		if len(at) != 6 || len(made.all()) != 6 {
			t.Errorf("%d attempts, %d made", len(at), len(made.all()))
		}
		if !slices.Equal(b.reports(), []string{"BAD FAILED"}) {
			t.Errorf("told %v", b.reports())
		}
		// FAILED is not the end: it is tried again at the slow pace.
		time.Sleep(6 * time.Minute)
		synctest.Wait()
		if len(runs.all()) < 7 {
			t.Error("never tried again")
		}
		if got := b.seen(); !slices.Equal(got, []string{"+SIBLING"}) {
			t.Errorf("siblings %v", got)
		}
		b.finish(t)
	})
}

func TestHealthIsRewarded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bench{off: map[string]bool{}, ring: map[string]bool{}, leases: make(chan Lease), end: make(chan error, 1)}
		var runs record
		b.begin(t, kit.Spec{Name: "FLAKY", Scope: kit.ScopeNode, New: func(kit.Env) (kit.Daemon, error) {
			return kit.Run(func(ctx context.Context) error {
				if runs.add() == 4 {
					time.Sleep(11 * time.Minute)
				}
				return errors.New("deliberate")
			}), nil
		}})
		time.Sleep(12 * time.Minute)
		synctest.Wait()
		at := runs.all()
		if len(at) < 5 {
			t.Fatalf("%d attempts", len(at))
		}
		if d := at[4].Sub(at[3]) - 11*time.Minute; d > 6*time.Second {
			t.Errorf("after ten minutes of health the delay is %v", d)
		}
		b.finish(t)
	})
}

func TestSkipAndOperator(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, kit.Spec{Name: "GPU", Scope: kit.ScopeNode, New: func(kit.Env) (kit.Daemon, error) {
			return nil, fmt.Errorf("no device: %w", kit.ErrSkip)
		}})
		if r := b.want(t, "GPU", Stopped); r.Restarts != 0 || !strings.Contains(r.BlockedOn[0], "no device") {
			t.Errorf("%+v", r)
		}
		b.finish(t)

		b.begin(t, b.node("A"))
		b.want(t, "A", Running)
		if err := b.Stop("A"); err != nil {
			t.Fatal(err)
		}
		b.want(t, "A", Stopped)
		b.finish(t)
		b.begin(t, b.node("A")) // the agent starts again
		time.Sleep(time.Hour)
		b.want(t, "A", Stopped)
		if err := b.Start("A"); err != nil {
			t.Fatal(err)
		}
		b.want(t, "A", Running)
		before := len(b.seen())
		if err := b.Restart("A"); err != nil {
			t.Fatal(err)
		}
		b.want(t, "A", Running)
		if got := b.seen()[before:]; !slices.Equal(got, []string{"-A", "+A"}) {
			t.Errorf("restart did %v", got)
		}
		if err := b.Stop("B"); !errors.Is(err, ErrUnknown) {
			t.Error(err)
		}
		b.finish(t)
	})
}

func TestSingletonLivesWithItsLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bench{off: map[string]bool{}, ring: map[string]bool{}, leases: make(chan Lease), end: make(chan error, 1)}
		one := b.node("ONE")
		one.Scope = kit.ScopeCluster
		b.begin(t, one)
		b.want(t, "ONE", Pending)
		for epoch := id.Epoch(7); epoch < 9; epoch++ {
			ctx, cancel := context.WithCancel(t.Context())
			b.leases <- Lease{Daemon: "ONE", Epoch: epoch, Context: ctx}
			if r := b.want(t, "ONE", Running); r.Epoch != epoch || !r.Held {
				t.Errorf("row %+v", r)
			}
			cancel()
			if r := b.want(t, "ONE", Pending); r.Held || r.Epoch != 0 {
				t.Errorf("row %+v", r)
			}
		}
		if err := b.Stop("ONE"); !errors.Is(err, ErrCluster) {
			t.Error(err)
		}
		if got := strings.Join(b.seen(), " "); got != "+ONE -ONE +ONE -ONE" {
			t.Error(got)
		}
		b.finish(t)
	})
}

// A singleton whose Run does not end with its lease is let go after two seconds; the lease of the next epoch starts it anew.
func TestSingletonThatDoesNotEndIsAbandoned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := make(chan struct{})
		var runs record
		b := start(t, kit.Spec{Name: "ONE", Scope: kit.ScopeCluster, New: func(kit.Env) (kit.Daemon, error) {
			return kit.Run(func(ctx context.Context) error {
				if runs.add() == 1 {
					<-hang // deaf to its context
					return nil
				}
				<-ctx.Done()
				return nil
			}), nil
		}})
		ctx, cancel := context.WithCancel(t.Context())
		b.leases <- Lease{"ONE", 1, ctx}
		b.want(t, "ONE", Running)
		cancel()
		b.want(t, "ONE", Stopping)
		time.Sleep(2 * time.Second)
		if r := b.want(t, "ONE", Pending); !strings.Contains(r.LastError, "abandoned") {
			t.Errorf("last error %q", r.LastError)
		}
		if !slices.Equal(b.reports(), []string{"ONE STOPPING"}) {
			t.Errorf("told %v", b.reports())
		}
		b.leases <- Lease{"ONE", 2, t.Context()}
		b.want(t, "ONE", Running)
		close(hang)
		b.finish(t)
	})
}

func TestStaleEpochWaitsForAnotherAssignment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var runs record
		b := start(t, kit.Spec{Name: "ONE", Scope: kit.ScopeCluster, New: func(kit.Env) (kit.Daemon, error) {
			return kit.Run(func(ctx context.Context) error {
				if runs.add() == 1 {
					return fmt.Errorf("step: %w", kit.ErrStaleEpoch)
				}
				<-ctx.Done()
				return nil
			}), nil
		}})
		b.leases <- Lease{"ONE", 1, t.Context()}
		time.Sleep(time.Hour)
		if r := b.want(t, "ONE", Pending); r.Restarts != 0 || len(runs.all()) != 1 {
			t.Errorf("%+v after %d runs", r, len(runs.all()))
		}
		b.leases <- Lease{"ONE", 2, t.Context()}
		b.want(t, "ONE", Running)
		b.finish(t)
	})
}

func TestWatchdogCancelCountsAsFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bench{off: map[string]bool{}, ring: map[string]bool{}, leases: make(chan Lease), end: make(chan error, 1)}
		b.begin(t, b.node("A"))
		b.want(t, "A", Running)
		if p := b.Running(); len(p) != 1 || p[0].Deadline != time.Minute {
			t.Errorf("%+v", p)
		}
		b.Cancel("A", "no progress")
		if r := b.want(t, "A", Restarting); !strings.Contains(r.LastError, "no progress") || r.Restarts != 1 {
			t.Errorf("%+v", r)
		}
		time.Sleep(6 * time.Second)
		b.want(t, "A", Running)
		b.finish(t)
	})
}

func TestShutdownNamesWhoOverran(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := make(chan struct{})
		b := &bench{off: map[string]bool{}, ring: map[string]bool{}, leases: make(chan Lease), end: make(chan error, 1)}
		deaf := kit.Spec{Name: "DEAF", Scope: kit.ScopeNode, DependsOn: []string{"A"}, New: func(kit.Env) (kit.Daemon, error) {
			return kit.Run(func(context.Context) error { <-hang; return nil }), nil
		}}
		b.begin(t, b.node("A"), deaf)
		b.want(t, "DEAF", Running)
		began := time.Now()
		b.stop()
		err := <-b.end
		if err == nil || !strings.Contains(err.Error(), "DEAF") || strings.Contains(err.Error(), "A,") {
			t.Errorf("error %v", err)
		}
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("took %v", took)
		}
		if !slices.Contains(b.seen(), "-A") {
			t.Error("A was not stopped")
		}
		close(hang)
	})
}

type drained struct {
	kit.Daemon
	n *int
}

func (d drained) Drain(context.Context) error { *d.n++; return nil }

func TestDrainReachesRunningDaemons(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		b := start(t, kit.Spec{Name: "SYNC", Scope: kit.ScopeNode, New: func(kit.Env) (kit.Daemon, error) {
			return drained{kit.Run(func(ctx context.Context) error { <-ctx.Done(); return nil }), &n}, nil
		}})
		b.want(t, "SYNC", Running)
		if err := b.Drain(t.Context()); err != nil || n != 1 {
			t.Errorf("drained %d: %v", n, err)
		}
		b.finish(t)
	})
}

func TestCycleIsRefused(t *testing.T) {
	b := &bench{}
	_, err := New(Config{Specs: []kit.Spec{b.node("A", "B"), b.node("B", "A")}, Log: zerolog.Nop()})
	if err == nil || !strings.Contains(err.Error(), "depend on each other") {
		t.Error(err)
	}
}
