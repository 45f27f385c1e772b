package mesh

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/pace"
	"github.com/ringagent/ringagent/mesh/gossip"
	"github.com/ringagent/ringagent/mesh/identity"
	"github.com/ringagent/ringagent/mesh/rpc"
	"github.com/ringagent/ringagent/mesh/wire"
)

// ErrNotEnrolled means that the data directory belongs to no ring yet.
var ErrNotEnrolled = errors.New("this machine is not in a ring yet")

// maxStrangers is how many refused newcomers the log tells of at once, and then one a second.
const maxStrangers = 20

// Mesh is one node's part of the ring's network.
type Mesh struct {
	cfg         Config
	store       *identity.Store
	credentials *identity.Credentials
	book        *wire.Book
	endpoint    *wire.Endpoint
	server      *rpc.Server
	client      *rpc.Client
	gossip      *gossip.Gossip
	renewed     chan struct{} // wakes the renewer
	claims      chan string   // where gossip says that another agent uses this node's identity
	strangers   *rate.Limiter // of lines about newcomers that were refused

	mu   sync.Mutex
	meta Meta
}

// Open loads the node's identity, tries to renew it if the node can sign for itself, and binds the port. Nothing is served before
// Run; Close undoes an Open that is not followed by Run. ErrNotEnrolled means that InitRing or Enrol must come first,
// CodeRevoked that this node's own roster has thrown it out.
func Open(ctx context.Context, cfg Config) (*Mesh, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	store, err := identity.OpenStore(cfg.DataDir)
	if err != nil {
		return nil, fmt.Errorf("open mesh: %w", err)
	}
	if !store.Used() {
		return nil, ErrNotEnrolled
	}
	credentials, err := identity.LoadCredentials(store)
	if err != nil {
		return nil, fmt.Errorf("open mesh: %w", err)
	}
	if entry, ok := cfg.Roster.Lookup(credentials.Subject().Node); ok && entry.Revoked {
		return nil, Errorf(CodeRevoked, "this node has been revoked").
			WithHint("wipe the data directory and join with a new token")
	}
	book, err := wire.OpenBook(cfg.peersFile())
	if err != nil {
		cfg.Log.Warn().Err(err).Msg("known peers are lost; the roster has to do")
	}
	m := &Mesh{
		cfg: cfg, store: store, credentials: credentials, book: book, renewed: make(chan struct{}, 1), claims: make(chan string, 1),
		strangers: rate.NewLimiter(rate.Every(time.Second), maxStrangers),
	}
	if err := m.signSelf(); err != nil && !errors.Is(err, identity.ErrNoKey) {
		cfg.Log.Warn().Err(err).Msg("own certificate not renewed yet")
	}
	started := time.Now()
	m.endpoint, err = wire.Open(ctx, wire.Config{
		Network: cfg.Network, Listen: cfg.Listen, Advertise: cfg.Advertise, Credentials: credentials, Roster: cfg.Roster,
		Book: book, Boot: cfg.Boot, Started: started, Limits: cfg.Limits, Now: cfg.Now, Log: cfg.Log,
		Unknown: cfg.OnUnknownPeer, Refused: cfg.OnRefused,
	})
	if err != nil {
		return nil, fmt.Errorf("open mesh: %w", err)
	}
	if err := m.assemble(); err != nil {
		m.endpoint.Close()
		return nil, fmt.Errorf("open mesh: %w", err)
	}
	return m, nil
}

// assemble joins the parts over the open port.
func (m *Mesh) assemble() error {
	var err error
	if m.server, err = rpc.NewServer(m.cfg.Hooks, m.cfg.Log); err != nil {
		return err
	}
	m.client = rpc.NewClient(m.self(), m.server, func(ctx context.Context, node id.Node) (net.Conn, Peer, error) {
		c, err := m.endpoint.Dial(ctx, node, wire.RPC)
		if err != nil {
			return nil, Peer{}, err
		}
		return c, c.Peer(), nil
	}, m.cfg.Hooks)
	m.meta = m.complete(m.cfg.Meta)
	m.gossip, err = gossip.New(gossip.Config{
		Self: m.ID(), Meta: m.meta, Profile: m.cfg.Profile, Roster: members{m}, Known: m.known, Log: m.cfg.Log,
		Dial: func(ctx context.Context, node id.Node) (net.Conn, error) {
			return m.Dial(ctx, node, wire.Gossip)
		},
		Double: func(_ id.Boot, address string) {
			select {
			case m.claims <- address:
			default: // one is being looked into, and is made again if it is true
			}
		},
	})
	if err != nil {
		return err
	}
	m.endpoint.Handle(wire.Gossip, func(_ context.Context, c *wire.Conn) { m.gossip.Receive(c, c.Peer().Node) })
	m.endpoint.Handle(wire.RPC, func(ctx context.Context, c *wire.Conn) { m.server.ServeConn(ctx, c, c.Peer()) })
	m.endpoint.Handle(wire.Renew, m.serveRenew)
	m.endpoint.HandleEnrol(m.serveEnrol)
	m.server.Handle(methodPing, Everybody, m.answerPing)
	m.server.Handle(methodWhere, Everybody, m.answerWhere)
	m.server.Handle(methodAuthorityKey, CoreOnly, m.answerAuthorityKey)
	return nil
}

