package leadertest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/leader"
)

// Net is a network of nodes. What is sent over a held link waits until it is let go, as TCP would have it.
type Net struct {
	mu      sync.Mutex
	changed chan struct{}
	delay   map[way]time.Duration
	held    map[way]bool
	barred  map[way]bool
	stops   map[id.Node]*stop // nodes that are up
}

type way struct{ from, to id.Node }

// stop is a node's place in the network.
type stop struct {
	inbox    chan *conn
	handlers map[string]leader.Handler
	// generation is the one of the ring that the node is in; nil before it is known.
	generation func() uint64
	ctx        context.Context
	cancel     context.CancelFunc
	conns      map[*conn]struct{}
}

// NewNet is a network without delay.
func NewNet() *Net {
	return &Net{changed: make(chan struct{}), delay: make(map[way]time.Duration), held: make(map[way]bool), barred: make(map[way]bool), stops: make(map[id.Node]*stop)}
}

func (n *Net) alter(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f()
	close(n.changed)
	n.changed = make(chan struct{})
}

// Delay slows what a sends to b.
func (n *Net) Delay(a, b id.Node, d time.Duration) { n.alter(func() { n.delay[way{a, b}] = d }) }

// Hold keeps what a sends to b on the way.
func (n *Net) Hold(a, b id.Node) { n.alter(func() { n.held[way{a, b}] = true }) }

// Release lets it go.
func (n *Net) Release(a, b id.Node) { n.alter(func() { delete(n.held, way{a, b}) }) }

// Bar keeps a from opening connections to b; those that are open go on.
func (n *Net) Bar(a, b id.Node) { n.alter(func() { n.barred[way{a, b}] = true }) }

// Isolate holds everything between one node and all others, both ways.
func (n *Net) Isolate(a id.Node, others ...id.Node) {
	for _, b := range others {
		if a != b {
			n.Hold(a, b)
			n.Hold(b, a)
		}
	}
}

// Heal releases every link and lifts every bar.
func (n *Net) Heal() {
	n.alter(func() {
		clear(n.held)
		clear(n.barred)
	})
}

func (n *Net) up(node id.Node) {
	n.alter(func() {
		ctx, cancel := context.WithCancel(context.Background())
		n.stops[node] = &stop{inbox: make(chan *conn, 64), ctx: ctx, cancel: cancel, conns: make(map[*conn]struct{})}
	})
}

func (n *Net) serve(node id.Node, h map[string]leader.Handler, generation func() uint64) {
	n.alter(func() { n.stops[node].handlers, n.stops[node].generation = h, generation })
}

var errFormer = errors.New("other generation of the ring")

// former says that by's word is one of a generation before that of to, as package agent has the mesh see it.
func (n *Net) former(by, to *stop) bool {
	n.mu.Lock()
	a, b := by.generation, to.generation
	n.mu.Unlock()
	if a == nil || b == nil {
		return false
	}
	theirs, ours := a(), b()
	return theirs != 0 && theirs < ours
}

func (n *Net) down(node id.Node) {
	var conns []*conn
	n.alter(func() {
		s, ok := n.stops[node]
		if !ok {
			return
		}
		s.cancel()
		for c := range s.conns {
			conns = append(conns, c)
		}
		delete(n.stops, node)
	})
	for _, c := range conns {
		_ = c.Close()
	}
}

func (n *Net) look(w way) (delay time.Duration, held bool, changed <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.delay[w], n.held[w], n.changed
}

