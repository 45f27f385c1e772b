package wire

import (
	"context"
	"net"
	"sync"
	"time"
)

// handover is how long a finished handshake waits for its consumer to accept it.
const handover = 5 * time.Second

// queue is a net.Listener that is fed by the port. When nobody accepts, connections are closed instead of piling up.
type queue struct {
	addr  net.Addr
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newQueue(addr net.Addr) *queue {
	return &queue{addr: addr, conns: make(chan net.Conn, 64), done: make(chan struct{})}
}

// Accept implements net.Listener.
func (q *queue) Accept() (net.Conn, error) {
	select {
	case c := <-q.conns:
		return c, nil
	case <-q.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener; connections that were not accepted are closed.
func (q *queue) Close() error {
	q.once.Do(func() { close(q.done) })
	for {
		select {
		case c := <-q.conns:
			_ = c.Close()
		default:
			return nil
		}
	}
}

// Addr implements net.Listener.
func (q *queue) Addr() net.Addr { return q.addr }

// push hands c over, or closes it when nobody takes it in time.
func (q *queue) push(ctx context.Context, c net.Conn) {
	late := time.NewTimer(handover)
	defer late.Stop()
	select {
	case <-q.done:
		_ = c.Close()
		return
	default:
	}
	select {
	case q.conns <- c:
		return
	case <-q.done:
	case <-ctx.Done():
	case <-late.C:
	}
	_ = c.Close()
}

// prefixed gives back the byte by which the protocol was told.
type prefixed struct {
	net.Conn
	mu    sync.Mutex
	first []byte
}

// Read implements net.Conn.
func (p *prefixed) Read(b []byte) (int, error) {
	p.mu.Lock()
	if len(p.first) > 0 && len(b) > 0 {
		n := copy(b, p.first)
		p.first = p.first[n:]
		p.mu.Unlock()
		return n, nil
	}
	p.mu.Unlock()
	return p.Conn.Read(b) //nolint:wrapcheck // io.EOF and deadlines must reach readers unchanged
}