// Run serves until ctx ends or the port breaks, and returns when nothing of the mesh runs any more.
func (m *Mesh) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var group sync.WaitGroup
	group.Go(func() { m.gossip.Run(ctx) })
	group.Go(func() { m.renewForever(ctx) })
	group.Go(func() { m.keepBook(ctx) })
	group.Go(func() { m.obtainAuthorityKey(ctx) })
	group.Go(func() { m.lookIntoClaims(ctx) })
	group.Go(func() { m.findLost(ctx) })
	err := m.endpoint.Serve(ctx)
	cancel()
	m.client.Close()
	group.Wait()
	if err := m.book.Save(); err != nil {
		m.cfg.Log.Warn().Err(err).Msg("known peers not saved")
	}
	return err //nolint:wrapcheck // the endpoint has said what it did
}

// Close frees what Open took. It is for an Open that is not followed by Run.
func (m *Mesh) Close() {
	m.endpoint.Close()
	m.client.Close()
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	m.gossip.Run(ended)
}

// ID is this node's id.
func (m *Mesh) ID() id.Node { return m.credentials.Subject().Node }

// Class is this node's class.
func (m *Mesh) Class() id.Class { return m.credentials.Subject().Class }

// Ring is the ring's id and its name for people.
func (m *Mesh) Ring() (id.Ring, string) {
	a := m.credentials.Authority()
	return a.Ring(), a.Name()
}

// Certificate is the one that this node uses now. It must not be changed.
func (m *Mesh) Certificate() *x509.Certificate { return m.credentials.Certificate().Leaf }

// NewToken makes a join token for this ring. It buys nothing before the replicated state knows its id and secret hash.
func (m *Mesh) NewToken() Token { return identity.NewToken(m.credentials.Authority().Hash()) }

// Addr is where the port listens.
func (m *Mesh) Addr() net.Addr { return m.endpoint.Addr() }

// PlainHTTP gives connections that did not begin with TLS: the operator's API. Who serves it answers loopback only.
func (m *Mesh) PlainHTTP() net.Listener { return m.endpoint.PlainHTTP() }

// TLSHTTP gives *tls.Conn of people, handshake done: the operator's API with a bearer token.
func (m *Mesh) TLSHTTP() net.Listener { return m.endpoint.TLSHTTP() }

// Listener serves a protocol of the caller's, RaftProtocol or BlobProtocol. PeerOf tells who is at the other end.
func (m *Mesh) Listener(protocol string) net.Listener { return m.endpoint.Listener(protocol) }

// Dial reaches a node; see wire.Endpoint.Dial. It is the only way to reach anybody.
func (m *Mesh) Dial(ctx context.Context, node id.Node, protocol string) (net.Conn, error) {
	c, err := m.endpoint.Dial(ctx, node, protocol)
	if err != nil {
		return nil, err //nolint:wrapcheck // a *wire.Error
	}
	return c, nil
}

// AddAddress notes host:port as one where node may be reached.
func (m *Mesh) AddAddress(node id.Node, address string) { m.book.Add(node, address) }

// Revoke shuts a node out at once, whatever the roster says: its connections, streams and calls end, in both directions,
// and no new ones are made or taken. Call it when the roster's entry changes.
func (m *Mesh) Revoke(node id.Node) {
	m.endpoint.Revoke(node)
	m.gossip.Forget(node)
	m.book.Forget(node)
}

// Connections counts the open connections with other agents.
func (m *Mesh) Connections() int { return m.endpoint.Connections() }

// Handle registers a method that nodes of the allowed classes may call.
func (m *Mesh) Handle(method string, allowed ClassSet, h Handler, opts ...rpc.Option) {
	m.server.Handle(method, allowed, h, opts...)
}

// HandleStream registers a method that answers with a stream.
func (m *Mesh) HandleStream(method string, allowed ClassSet, h StreamHandler, opts ...rpc.Option) {
	m.server.HandleStream(method, allowed, h, opts...)
}

// Methods is the class table.
func (m *Mesh) Methods() []Method { return m.server.Methods() }

// Call asks node for method; see rpc.Client.Call. A node may call itself.
func (m *Mesh) Call(ctx context.Context, node id.Node, method string, in, out any) error {
	return m.client.Call(ctx, node, method, in, out) //nolint:wrapcheck // a *wire.Error
}

// CallWithin is Call for an answer of at most so many bytes.
func (m *Mesh) CallWithin(ctx context.Context, node id.Node, method string, in, out any, most int) error {
	return m.client.CallWithin(ctx, node, method, in, out, most) //nolint:wrapcheck // a *wire.Error
}

