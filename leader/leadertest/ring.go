package leadertest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"encoding/json"

	"github.com/rs/zerolog"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/leader"
	"github.com/ringagent/ringagent/leader/state"
)

// Options says what ring to make.
type Options struct {
	Core, Edge int
	Voters     int // of the settings; default 5
	Timing     ring.Timing
	Log        zerolog.Logger
	Singletons []leader.Singleton
	// Config may change a node's configuration before each of its starts.
	Config func(m *Member, c *leader.Config)
	// BeforeRun may hold a node back that is open but does not run yet.
	BeforeRun func(m *Member)
}

// Ring is a running ring.
type Ring struct {
	tb      testing.TB
	opt     Options
	Net     *Net
	Members []*Member
}

// Member is one machine; it keeps its identity and its disk over restarts.
type Member struct {
	ID    id.Node
	Name  string
	Class id.Class
	Dir   string
	Clock *Clock

	mu     sync.Mutex
	Node   *leader.Node // of the present start
	Boot   id.Boot
	cancel context.CancelFunc
	done   chan struct{}
	err    error
}

const secret = "leadertest"

// New makes a ring whose first node coordinates and in whose roster all nodes are. It must be closed before the bubble ends.
func New(tb testing.TB, o Options) *Ring {
	tb.Helper()
	if o.Voters == 0 {
		o.Voters = 5
	}
	if o.Timing == "" {
		o.Timing = ring.TimingDev
	}
	r := &Ring{tb: tb, opt: o, Net: NewNet()}
	for i := range o.Core + o.Edge {
		m := &Member{ID: id.Node(fmt.Sprintf("%016x", i+1)), Name: fmt.Sprintf("n%d", i+1), Class: id.Core, Dir: tb.TempDir(), Clock: &Clock{}}
		if i >= o.Core {
			m.Class = id.Edge
		}
		r.Members = append(r.Members, m)
	}
	first := r.Members[0]
	r.start(first, true)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	settings := ring.Settings{Timing: o.Timing, Voters: o.Voters}
	r.must(first.Node.Propose(ctx, state.Command{Kind: state.KindSettings, Body: state.PutSettings{Settings: settings}}))
	for _, c := range []id.Class{id.Core, id.Edge} {
		r.must(first.Node.Propose(ctx, state.Command{Kind: state.KindEnrol, Body: state.Enrol{
			Class: id.Core, Member: ring.Member{ID: first.ID, Name: first.Name, KeyHash: "key-" + first.Name}}}))
		tok := ring.Token{ID: string(c), SecretHash: secret, Class: c, Uses: 1000, Expires: time.Now().Add(24 * time.Hour)}
		r.must(first.Node.Propose(ctx, state.Command{Kind: state.KindToken, Body: state.PutToken{Token: tok}}))
	}
	for _, m := range r.Members[1:] {
		r.must(first.Node.Propose(ctx, state.Command{Kind: state.KindEnrol, Body: state.Enrol{
			TokenID: string(m.Class), SecretHash: secret, Class: m.Class,
			Member: ring.Member{ID: m.ID, Name: m.Name, KeyHash: "key-" + m.Name}}}))
		r.start(m, false)
	}
	return r
}

func (r *Ring) must(_ state.Result, err error) {
	r.tb.Helper()
	if err != nil {
		r.tb.Fatal(err)
	}
}

// Start starts a member that is down, under a new boot id.
func (r *Ring) Start(m *Member) { r.start(m, false) }

