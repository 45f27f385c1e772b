package rpc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/mesh/meshtest"
	"github.com/ringagent/ringagent/mesh/wire"
)

// world is a client and a server with a network in memory between them, without TLS: who the peer is, is told.
type world struct {
	server *Server
	client *Client
	net    *meshtest.Network
	a, b   *meshtest.Host
	node   id.Node
	dials  atomic.Int32
	stop   func()
}

func newWorld(t *testing.T, class id.Class, hooks Hooks) *world {
	t.Helper()
	w := &world{net: meshtest.New(1), node: id.NewNode()}
	w.a, w.b = w.net.Host("10.0.0.1"), w.net.Host("10.0.0.2")
	var err error
	w.server, err = NewServer(hooks, zerolog.Nop())
	must(t, err)
	own, err := NewServer(Hooks{}, zerolog.Nop())
	must(t, err)
	l, err := w.b.Listen(t.Context(), "10.0.0.2:80")
	must(t, err)
	self := wire.Peer{Node: id.NewNode(), Class: class, Name: "caller"}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go w.server.ServeConn(ctx, c, self)
		}
	}()
	w.client = NewClient(self, own, func(ctx context.Context, node id.Node) (net.Conn, wire.Peer, error) {
		w.dials.Add(1)
		c, err := w.a.Dial(ctx, "10.0.0.2:80")
		return c, wire.Peer{Node: node, Class: id.Core, Name: "server"}, err
	}, Hooks{})
	w.stop = func() {
		w.client.Close()
		cancel()
		_ = l.Close()
	}
	return w
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func nothing(context.Context, *Request) (any, error) { return nil, nil }

// deniesByDefault calls every method of a table as a class, and one that does not exist.
func deniesByDefault(ctx context.Context, w *world, table []Method, class id.Class) error {
	for _, m := range append(table, Method{Name: "unknown"}) {
		err := w.client.Call(ctx, w.node, m.Name, nil, nil)
		allowed := m.Allowed.Allows(class)
		if (err == nil) != allowed {
			return fmt.Errorf("%s called by %s: %v, allowed is %v", m.Name, class, err, allowed)
		}
		var e *wire.Error
		if errors.As(err, &e) && e.NotAllowed() != (m.Allowed != 0) { // a method that does not exist may be one that is not there yet
			return fmt.Errorf("%s called by %s: %v is told as not allowed: %v", m.Name, class, err, e.NotAllowed())
		}
	}
	return nil
}

func TestClassTable(t *testing.T) {
	for _, class := range []id.Class{id.Core, id.Edge, "", "admin"} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, class, Hooks{})
			defer w.stop()
			w.server.Handle("core", CoreOnly, nothing)
			w.server.Handle("edge", EdgeOnly, nothing)
			w.server.Handle("both", Everybody, nothing)
			table := w.server.Methods()
			must(t, deniesByDefault(t.Context(), w, table, class))
			// The broken variant: a server that lets everybody call what is for core nodes.
			open := w.server.methods["core"]
			open.Allowed = Everybody
			w.server.methods["core"] = open
			if class == id.Edge && deniesByDefault(t.Context(), w, table, class) == nil {
				t.Error("an open server is not noticed")
			}
		})
	}
}

// TestRefusedCallsDoNotFillTheLog is a peer that asks again and again for what it must not have.
func TestRefusedCallsDoNotFillTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, id.Edge, Hooks{})
		defer w.stop()
		var told bytes.Buffer
		w.server.log = zerolog.New(&told)
		w.server.Handle("core", CoreOnly, nothing)
		for range 500 {
			if err := w.client.Call(t.Context(), w.node, "core", nil, nil); !wire.IsCode(err, wire.CodeUnauthorised) {
				t.Fatal(err)
			}
		}
		if n := bytes.Count(told.Bytes(), []byte{'\n'}); n == 0 || n > 2*maxTold {
			t.Errorf("%d lines about 500 refused calls", n)
		}
	})
}

func TestRegistrationMistakesPanic(t *testing.T) {
	t.Parallel()
	s, err := NewServer(Hooks{}, zerolog.Nop())
	must(t, err)
	s.Handle("a", Everybody, nothing)
	for name, f := range map[string]func(){
		"twice":      func() { s.Handle("a", Everybody, nothing) },
		"for nobody": func() { s.Handle("b", 0, nothing) },
		"no name":    func() { s.Handle("", Everybody, nothing) },
		"a path":     func() { s.Handle("a/b", Everybody, nothing) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: registered", name)
				}
			}()
			f()
		}()
	}
}

func TestOneHeldConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, id.Core, Hooks{})
		defer w.stop()
		w.server.Handle("m", Everybody, nothing)
		results := make(chan error, 100)
		for range cap(results) {
			go func() { results <- w.client.Call(t.Context(), w.node, "m", nil, nil) }()
		}
		for range cap(results) {
			must(t, <-results)
		}
		if n := w.dials.Load(); n != 1 {
			t.Errorf("%d dials for 100 calls at once", n)
		}
		// After the connection broke the next call makes a new one.
		w.b.Kill()
		if err := w.client.Call(t.Context(), w.node, "m", nil, nil); !wire.IsCode(err, wire.CodeUnavailable) {
			t.Errorf("call of a killed peer: %v", err)
		}
		var e *wire.Error
		if err := w.client.Call(t.Context(), w.node, "m", nil, nil); !errors.As(err, &e) || e.Detail["sent"] != "no" || !e.Unsent() {
			t.Errorf("a call that was never sent does not say so: %v", err)
		}
	})
}

func TestErrorsOfHandlers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		own := errors.New("of the agent's own")
		w := newWorld(t, id.Core, Hooks{Convert: func(err error) *wire.Error {
			if errors.Is(err, own) {
				return wire.Errorf(wire.CodeNoQuorum, "converted")
			}
			return nil
		}})
		defer w.stop()
		for name, c := range map[string]struct {
			err  error
			want wire.Code
		}{
			"typed":    {fmt.Errorf("x: %w", wire.Errorf(wire.CodeStaleEpoch, "old")), wire.CodeStaleEpoch},
			"own":      {fmt.Errorf("x: %w", own), wire.CodeNoQuorum},
			"deadline": {context.DeadlineExceeded, wire.CodeTimeout},
			"plain":    {errors.New("plain"), wire.CodeInternal},
		} {
			w.server.Handle(name, Everybody, func(context.Context, *Request) (any, error) { return nil, c.err })
			if err := w.client.Call(t.Context(), w.node, name, nil, nil); !wire.IsCode(err, c.want) {
				t.Errorf("%s: %v", name, err)
			}
		}
		w.server.Handle("panic", Everybody, func(context.Context, *Request) (any, error) { panic("secret detail") })
		if err := w.client.Call(t.Context(), w.node, "panic", nil, nil); !wire.IsCode(err, wire.CodeInternal) || strings.Contains(err.Error(), "secret") {
			t.Errorf("panic: %v", err)
		}
		w.server.Handle("odd", Everybody, func(context.Context, *Request) (any, error) { return func() {}, nil })
		if err := w.client.Call(t.Context(), w.node, "odd", nil, nil); !wire.IsCode(err, wire.CodeInternal) {
			t.Errorf("answer that cannot be encoded: %v", err)
		}
	})
}

func TestBodyLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, id.Core, Hooks{})
		defer w.stop()
		size := func(_ context.Context, r *Request) (any, error) { return len(r.Body), nil }
		w.server.Handle("small", Everybody, size, BodyLimit(10))
		w.server.Handle("large", Everybody, size, BodyLimit(1<<40))
		for _, c := range []struct {
			method string
			size   int
			want   wire.Code
		}{{"small", 10, ""}, {"small", 11, wire.CodeInvalid}, {"large", 10 << 20, ""}} {
			if _, err := w.client.CallRaw(t.Context(), w.node, c.method, make([]byte, c.size)); wire.CodeOf(err) != c.want {
				t.Errorf("%d bytes to %s: %v", c.size, c.method, err)
			}
		}
	})
}

// TestConnectionsShareTheRoomOfTheirPeer: what a peer may have in bodies does not grow with its connections, and it does
// not take the room of others.
func TestConnectionsShareTheRoomOfTheirPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, id.Edge, Hooks{})
		defer w.stop()
		var running atomic.Int32
		end := make(chan struct{})
		w.server.Handle("large", Everybody, func(context.Context, *Request) (any, error) {
			running.Add(1)
			<-end
			return nil, nil
		}, BodyLimit(MaxBody))
		const size = maxUnread/2 + 1
		call := func(node id.Node, done chan<- error) {
			near, far := net.Pipe()
			go w.server.ServeConn(t.Context(), far, wire.Peer{Node: node, Class: id.Edge})
			own, err := NewServer(Hooks{}, zerolog.Nop())
			must(t, err)
			c := NewClient(wire.Peer{Node: node}, own, func(context.Context, id.Node) (net.Conn, wire.Peer, error) { return near, wire.Peer{}, nil }, Hooks{})
			_, err = c.CallRaw(t.Context(), w.node, "large", make([]byte, size))
			c.Close()
			done <- err
		}
		one, other := id.NewNode(), id.NewNode()
		done := make(chan error, 4)
		for range 3 {
			go call(one, done)
		}
		go call(other, done)
		<-time.After(5 * time.Second)
		if n := running.Load(); n != 2 {
			t.Errorf("%d bodies are held, want one of each peer", n)
		}
		close(end)
		for range cap(done) {
			must(t, <-done)
		}
		synctest.Wait()
		w.server.roomsMu.Lock()
		defer w.server.roomsMu.Unlock()
		if len(w.server.rooms) != 0 {
			t.Errorf("%d peers without a connection are remembered", len(w.server.rooms))
		}
	})
}

func TestDeadlineReachesTheHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, id.Core, Hooks{})
		defer w.stop()
		left := make(chan time.Duration, 1)
		w.server.Handle("m", Everybody, func(ctx context.Context, _ *Request) (any, error) {
			until, ok := ctx.Deadline()
			if !ok {
				return nil, errors.New("no deadline")
			}
			left <- time.Until(until)
			<-ctx.Done()
			return nil, ctx.Err()
		})
		began := time.Now()
		err := w.client.Call(t.Context(), w.node, "m", nil, nil)
		if d := <-left; d != DefaultTimeout || !wire.IsCode(err, wire.CodeTimeout) || time.Since(began) != DefaultTimeout {
			t.Errorf("handler had %s, caller %v after %s", d, err, time.Since(began))
		}
	})
}

func TestStreamEndsWithItsReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, id.Core, Hooks{})
		defer w.stop()
		ended := make(chan error, 2)
		endless := func(context.Context, *Request) (func(context.Context, io.Writer) error, error) {
			return func(ctx context.Context, out io.Writer) error {
				for {
					select {
					case <-ctx.Done():
						ended <- ctx.Err()
						return ctx.Err()
					case <-time.After(time.Second):
						if _, err := out.Write([]byte("tick\n")); err != nil {
							ended <- err
							return err
						}
					}
				}
			}, nil
		}
		w.server.HandleStream("s", Everybody, endless)
		w.client.local.HandleStream("s", Everybody, endless)
		for _, node := range []id.Node{w.node, w.client.self.Node} {
			s, err := w.client.Stream(t.Context(), node, "s", nil)
			must(t, err)
			b := make([]byte, 5)
			began := time.Now()
			_, err = io.ReadFull(s, b)
			must(t, err)
			if took := time.Since(began); took != time.Second {
				t.Errorf("the first line came after %s", took)
			}
			must(t, s.Close())
			<-ended
		}
		if _, err := w.client.CallRaw(t.Context(), w.client.self.Node, "s", nil); !wire.IsCode(err, wire.CodeInvalid) {
			t.Errorf("a stream was called: %v", err)
		}
	})
}

// TestCallsKeepTheRoomOfTheirPeer: a call that outlives its connection counts as long as it runs.
func TestCallsKeepTheRoomOfTheirPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, id.Edge, Hooks{})
		defer w.stop()
		end := make(chan struct{})
		w.server.Handle("slow", Everybody, func(context.Context, *Request) (any, error) {
			<-end
			return nil, nil
		})
		near, far := net.Pipe()
		node := id.NewNode()
		over := make(chan struct{})
		go func() {
			defer close(over)
			w.server.ServeConn(t.Context(), far, wire.Peer{Node: node, Class: id.Edge})
		}()
		own, err := NewServer(Hooks{}, zerolog.Nop())
		must(t, err)
		c := NewClient(wire.Peer{Node: node}, own, func(context.Context, id.Node) (net.Conn, wire.Peer, error) { return near, wire.Peer{}, nil }, Hooks{})
		go func() { _, _ = c.CallRaw(t.Context(), w.node, "slow", nil) }()
		synctest.Wait()
		c.Close()
		_ = near.Close()
		<-over
		rooms := func() int {
			w.server.roomsMu.Lock()
			defer w.server.roomsMu.Unlock()
			return len(w.server.rooms)
		}
		if rooms() != 1 {
			t.Error("the room of a call that runs is forgotten")
		}
		close(end)
		synctest.Wait()
		if rooms() != 0 {
			t.Error("the room of a peer that is gone is kept")
		}
	})
}

// Nodes that were called once and never came back are not remembered for ever.
func TestBrokenConnectionsAreLetGo(t *testing.T) {
	t.Parallel()
	self := wire.Peer{Node: id.NewNode()}
	own, err := NewServer(Hooks{}, zerolog.Nop())
	must(t, err)
	c := NewClient(self, own, func(context.Context, id.Node) (net.Conn, wire.Peer, error) {
		return nil, wire.Peer{}, errors.New("gone")
	}, Hooks{})
	defer c.Close()
	for range 10 * sweepFrom {
		if err := c.Call(t.Context(), id.NewNode(), "m", nil, nil); err == nil {
			t.Fatal("a node that is gone answers")
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.held) > 2*sweepFrom {
		t.Errorf("%d are held", len(c.held))
	}
}