// CallRaw is Call with bytes both ways.
func (m *Mesh) CallRaw(ctx context.Context, node id.Node, method string, body []byte) ([]byte, error) {
	return m.client.CallRaw(ctx, node, method, body) //nolint:wrapcheck // a *wire.Error
}

// Stream opens a server stream that lives as long as ctx; see rpc.Client.Stream.
func (m *Mesh) Stream(ctx context.Context, node id.Node, method string, in any) (io.ReadCloser, error) {
	return m.client.Stream(ctx, node, method, in) //nolint:wrapcheck // a *wire.Error
}

// Members lists everybody that gossip has seen, this node included, by id, with names and addresses where known.
func (m *Mesh) Members() []Member {
	list := m.gossip.Members()
	for i := range list {
		p := &list[i]
		if entry, ok := m.cfg.Roster.Lookup(p.ID); ok {
			p.Name = entry.Name
		}
		p.Address = p.Meta.Address
		if p.Address == "" {
			p.Address = m.book.Address(p.ID)
		}
	}
	return list
}

// Changes returns a channel that is closed at the next change of Members. Take it first, then read Members.
func (m *Mesh) Changes() <-chan struct{} { return m.gossip.Changes() }

// UpdateMeta changes what gossip says about this node: change gets the present facts. Class, boot, address and start stay.
func (m *Mesh) UpdateMeta(change func(*Meta)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	next := m.meta
	change(&next)
	next = m.complete(next)
	if next == m.meta {
		return nil
	}
	if err := m.gossip.UpdateMeta(next); err != nil {
		return fmt.Errorf("update member's facts: %w", err)
	}
	m.meta = next
	return nil
}

// Join exchanges views with nodes that are known by id. The mesh does so by itself for all known nodes, for ever; this is
// for who does not want to wait.
func (m *Mesh) Join(ctx context.Context, nodes ...id.Node) error {
	return m.gossip.Join(ctx, nodes...) //nolint:wrapcheck // gossip has said what it did
}

// JoinAt joins through whatever node of the ring answers at host:port, and remembers the address. It tells who that is as soon
// as it has proved it, also if the join then fails.
func (m *Mesh) JoinAt(ctx context.Context, address string) (Peer, error) {
	p, err := m.endpoint.Identify(ctx, address)
	if err != nil {
		return Peer{}, err //nolint:wrapcheck // a *wire.Error
	}
	m.book.Add(p.Node, address)
	return p, m.Join(ctx, p.Node)
}

// Leave tells the others that this node goes on purpose. End the context of Run afterwards.
func (m *Mesh) Leave(ctx context.Context) error {
	return m.gossip.Leave(ctx) //nolint:wrapcheck // gossip has said what it did
}

// Forget drops a node from Members and from the remembered addresses: `force-leave --prune`.
func (m *Mesh) Forget(node id.Node) {
	m.gossip.Forget(node)
	m.book.Forget(node)
}

func (m *Mesh) self() Peer {
	s := m.credentials.Subject()
	return Peer{Node: s.Node, Class: s.Class, Name: s.Name, Boot: m.cfg.Boot, Addr: m.endpoint.Addr().String()}
}

// complete fills in what gossip must say rightly about this node.
func (m *Mesh) complete(meta Meta) Meta {
	meta.Class, meta.Boot = m.Class(), m.cfg.Boot
	if len(m.cfg.Advertise) > 0 {
		meta.Address = m.cfg.Advertise[0]
	}
	if meta.Started == 0 {
		meta.Started = time.Now().Unix()
	}
	return meta
}

// known lists all nodes that belong to the ring as far as this node can tell.
func (m *Mesh) known() []id.Node {
	all := append(m.cfg.Roster.Nodes(), m.book.Nodes()...)
	slices.Sort(all)
	all = slices.Compact(all)
	return slices.DeleteFunc(all, func(n id.Node) bool {
		entry, ok := m.cfg.Roster.Lookup(n)
		return entry.Revoked || (!ok && m.cfg.Roster.Loaded())
	})
}

// keepBook saves addresses a little after they have changed.
func (m *Mesh) keepBook(ctx context.Context) {
	const every = 5 * time.Second
	tick := time.NewTimer(pace.Until(every))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			tick.Reset(pace.Until(every))
			if err := m.book.Save(); err != nil {
				m.cfg.Log.Warn().Err(err).Msg("known peers not saved")
			}
		}
	}
}

const methodPing = "mesh.ping"

// Pong is the answer to Ping.
type Pong struct {
	Boot id.Boot   `json:"boot"`
	Time time.Time `json:"time"` // by the other node's clock
}

// Ping asks a node whether it is there, and for its boot and clock.
func (m *Mesh) Ping(ctx context.Context, node id.Node) (Pong, error) {
	var p Pong
	err := m.Call(ctx, node, methodPing, struct{}{}, &p)
	return p, err
}

func (m *Mesh) answerPing(context.Context, *Request) (any, error) {
	return Pong{Boot: m.cfg.Boot, Time: time.Now().UTC()}, nil
}
