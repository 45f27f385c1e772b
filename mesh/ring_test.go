package mesh_test

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/mesh"
	"github.com/ringagent/ringagent/mesh/meshtest"
)

// state stands for the replicated state: one for all nodes, always up to date.
type state struct {
	mu     sync.Mutex
	roster map[id.Node]mesh.Entry
	tokens map[string]*tokenState
	calls  int
}

type tokenState struct {
	hash    id.Digest
	class   id.Class
	uses    int
	expires time.Time
	revoked bool
	spent   map[id.Digest]mesh.EnrolGrant
}

func newState() *state {
	return &state{roster: make(map[id.Node]mesh.Entry), tokens: make(map[string]*tokenState)}
}

func (s *state) Lookup(n id.Node) (mesh.Entry, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.roster[n]
	return e, ok
}

func (s *state) Nodes() []id.Node {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []id.Node
	for n, e := range s.roster {
		if !e.Revoked {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out
}

func (s *state) Loaded() bool { return true }

func (s *state) set(n id.Node, e mesh.Entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.roster[n] = e
}

func (s *state) revoke(n id.Node) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.roster[n]
	e.Revoked = true
	s.roster[n] = e
}

func (s *state) token(m *mesh.Mesh, class id.Class, uses int, ttl time.Duration) mesh.Token {
	t := m.NewToken()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tokens[t.ID] = &tokenState{
		hash: t.SecretHash(), class: class, uses: uses, expires: time.Now().Add(ttl),
		spent: make(map[id.Digest]mesh.EnrolGrant),
	}
	return t
}

// Enrol implements mesh.Enroller as the replicated state will.
func (s *state) Enrol(_ context.Context, r mesh.EnrolRequest) (mesh.EnrolGrant, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	t := s.tokens[r.TokenID]
	if t == nil || t.hash != r.SecretHash {
		return mesh.EnrolGrant{}, mesh.Errorf(mesh.CodeTokenWrong, "the token is not one of this ring's")
	}
	if grant, ok := t.spent[r.Key]; ok {
		return grant, nil
	}
	switch {
	case t.revoked:
		return mesh.EnrolGrant{}, mesh.Errorf(mesh.CodeTokenRevoked, "the token has been revoked")
	case time.Now().After(t.expires):
		return mesh.EnrolGrant{}, mesh.Errorf(mesh.CodeTokenExpired, "the token has expired")
	case len(t.spent) >= t.uses:
		return mesh.EnrolGrant{}, mesh.Errorf(mesh.CodeTokenUsed, "the token has been used")
	case r.Class != "" && r.Class != t.class:
		return mesh.EnrolGrant{}, mesh.Errorf(mesh.CodeTokenClass, "the token is for %s nodes", t.class)
	}
	for _, e := range s.roster {
		if e.Name == r.Name && !e.Revoked {
			return mesh.EnrolGrant{}, mesh.Errorf(mesh.CodeNameTaken, "the name %s is taken", r.Name)
		}
	}
	grant := mesh.EnrolGrant{Node: r.Node, Class: t.class, Name: r.Name}
	t.spent[r.Key] = grant
	s.roster[r.Node] = mesh.Entry{Key: r.Key, Class: t.class, Name: r.Name, Addresses: r.Addresses}
	return grant, nil
}

// ring is a whole ring of meshes in one process.
type ring struct {
	t     testing.TB
	net   *meshtest.Network // nil: TCP on loopback
	state *state
	life  time.Duration
	nodes []*node
	tweak func(*mesh.Config)
}

type node struct {
	ring   *ring
	name   string
	dir    string
	addr   string
	host   *meshtest.Host
	id     id.Node
	boot   id.Boot
	mesh   *mesh.Mesh
	cancel context.CancelFunc
	done   chan error

	listen []string // protocols of which heard is told who connects
	heard  chan string
	blind  bool // its copy of the roster has no revocations

	ahead atomic.Int64 // nanoseconds by which its wall clock is wrong

	mu      sync.Mutex
	refused []*mesh.Error
}

func newRing(t testing.TB, network *meshtest.Network) *ring {
	t.Helper()
	return &ring{t: t, net: network, state: newState(), tweak: func(*mesh.Config) {}}
}

// place makes an empty machine.
func (r *ring) place(name string) *node {
	r.t.Helper()
	n := &node{ring: r, name: name, dir: r.t.TempDir()}
	if r.net == nil {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		must(r.t, err)
		n.addr = l.Addr().String()
		must(r.t, l.Close())
	} else {
		n.host = r.net.Host(fmt.Sprintf("10.0.0.%d", len(r.nodes)+1))
		n.addr = n.host.IP() + ":8770"
	}
	r.nodes = append(r.nodes, n)
	return n
}

// found makes the ring's first node and starts it.
func (r *ring) found() *node {
	r.t.Helper()
	n := r.place("n1")
	f, err := mesh.InitRing(mesh.InitOptions{DataDir: n.dir, RingName: "test", NodeName: n.name, Life: r.life})
	must(r.t, err)
	n.id = f.Node
	f.Entry.Addresses = []string{n.addr}
	r.state.set(f.Node, f.Entry)
	n.start()
	return n
}

// join enrols a new machine through the first node and starts it.
func (r *ring) join(class id.Class) *node {
	r.t.Helper()
	n := r.place(fmt.Sprintf("n%d", len(r.nodes)+1))
	n.enrol(r.state.token(r.nodes[0].mesh, class, 1, time.Hour))
	n.start()
	return n
}

func (n *node) network() mesh.Network {
	if n.host == nil {
		return nil
	}
	return n.host
}

func (n *node) tryEnrol(token mesh.Token) (mesh.Enrolled, error) {
	return mesh.Enrol(n.ring.t.Context(), mesh.EnrolOptions{
		DataDir: n.dir, Token: token, Seeds: []string{n.ring.nodes[0].addr}, Name: n.name, Advertise: []string{n.addr},
		Network: n.network(), Boot: id.NewBoot(),
	})
}

func (n *node) enrol(token mesh.Token) {
	n.ring.t.Helper()
	e, err := n.tryEnrol(token)
	must(n.ring.t, err)
	n.id = e.Node
}

func (n *node) start() {
	n.ring.t.Helper()
	must(n.ring.t, n.tryStart())
}

func (n *node) tryStart() error {
	n.boot = id.NewBoot()
	cfg := mesh.Config{
		DataDir: n.dir, Listen: n.addr, Advertise: []string{n.addr}, Boot: n.boot, Life: n.ring.life,
		Roster: n.ring.state, Enroller: n.ring.state, Network: n.network(), Log: logger(n.ring.t, n.name), Now: n.clock,
		OnRefused: func(_ id.Node, e *mesh.Error) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.refused = append(n.refused, e)
		},
	}
	if n.blind {
		cfg.Roster = trusting{n.ring.state}
	}
	n.ring.tweak(&cfg)
	m, err := mesh.Open(context.Background(), cfg)
	if err != nil {
		return err
	}
	n.mesh = m
	register(m)
	for _, protocol := range n.listen {
		go n.accept(m.Listener(protocol), protocol)
	}
	ctx, cancel := context.WithCancel(context.Background())
	n.cancel, n.done = cancel, make(chan error, 1)
	done := n.done
	go func() { done <- m.Run(ctx) }()
	return nil
}

