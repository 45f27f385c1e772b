package gossip

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/rs/zerolog"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/pace"
)

// Profile chooses the timing.
type Profile string

// The profiles. LAN also serves rings on one machine: memberlist's own profile for those converges badly.
const (
	LAN Profile = "lan"
	WAN Profile = "wan"
)

// timing is what a profile means beyond memberlist's own figures.
type timing struct {
	silence     time.Duration // see transport
	retry       time.Duration // first pause before a known peer is called again
	retryMax    time.Duration
	retryAlone  time.Duration // the longest pause while nobody else is there
	afterJoin   time.Duration // from a join to the exchange that fills what gossip missed
	betweenSync time.Duration
}

func (p Profile) timing() timing {
	if p == WAN {
		return timing{
			silence: 20 * time.Second, retry: 5 * time.Second, retryMax: 2 * time.Minute, retryAlone: 15 * time.Second,
			afterJoin: 2 * time.Second, betweenSync: 10 * time.Second,
		}
	}
	return timing{
		silence: 6 * time.Second, retry: time.Second, retryMax: 30 * time.Second, retryAlone: 5 * time.Second,
		afterJoin: time.Second, betweenSync: 5 * time.Second,
	}
}

// Roster says who may be a member. It must return at once.
type Roster interface {
	// Admits gives the reason why a node of that class is not believed to be in the ring; nil if it is.
	Admits(node id.Node, class id.Class) error
}

// Config is what Gossip needs; all fields are required.
type Config struct {
	Self    id.Node
	Meta    Meta
	Profile Profile
	Dial    Dial
	Roster  Roster
	// Known lists the nodes that belong together, by roster and by memory: they are called for ever.
	Known func() []id.Node
	// Double is told when others keep saying that another boot uses this node's identity, at that address. Anybody in the
	// ring can say so: it proves nothing. It must not block.
	Double func(boot id.Boot, address string)
	Log    zerolog.Logger
}

// Gossip is this node's view of who is there.
type Gossip struct {
	cfg       Config
	timing    timing
	table     *table
	delegate  *delegate
	transport *transport
	list      *memberlist.Memberlist
	group     sync.WaitGroup
	meta      chan struct{} // the node's facts have changed

	mu      sync.Mutex
	left    bool
	retries map[id.Node]*retry

	ending sync.Mutex // held while this node leaves, and while gossip ends
	ended  bool
}

type retry struct {
	ended   time.Time     // the last call
	pause   time.Duration // before the next, without jitter
	jitter  float64
	running bool
}

// New starts gossip with this node as its only member. Run must be called; it stops gossip in the end.
func New(cfg Config) (*Gossip, error) {
	meta, err := cfg.Meta.Encode()
	if err != nil {
		return nil, err
	}
	if constantIP(cfg.Self) == nil {
		return nil, fmt.Errorf("start gossip: %q is no node id", cfg.Self)
	}
	g := &Gossip{
		cfg: cfg, timing: cfg.Profile.timing(), table: newTable(),
		meta: make(chan struct{}, 1), retries: make(map[id.Node]*retry),
	}
	g.transport = newTransport(cfg.Self, cfg.Dial, g.timing.silence)
	g.delegate = &delegate{
		self: cfg.Self, boot: cfg.Meta.Boot, roster: cfg.Roster, table: g.table, meta: meta, double: cfg.Double,
	}
	conf := memberlist.DefaultLANConfig()
	if cfg.Profile == WAN {
		conf = memberlist.DefaultWANConfig()
	} else {
		// Half as often to twice as many: news spreads about as fast, and a node at rest wakes up less.
		conf.GossipInterval, conf.GossipNodes = 400*time.Millisecond, 6
	}
	conf.Name = string(cfg.Self)
	conf.Transport = g.transport
	conf.BindPort, conf.AdvertisePort = constantPort, constantPort
	conf.RequireNodeNames = true
	conf.EnableCompression = false
	conf.Delegate, conf.Events, conf.Alive, conf.Ping = g.delegate, g.delegate, g.delegate, g.delegate
	conf.Logger = newLogger(cfg.Log, g.table.doubt)
	g.list, err = memberlist.Create(conf)
	if err != nil {
		return nil, fmt.Errorf("start gossip: %w", err)
	}
	return g, nil
}

// Receive serves a gossip connection that a peer opened, and owns it. It returns when the connection is done with.
func (g *Gossip) Receive(c net.Conn, peer id.Node) { g.transport.receive(c, peer) }

// Members lists everybody that gossip has seen, this node included, by id.
func (g *Gossip) Members() []Member { return g.table.list() }

// Changes returns a channel that is closed at the next change. Take it first, then read Members.
func (g *Gossip) Changes() <-chan struct{} { return g.table.changes() }

// Forget removes a node from Members, and its held stream.
func (g *Gossip) Forget(node id.Node) {
	g.transport.reset(node)
	g.table.forget(node)
}

// UpdateMeta changes what this node says about itself and spreads it in the background.
func (g *Gossip) UpdateMeta(m Meta) error {
	b, err := m.Encode()
	if err != nil {
		return err
	}
	g.delegate.mu.Lock()
	g.delegate.meta = b
	g.delegate.mu.Unlock()
	select {
	case g.meta <- struct{}{}:
	default:
	}
	return nil
}