func (r *Ring) start(m *Member, bootstrap bool) {
	r.tb.Helper()
	boot := id.NewBoot()
	r.Net.up(m.ID)
	s, err := r.Net.stop(m.ID)
	if err != nil {
		r.tb.Fatal(err)
	}
	p := port{r.Net, m.ID, m.Class, s}
	c := leader.Config{
		Self: leader.Self{Node: m.ID, Boot: boot, Class: m.Class}, Dir: m.Dir, Timing: r.opt.Timing,
		Log: r.opt.Log.With().Str("node", m.Name).Logger(), Streams: p, Caller: caller{p}, Clock: m.Clock,
	}
	c.Ports.Seeds = r.cores
	c.Ports.Singletons = func() []leader.Singleton { return r.opt.Singletons }
	c.Ports.Introduce = func(ctx context.Context) {
		// Refused or unheard: the next renewal asks again.
		_, _ = m.now().Propose(ctx, state.Command{Kind: state.KindReport, Body: state.Report{
			Member: ring.Member{ID: m.ID, Name: m.Name, Boot: boot, Commands: 1}}})
	}
	if r.opt.Config != nil {
		r.opt.Config(m, &c)
	}
	open := leader.Open
	if bootstrap {
		open = leader.Bootstrap
	}
	n, err := open(c)
	if err != nil {
		r.tb.Fatalf("start %s: %v", m.Name, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	m.mu.Lock()
	m.Node, m.Boot, m.cancel, m.done, m.err = n, boot, cancel, make(chan struct{}), nil
	done := m.done
	m.mu.Unlock()
	r.Net.serve(m.ID, n.Handlers(), func() uint64 { return n.View().Generation() })
	go func() {
		if r.opt.BeforeRun != nil {
			r.opt.BeforeRun(m)
		}
		err := n.Run(ctx)
		m.mu.Lock()
		m.err = err
		m.mu.Unlock()
		close(done)
	}()
}

func (m *Member) now() *leader.Node {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.Node
}

// Err is how the member's Run ended, or nil while it runs.
func (m *Member) Err() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err
}

// Stop ends a member in order.
func (r *Ring) Stop(m *Member) {
	m.mu.Lock()
	cancel, done := m.cancel, m.done
	m.mu.Unlock()
	if cancel == nil {
		return
	}
	cancel()
	<-done
	r.Net.down(m.ID)
}

// Kill ends a member as a power cut would: its network is gone before it can say anything.
func (r *Ring) Kill(m *Member) {
	m.mu.Lock()
	n, cancel, done := m.Node, m.cancel, m.done
	m.mu.Unlock()
	if cancel == nil {
		return
	}
	r.Net.down(m.ID)
	_ = n.Close()
	cancel()
	<-done
}

// Close stops every member and lets a fake minute pass, in which the library's last timers run out: a bubble ends only when
// all its goroutines have.
func (r *Ring) Close() {
	r.Stopped()
	time.Sleep(time.Minute)
}

// Stopped stops every member; it is Close for a ring outside of a bubble.
func (r *Ring) Stopped() {
	r.Net.Heal()
	var wg sync.WaitGroup
	for _, m := range r.Members {
		wg.Go(func() { r.Kill(m) })
	}
	wg.Wait()
}

func (r *Ring) cores() []id.Node {
	var out []id.Node
	for _, m := range r.Members {
		if m.Class == id.Core {
			out = append(out, m.ID)
		}
	}
	return out
}

// IDs are the node ids of all members.
func (r *Ring) IDs() []id.Node {
	var out []id.Node
	for _, m := range r.Members {
		out = append(out, m.ID)
	}
	return out
}

// Member is the member with a node id.
func (r *Ring) Member(n id.Node) *Member {
	for _, m := range r.Members {
		if m.ID == n {
			return m
		}
	}
	return nil
}

// Coordinator is the member that coordinates, or nil: the one with the newest term.
func (r *Ring) Coordinator(but ...*Member) *Member {
	var best *Member
	var term uint64
	for _, m := range r.Members {
		skip := false
		for _, b := range but {
			skip = skip || b == m
		}
		n := m.now()
		if skip || n == nil {
			continue
		}
		if s := n.Stats(); n.Coordinates() && s.Term >= term {
			best, term = m, s.Term
		}
	}
	return best
}

// Wait polls until ok, for at most limit of fake time, and fails the test with what was wanted otherwise.
func (r *Ring) Wait(limit time.Duration, what string, ok func() bool) time.Duration {
	r.tb.Helper()
	began := time.Now()
	for !ok() {
		if time.Since(began) > limit {
			r.tb.Fatalf("not within %s: %s", limit, what)
		}
		time.Sleep(20 * time.Millisecond)
	}
	return time.Since(began)
}

// caller adds the JSON form to a port's calls.
type caller struct{ port }

func (c caller) Call(ctx context.Context, n id.Node, method string, in, out any) error {
	b, err := json.Marshal(in)
	if err != nil {
		return err
	}
	if b, err = c.CallRaw(ctx, n, method, b); err != nil || out == nil {
		return err
	}
	return json.Unmarshal(b, out)
}

// ErrBroken is the error of broken parts.
var ErrBroken = errors.New("broken on purpose")
