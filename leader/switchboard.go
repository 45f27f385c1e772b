package leader

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"

	"github.com/ringagent/ringagent/internal/id"
)

// switchboard owns the accepting side of Streams for the life of the node, while transports come and go, and can cut the
// node off from Raft: a coordinator whose disk hangs goes on sending heartbeats from other goroutines, and only its
// silence lets the others elect.
type switchboard struct {
	streams Streams
	mu      sync.Mutex
	trans   *Transport
	muted   bool
	open    map[*tracked]struct{}
}

// errDial is of calls for which no connection could be opened.
var errDial = errors.New("dial voter")

var errMuted = errors.New("raft is cut off: the disk of this node hangs")

func newSwitchboard(s Streams) *switchboard {
	return &switchboard{streams: s, open: make(map[*tracked]struct{})}
}

// run accepts until the streams are closed.
func (b *switchboard) run() {
	for {
		conn, peer, err := b.streams.Accept()
		if err != nil {
			return
		}
		b.mu.Lock()
		t := b.trans
		if b.muted {
			t = nil
		}
		b.mu.Unlock()
		if t == nil {
			_ = conn.Close()
			continue
		}
		t.accept(b.track(conn), peer)
	}
}

func (b *switchboard) attach(t *Transport) {
	b.mu.Lock()
	b.trans = t
	b.mu.Unlock()
}

func (b *switchboard) detach(t *Transport) {
	b.mu.Lock()
	if b.trans == t {
		b.trans = nil
	}
	b.mu.Unlock()
	b.cut()
}

func (b *switchboard) mute(on bool) {
	b.mu.Lock()
	b.muted = on
	b.mu.Unlock()
	if on {
		b.cut()
	}
}

func (b *switchboard) cut() {
	b.mu.Lock()
	conns := make([]*tracked, 0, len(b.open))
	for c := range b.open {
		conns = append(conns, c)
	}
	b.mu.Unlock()
	for _, c := range conns {
		_ = c.Close()
	}
}

func (b *switchboard) dial(ctx context.Context, n id.Node) (net.Conn, error) {
	b.mu.Lock()
	muted := b.muted
	b.mu.Unlock()
	if muted {
		return nil, errMuted
	}
	conn, err := b.streams.Dial(ctx, n)
	if err != nil {
		return nil, fmt.Errorf("%w %s: %w", errDial, n, err)
	}
	return b.track(conn), nil
}

func (b *switchboard) track(c net.Conn) *tracked {
	t := &tracked{Conn: c, board: b}
	b.mu.Lock()
	b.open[t] = struct{}{}
	muted := b.muted
	b.mu.Unlock()
	if muted {
		_ = t.Close()
	}
	return t
}

type tracked struct {
	net.Conn
	board *switchboard
}

func (t *tracked) Close() error {
	t.board.mu.Lock()
	delete(t.board.open, t)
	t.board.mu.Unlock()
	return t.Conn.Close()
}