// pass waits until a message has gone from one node to another.
func (n *Net) pass(ctx context.Context, w way) error {
	// No timer that is over at once: several goroutines of a bubble that find such timers in a select run them side by side
	// under one context of the race detector, which it does not survive (Go 1.26).
	if delay, _, _ := n.look(w); delay > 0 {
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	for {
		_, held, changed := n.look(w)
		if !held {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// notAllowed is how the class table of package mesh refuses a call.
type notAllowed struct {
	class  id.Class
	method string
}

func (e notAllowed) Error() string  { return fmt.Sprintf("%s nodes may not call %s", e.class, e.method) }
func (notAllowed) NotAllowed() bool { return true }

var errDown = errors.New("connection refused")

// unsentError is that of a call which has surely not arrived.
type unsentError struct{ error }

func (e unsentError) Unwrap() error { return e.error }
func (unsentError) Unsent() bool    { return true }

func (n *Net) stop(node id.Node) (*stop, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	s, ok := n.stops[node]
	if !ok {
		return nil, fmt.Errorf("%s: %w", node, errDown)
	}
	return s, nil
}

// port is one node's side of the network: its Streams and its Caller.
type port struct {
	net   *Net
	self  id.Node
	class id.Class
	stop  *stop
}

func (p port) Accept() (net.Conn, id.Node, error) {
	select {
	case c := <-p.stop.inbox:
		return c, c.peer, nil
	case <-p.stop.ctx.Done():
		return nil, "", net.ErrClosed
	}
}

func (p port) Dial(ctx context.Context, to id.Node) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(p.stop.ctx, cancel)() // a killed node waits for nothing any more
	p.net.mu.Lock()
	barred := p.net.barred[way{p.self, to}]
	p.net.mu.Unlock()
	if barred {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if err := p.net.pass(ctx, way{p.self, to}); err != nil {
		return nil, err
	}
	s, err := p.net.stop(to)
	if err != nil {
		return nil, err
	}
	if err := p.net.pass(ctx, way{to, p.self}); err != nil {
		return nil, err
	}
	a, b := p.net.pipe(p.self, to)
	down := false // of one that was killed meanwhile nothing arrives any more
	p.net.alter(func() {
		if down = p.stop.ctx.Err() != nil || s.ctx.Err() != nil; !down {
			s.conns[b], p.stop.conns[a] = struct{}{}, struct{}{}
		}
	})
	if down {
		return nil, errDown
	}
	select {
	case s.inbox <- b:
		return a, nil
	case <-s.ctx.Done():
		return nil, errDown
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (p port) CallRaw(ctx context.Context, to id.Node, method string, in []byte) ([]byte, error) {
	if p.stop.ctx.Err() != nil {
		return nil, errDown
	}
	if err := p.net.pass(ctx, way{p.self, to}); err != nil {
		return nil, err
	}
	s, err := p.net.stop(to)
	if err != nil {
		return nil, unsentError{err}
	}
	p.net.mu.Lock()
	h, ok := s.handlers[method]
	p.net.mu.Unlock()
	if !ok {
		return nil, fmt.Errorf("%s has no method %s", to, method)
	}
	if !h.Edge && p.class != id.Core {
		return nil, notAllowed{p.class, method}
	}
	if !h.Former && p.net.former(p.stop, s) {
		return nil, fmt.Errorf("%s refuses %s: %w", to, method, errFormer)
	}
	type answer struct {
		out []byte
		err error
	}
	done := make(chan answer, 1)
	go func() {
		served, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(s.ctx, cancel)()
		out, err := h.Serve(served, p.self, in)
		done <- answer{out, err}
	}()
	select {
	case a := <-done:
		if err := p.net.pass(ctx, way{to, p.self}); err != nil {
			return nil, err
		}
		if p.net.former(s, p.stop) {
			return nil, fmt.Errorf("answer of %s: %w", to, errFormer)
		}
		return a.out, a.err
	case <-s.ctx.Done():
		return nil, fmt.Errorf("%s: connection reset", to)
	case <-p.stop.ctx.Done():
		return nil, errDown
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// conn is one end of a connection. What the other end wrote waits in its queue until it is due and the link is free.
type conn struct {
	net        *Net
	self, peer id.Node
	other      *conn

	mu       sync.Mutex
	wake     chan struct{}
	queue    []chunk
	closed   bool
	deadline time.Time
}

type chunk struct {
	due time.Time
	b   []byte
}

func (n *Net) pipe(a, b id.Node) (*conn, *conn) {
	x := &conn{net: n, self: a, peer: b, wake: make(chan struct{})}
	y := &conn{net: n, self: b, peer: a, wake: make(chan struct{}), other: x}
	x.other = y
	return x, y
}

func (c *conn) alter(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
	close(c.wake)
	c.wake = make(chan struct{})
}

func (c *conn) Read(b []byte) (int, error) {
	for {
		_, held, changed := c.net.look(way{c.peer, c.self})
		c.mu.Lock()
		wake, now := c.wake, time.Now()
		var timer <-chan time.Time
		switch {
		case c.closed:
			c.mu.Unlock()
			return 0, io.EOF
		case !c.deadline.IsZero() && !now.Before(c.deadline):
			c.mu.Unlock()
			return 0, os.ErrDeadlineExceeded
		case !held && len(c.queue) > 0 && !now.Before(c.queue[0].due):
			n := copy(b, c.queue[0].b)
			if c.queue[0].b = c.queue[0].b[n:]; len(c.queue[0].b) == 0 {
				c.queue = c.queue[1:]
			}
			c.mu.Unlock()
			return n, nil
		case !held && len(c.queue) > 0:
			timer = time.After(c.queue[0].due.Sub(now))
		}
		if !c.deadline.IsZero() && timer == nil {
			timer = time.After(c.deadline.Sub(now))
		}
		c.mu.Unlock()
		select {
		case <-wake:
		case <-changed:
		case <-timer:
		}
	}
}

func (c *conn) Write(b []byte) (int, error) {
	delay, _, _ := c.net.look(way{c.self, c.peer})
	c.mu.Lock()
	closed := c.closed
	c.mu.Unlock()
	if closed {
		return 0, net.ErrClosed
	}
	o := c.other
	o.alter(func() { o.queue = append(o.queue, chunk{time.Now().Add(delay), append([]byte(nil), b...)}) })
	return len(b), nil
}

func (c *conn) Close() error {
	c.alter(func() { c.closed = true })
	c.other.alter(func() { c.other.closed = true })
	return nil
}

func (c *conn) SetDeadline(t time.Time) error     { return c.SetReadDeadline(t) }
func (c *conn) SetWriteDeadline(time.Time) error  { return nil }
func (c *conn) SetReadDeadline(t time.Time) error { c.alter(func() { c.deadline = t }); return nil }
func (c *conn) LocalAddr() net.Addr               { return addr(c.self) }
func (c *conn) RemoteAddr() net.Addr              { return addr(c.peer) }

type addr id.Node

func (addr) Network() string  { return "leadertest" }
func (a addr) String() string { return string(a) }
