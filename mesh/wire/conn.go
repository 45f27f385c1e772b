package wire

import (
	"crypto/tls"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ringagent/ringagent/internal/id"
)

// Conn is an admitted connection between two agents. It is tracked until it is closed, so that revoking a node closes it.
type Conn struct {
	*tls.Conn
	peer    Peer
	started int64 // of the peer's boot, by its clock
	inbound bool
	heard   atomic.Int64 // unix nanoseconds of the last read that gave bytes
	tracker *tracker
	close   sync.Once
	err     error
}

// Peer says who is at the other end.
func (c *Conn) Peer() Peer { return c.peer }

// Read implements net.Conn.
func (c *Conn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 {
		c.heard.Store(time.Now().UnixNano())
	}
	return n, err //nolint:wrapcheck // io.EOF and deadlines must reach readers unchanged
}

// Close implements net.Conn. It is idempotent.
func (c *Conn) Close() error {
	c.close.Do(func() {
		c.tracker.drop(c)
		c.err = c.Conn.Close()
	})
	return c.err
}

// Abort closes at once, without the farewell that may wait for a stuck peer.
func (c *Conn) Abort() {
	_ = c.NetConn().Close()
	_ = c.Close()
}

// PeerOf finds the peer of a connection that Listener or Dial gave.
func PeerOf(c net.Conn) (Peer, bool) {
	p, ok := c.(interface{ Peer() Peer })
	if !ok {
		return Peer{}, false
	}
	return p.Peer(), true
}

// busy is how recently another boot of a node must have been heard for it to count as being there.
const busy = 3 * time.Second

// maxPerPeer is how many connections a peer may have opened here. An honest peer has a
// few for each protocol; one that leaks them, or worse, must not use up this node's descriptors.
const maxPerPeer = 256

// session is the boot of a node with which this node last spoke.
type session struct {
	boot    id.Boot
	started int64
}

// tracker knows every admitted connection, and which nodes were revoked in this process' life.
type tracker struct {
	mu      sync.Mutex
	closed  bool
	conns   map[id.Node]map[*Conn]struct{}
	revoked map[id.Node]struct{}
	boots   map[id.Node]session
}

func newTracker() *tracker {
	return &tracker{
		conns: make(map[id.Node]map[*Conn]struct{}), revoked: make(map[id.Node]struct{}), boots: make(map[id.Node]session),
	}
}

// other gives the boot with which this node spoke before, if it is not this one.
func (t *tracker) other(node id.Node, boot id.Boot) (session, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s, ok := t.boots[node]
	return s, ok && s.boot != boot
}

// add takes a connection in, unless its node was revoked meanwhile. Connections of other boots of the node are closed:
// that their agents are gone was found out before, or, for a connection that this node dialled, they have been silent.
func (t *tracker) add(c *Conn) error {
	now := time.Now()
	c.heard.Store(now.UnixNano())
	stale, err := t.admit(c, now)
	for _, s := range stale {
		s.Abort()
	}
	return err
}

func (t *tracker) admit(c *Conn, now time.Time) (stale []*Conn, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil, Errorf(CodeUnavailable, "this node is shutting down")
	}
	node := c.peer.Node
	if _, gone := t.revoked[node]; gone {
		return nil, errRevoked(node)
	}
	opened := 0
	for other := range t.conns[node] {
		if other.peer.Boot == c.peer.Boot {
			if other.inbound {
				opened++
			}
			continue
		}
		if !c.inbound && c.started >= other.started && now.Sub(time.Unix(0, other.heard.Load())) < busy {
			return nil, errDouble(node, other.peer.Addr)
		}
		stale = append(stale, other)
	}
	if c.inbound && opened >= maxPerPeer {
		return nil, Errorf(CodeUnavailable, "node %s has %d connections here already", node, maxPerPeer)
	}
	if t.conns[node] == nil {
		t.conns[node] = make(map[*Conn]struct{})
	}
	t.conns[node][c] = struct{}{}
	t.boots[node] = session{boot: c.peer.Boot, started: c.started}
	return stale, nil
}

func errDouble(node id.Node, at string) *Error {
	return Errorf(CodeDuplicate, "node %s is already in the ring as another agent, at %s", node, at).
		WithHint("two machines run with copies of one data directory: stop one of them, wipe it and join it anew")
}

func (t *tracker) drop(c *Conn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.conns[c.peer.Node], c)
	if len(t.conns[c.peer.Node]) == 0 {
		delete(t.conns, c.peer.Node)
	}
}

func (t *tracker) isRevoked(node id.Node) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, ok := t.revoked[node]
	return ok
}

// revoke closes all connections of a node and refuses new ones from now on. It returns how many were closed.
func (t *tracker) revoke(node id.Node) int {
	t.mu.Lock()
	t.revoked[node] = struct{}{}
	open := keys(t.conns[node])
	t.mu.Unlock()
	for _, c := range open {
		c.Abort()
	}
	return len(open)
}

func (t *tracker) shutdown() {
	t.mu.Lock()
	t.closed = true
	var open []*Conn
	for _, set := range t.conns {
		open = append(open, keys(set)...)
	}
	t.mu.Unlock()
	for _, c := range open {
		c.Abort()
	}
}

func (t *tracker) count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := 0
	for _, set := range t.conns {
		n += len(set)
	}
	return n
}

func keys(set map[*Conn]struct{}) []*Conn {
	out := make([]*Conn, 0, len(set))
	for c := range set {
		out = append(out, c)
	}
	return out
}