// Join exchanges views with the given nodes, in parallel, and succeeds if one of them answers.
func (g *Gossip) Join(ctx context.Context, nodes ...id.Node) error {
	results := make(chan error, len(nodes))
	for _, n := range nodes {
		g.group.Go(func() { results <- g.exchange(n) })
	}
	var failures []error
	for range nodes {
		select {
		case err := <-results:
			if err == nil {
				return nil
			}
			failures = append(failures, err)
		case <-ctx.Done():
			return fmt.Errorf("join: %w", ctx.Err())
		}
	}
	if len(failures) == 0 {
		failures = append(failures, errors.New("nobody to join"))
	}
	return fmt.Errorf("join: %w", errors.Join(failures...))
}

// exchange is memberlist's push/pull with one node.
func (g *Gossip) exchange(n id.Node) error {
	_, err := g.list.Join([]string{string(n) + "/" + constantAddress(n)})
	return err //nolint:wrapcheck // Join adds what it was doing
}

// Leave tells the others that this node goes on purpose, as far as ctx allows. Gossip goes on until Run ends.
func (g *Gossip) Leave(ctx context.Context) error {
	g.mu.Lock()
	g.left = true
	g.mu.Unlock()
	bye := []byte(goodbyePrefix + string(g.cfg.Self) + " " + string(g.cfg.Meta.Boot))
	for _, m := range g.list.Members() {
		if m.Name != string(g.cfg.Self) {
			_ = g.list.SendBestEffort(m, bye)
		}
	}
	patience := 5 * time.Second
	if until, ok := ctx.Deadline(); ok {
		patience = max(time.Millisecond, min(patience, time.Until(until)))
	}
	g.ending.Lock()
	if g.ended {
		g.ending.Unlock()
		return errors.New("leave: gossip has ended")
	}
	err := g.list.Leave(patience)
	g.ending.Unlock()
	g.transport.drain(ctx)
	if err != nil {
		return fmt.Errorf("leave: %w", err)
	}
	return nil
}

// Run keeps the ring together until ctx ends: it calls known peers that are not there, for ever and with growing pauses,
// and exchanges views after joins. It returns when gossip has stopped.
func (g *Gossip) Run(ctx context.Context) {
	const every = time.Second
	tick := time.NewTimer(pace.Until(every))
	defer tick.Stop()
	var due syncs
	g.callAbsent()
	for {
		select {
		case <-ctx.Done():
			g.ending.Lock() // the library panics where one leaves after this
			g.ended = true
			_ = g.list.Shutdown()
			g.ending.Unlock()
			g.group.Wait()
			return
		case <-g.meta:
			// It waits until the news is out; a limit keeps the loop going when nobody listens.
			_ = g.list.UpdateNode(200 * time.Millisecond)
		case <-tick.C:
			tick.Reset(pace.Until(every))
			g.callAbsent()
			if due.due(g.table.joinCount(), g.timing) {
				g.syncWithOne()
			}
			g.table.prune(g.cfg.Known())
		}
	}
}

// syncs decides when to exchange views after joins: twice, soon and once more, since gossip stops spreading a join before
// everybody has it, and the next regular exchange may be a minute away.
type syncs struct {
	joins int
	left  int
	next  time.Time
}

func (s *syncs) due(joins int, t timing) bool {
	now := time.Now()
	if joins != s.joins {
		if s.left == 0 {
			s.next = now.Add(t.afterJoin/2 + rand.N(t.afterJoin)) //nolint:gosec // jitter
		}
		s.joins, s.left = joins, 2
	}
	if s.left == 0 || now.Before(s.next) {
		return false
	}
	s.left--
	s.next = now.Add(t.betweenSync/2 + rand.N(t.betweenSync)) //nolint:gosec // jitter
	return true
}

func (g *Gossip) syncWithOne() {
	there := g.table.present(g.cfg.Self)
	if len(there) == 0 || g.hasLeft() {
		return
	}
	n := there[rand.IntN(len(there))] //nolint:gosec // any will do
	g.group.Go(func() { _ = g.exchange(n) })
}

// maxCalls is how many absent peers are called at once.
const maxCalls = 8

// callAbsent calls known peers that gossip does not see. memberlist gives up on a dead peer after a while, so without
// this two halves of a healed partition would stay apart.
func (g *Gossip) callAbsent() {
	if g.hasLeft() {
		return
	}
	there := g.table.present(g.cfg.Self)
	known := g.cfg.Known()
	longest := g.timing.retryMax
	if len(there) == 0 {
		longest = g.timing.retryAlone
	}
	now := time.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	running := 0
	for n, r := range g.retries {
		if r.running {
			running++
		} else if slices.Contains(there, n) || !slices.Contains(known, n) {
			delete(g.retries, n)
		}
	}
	for _, i := range rand.Perm(len(known)) { //nolint:gosec // order
		n := known[i]
		if n == g.cfg.Self || slices.Contains(there, n) || running >= maxCalls {
			continue
		}
		r := g.retries[n]
		if r == nil {
			r = &retry{pause: g.timing.retry}
			g.retries[n] = r
		}
		wait := time.Duration(float64(min(r.pause, longest)) * r.jitter)
		if r.running || now.Before(r.ended.Add(wait)) {
			continue
		}
		running++
		r.running = true
		g.group.Go(func() { g.call(n, r) })
	}
}

func (g *Gossip) call(n id.Node, r *retry) {
	err := g.exchange(n)
	g.mu.Lock()
	defer g.mu.Unlock()
	r.running = false
	if err == nil {
		r.pause = g.timing.retry
	} else {
		r.pause = min(2*r.pause, g.timing.retryMax)
	}
	r.ended, r.jitter = time.Now(), 0.5+rand.Float64() //nolint:gosec // jitter
}

func (g *Gossip) hasLeft() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.left
}
