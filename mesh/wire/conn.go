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

// busy is how recently another boot of a node must have been heard for the node's identity to count as in use.
const busy = 3 * time.Second

// tracker knows every admitted connection, and which nodes were revoked in this process' life.
type tracker struct {
	mu      sync.Mutex
	closed  bool
	conns   map[id.Node]map[*Conn]struct{}
	revoked map[id.Node]struct{}
}

func newTracker() *tracker {
	return &tracker{conns: make(map[id.Node]map[*Conn]struct{}), revoked: make(map[id.Node]struct{})}
}

// add takes a connection in, unless its node was revoked meanwhile or another boot of the node is alive here. Idle
// connections of other boots are closed: their agent is gone.
func (t *tracker) add(c *Conn) error {
	now := time.Now()
	c.heard.Store(now.UnixNano())
	t.mu.Lock()
	var stale []*Conn
	err := func() error {
		if t.closed {
			return Errorf(CodeUnavailable, "this node is shutting down")
		}
		if _, gone := t.revoked[c.peer.Node]; gone {
			return errRevoked(c.peer.Node)
		}
		for other := range t.conns[c.peer.Node] {
			if other.peer.Boot == c.peer.Boot {
				continue
			}
			if c.inbound && other.inbound && now.Sub(time.Unix(0, other.heard.Load())) < busy {
				return Errorf(CodeDuplicate, "node %s is already in the ring as another agent, at %s", c.peer.Node, other.peer.Addr).
					WithHint("two machines run with copies of one data directory: stop one of them, wipe it and join it anew")
			}
			stale = append(stale, other)
		}
		if t.conns[c.peer.Node] == nil {
			t.conns[c.peer.Node] = make(map[*Conn]struct{})
		}
		t.conns[c.peer.Node][c] = struct{}{}
		return nil
	}()
	t.mu.Unlock()
	for _, s := range stale {
		if err == nil {
			s.Abort()
		}
	}
	return err
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
