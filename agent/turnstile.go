package agent

import (
	"context"
	"net"
	"sync"
)

// turnstile lets servers come and go on a listener that stays: each server gets a listener of its own, and closing that
// one leaves the real one open for the next. While there is no server, connections are closed at once.
type turnstile struct {
	real net.Listener

	mu    sync.Mutex
	taker *turn
}

// turn is one server's listener.
type turn struct {
	gate  *turnstile
	conns chan net.Conn
	gone  chan struct{}
	once  sync.Once
}

// run passes connections on until the real listener is closed, which the end of ctx does.
func (t *turnstile) run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = t.real.Close() })
	defer stop()
	for {
		c, err := t.real.Accept()
		if err != nil {
			return nil // the listener belongs to the mesh, which says why it ended
		}
		t.mu.Lock()
		taker := t.taker
		t.mu.Unlock()
		if taker == nil {
			c.Close()
			continue
		}
		select {
		case taker.conns <- c:
		case <-taker.gone:
			c.Close()
		case <-ctx.Done():
			c.Close()
		}
	}
}

// lease gives the next server its listener; a former one gets nothing any more.
func (t *turnstile) lease() net.Listener {
	n := &turn{gate: t, conns: make(chan net.Conn), gone: make(chan struct{})}
	t.mu.Lock()
	t.taker = n
	t.mu.Unlock()
	return n
}

// Accept implements net.Listener.
func (n *turn) Accept() (net.Conn, error) {
	select {
	case c := <-n.conns:
		return c, nil
	case <-n.gone:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (n *turn) Close() error {
	n.once.Do(func() {
		close(n.gone)
		n.gate.mu.Lock()
		if n.gate.taker == n {
			n.gate.taker = nil
		}
		n.gate.mu.Unlock()
	})
	return nil
}

// Addr implements net.Listener.
func (n *turn) Addr() net.Addr { return n.gate.real.Addr() }