// clock is the machine's wall clock, which may be wrong and can be set.
func (n *node) clock() time.Time { return time.Now().Add(time.Duration(n.ahead.Load())) }

func (n *node) set(ahead time.Duration) { n.ahead.Store(int64(ahead)) }

func (n *node) accept(l net.Listener, protocol string) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		p, _ := mesh.PeerOf(c)
		n.heard <- fmt.Sprintf("%s %s %s", protocol, p.Node, p.Class)
		_ = c.Close()
	}
}

// stop ends the process: connections close, nobody is told that it left.
func (n *node) stop() {
	n.ring.t.Helper()
	if n.cancel == nil {
		return
	}
	n.cancel()
	if err := <-n.done; err != nil {
		n.ring.t.Errorf("run %s: %v", n.name, err)
	}
	n.cancel = nil
}

// stop ends all nodes, and lets what memberlist leaves behind (probes that wait for their time to pass) end too.
func (r *ring) stop() {
	for _, n := range r.nodes {
		n.stop()
	}
	if r.net != nil {
		pass(time.Minute)
	}
}

// sees waits until n's view of other has one of the statuses.
func (n *node) sees(other *node, within time.Duration, want ...mesh.Status) {
	n.ring.t.Helper()
	eventually(n.ring.t, within, func() error {
		if got := n.status(other); !slices.Contains(want, got) {
			return fmt.Errorf("%s sees %s as %q, want %v", n.name, other.name, got, want)
		}
		return nil
	})
}

func (n *node) status(other *node) mesh.Status {
	for _, m := range n.mesh.Members() {
		if m.ID == other.id {
			return m.Status
		}
	}
	return ""
}

// whole waits until all of nodes see each other alive.
func (r *ring) whole(within time.Duration, nodes ...*node) {
	r.t.Helper()
	if nodes == nil {
		nodes = r.nodes
	}
	until := time.Now().Add(within)
	for _, a := range nodes {
		for _, b := range nodes {
			a.sees(b, time.Until(until), mesh.Alive)
		}
	}
}

func (n *node) didRefuse(code mesh.Code) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.ContainsFunc(n.refused, func(e *mesh.Error) bool { return e.Code == code })
}

// eventually polls until f holds, on fake time inside a synctest bubble.
func eventually(t testing.TB, within time.Duration, f func() error) {
	t.Helper()
	late := time.After(within)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-late:
			t.Fatalf("not within %s: %v", within, err)
		case <-tick.C:
		}
	}
}

// pass lets time go by.
func pass(d time.Duration) { <-time.After(d) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func logger(t testing.TB, name string) zerolog.Logger {
	if !testing.Verbose() {
		return zerolog.Nop()
	}
	return zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.InfoLevel).With().Timestamp().Str("node", name).Logger()
}
