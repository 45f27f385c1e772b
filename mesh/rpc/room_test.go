package rpc

import (
	"context"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/mesh/wire"
)

// open makes one more connection to the server for a node.
func (w *world) open(t *testing.T, node id.Node) *Client {
	t.Helper()
	near, far := net.Pipe()
	go w.server.ServeConn(t.Context(), far, wire.Peer{Node: node, Class: id.Edge})
	own, err := NewServer(Hooks{}, zerolog.Nop())
	must(t, err)
	return NewClient(wire.Peer{Node: node}, own, func(context.Context, id.Node) (net.Conn, wire.Peer, error) { return near, wire.Peer{}, nil }, Hooks{})
}

// slowly is a handler that is not done before it is told, and how many of its calls run.
func slowly() (h Handler, running *atomic.Int32, end func()) {
	running = new(atomic.Int32)
	done := make(chan struct{})
	return func(context.Context, *Request) (any, error) {
		running.Add(1)
		defer running.Add(-1)
		<-done
		return nil, nil
	}, running, func() { close(done) }
}

// A peer is answered so many calls at once and no more, however many connections it has; others have their own, and so have streams.
func TestCallsOfAPeerAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, id.Edge, Hooks{})
		defer w.stop()
		slow, running, end := slowly()
		w.server.Handle("slow", Everybody, slow)
		w.server.Handle("m", Everybody, nothing)
		w.server.HandleStream("s", Everybody, func(context.Context, *Request) (func(context.Context, io.Writer) error, error) {
			return func(ctx context.Context, _ io.Writer) error { <-ctx.Done(); return ctx.Err() }, nil
		})
		node := id.NewNode()
		one, two := w.open(t, node), w.open(t, node)
		results := make(chan error, 2*(maxCalls-28))
		for range cap(results) / 2 {
			for _, c := range []*Client{one, two} {
				go func() { results <- c.Call(t.Context(), w.node, "slow", nil, nil) }()
			}
		}
		synctest.Wait()
		if n := running.Load(); n != maxCalls {
			t.Errorf("%d calls of one peer run", n)
		}
		for range cap(results) - maxCalls {
			if err := <-results; !wire.IsCode(err, wire.CodeBusy) {
				t.Fatalf("one call too many: %v", err)
			}
		}
		for range maxHeld {
			if _, err := one.Stream(t.Context(), w.node, "s", nil); err != nil {
				t.Fatalf("a stream beside the calls: %v", err)
			}
		}
		if _, err := two.Stream(t.Context(), w.node, "s", nil); !wire.IsCode(err, wire.CodeBusy) {
			t.Errorf("one stream too many: %v", err)
		}
		other := w.open(t, id.NewNode())
		must(t, other.Call(t.Context(), w.node, "m", nil, nil))
		end()
		for range maxCalls {
			must(t, <-results)
		}
		must(t, two.Call(t.Context(), w.node, "m", nil, nil))
		for _, c := range []*Client{one, two, other} {
			c.Close()
		}
	})
}

func TestCallsOfACostlyMethodAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, id.Edge, Hooks{})
		defer w.stop()
		slow, running, end := slowly()
		w.server.Handle("costly", Everybody, slow, AtOnce(2))
		w.server.Handle("m", Everybody, nothing)
		node := id.NewNode()
		one, two, other := w.open(t, node), w.open(t, node), w.open(t, id.NewNode())
		results := make(chan error, 4)
		for _, c := range []*Client{one, two, other} {
			go func() { results <- c.Call(t.Context(), w.node, "costly", nil, nil) }()
		}
		synctest.Wait()
		if err := two.Call(t.Context(), w.node, "costly", nil, nil); !wire.IsCode(err, wire.CodeBusy) || running.Load() != 3 {
			t.Errorf("one call too many: %v; %d run", err, running.Load())
		}
		must(t, two.Call(t.Context(), w.node, "m", nil, nil))
		end()
		for range 3 {
			must(t, <-results)
		}
		must(t, two.Call(t.Context(), w.node, "costly", nil, nil))
		for _, c := range []*Client{one, two, other} {
			c.Close()
		}
	})
}

func TestConnectionsOfAPeerAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, id.Edge, Hooks{})
		defer w.stop()
		w.server.Handle("m", Everybody, nothing)
		node := id.NewNode()
		var open []*Client
		for range maxConns {
			c := w.open(t, node)
			must(t, c.Call(t.Context(), w.node, "m", nil, nil))
			open = append(open, c)
		}
		more := w.open(t, node)
		if err := more.Call(t.Context(), w.node, "m", nil, nil); !wire.IsCode(err, wire.CodeUnavailable) {
			t.Errorf("one connection too many: %v", err)
		}
		other := w.open(t, id.NewNode())
		must(t, other.Call(t.Context(), w.node, "m", nil, nil))
		open[0].Close()
		synctest.Wait()
		again := w.open(t, node)
		must(t, again.Call(t.Context(), w.node, "m", nil, nil))
		for _, c := range append(open, more, other, again) {
			c.Close()
		}
		synctest.Wait()
		w.server.roomsMu.Lock()
		defer w.server.roomsMu.Unlock()
		if len(w.server.rooms) != 0 {
			t.Errorf("%d peers without a connection are remembered", len(w.server.rooms))
		}
	})
}

// Answers take room of their own: what is read slowly keeps others of the peer waiting, and so much may wait.
func TestRoomForAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, id.Edge, Hooks{})
		defer w.stop()
		r := w.server.enter(id.NewNode())
		must(t, r.bodies.Acquire(t.Context(), maxUnread)) // a call's own request is not in its answer's way
		largest, err := r.hold(t.Context(), MaxBody)
		must(t, err)
		small, err := r.hold(t.Context(), smallAnswer)
		must(t, err)
		small()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		if _, err := r.hold(ctx, smallAnswer+1); !wire.IsCode(err, wire.CodeTimeout) || time.Since(began) != time.Second {
			t.Errorf("waited %s for room: %v", time.Since(began), err)
		}
		waited := make(chan error, 1)
		go func() {
			done, err := r.hold(t.Context(), MaxBody)
			if err == nil {
				done()
			}
			waited <- err
		}()
		synctest.Wait()
		if _, err := r.hold(t.Context(), smallAnswer+1); !wire.IsCode(err, wire.CodeBusy) {
			t.Errorf("too much waits: %v", err)
		}
		if _, err := r.hold(t.Context(), MaxBody+1); !wire.IsCode(err, wire.CodeInvalid) {
			t.Errorf("larger than anything: %v", err)
		}
		largest()
		must(t, <-waited)
	})
}

// A call whose answer finds no room in time is refused, and its answer is let go.
func TestAnswersThatAreNotReadAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, id.Edge, Hooks{})
		defer w.stop()
		w.server.Handle("large", Everybody, func(context.Context, *Request) (any, error) { return make([]byte, maxUnsent/2+1), nil })
		p := dialRaw(t, w.server, 0)
		first, second, third := p.call("large"), p.call("large"), p.call("large")
		synctest.Wait()
		refused := 0
		for _, stream := range []uint32{first, second, third} {
			if p.status(stream) == "422" {
				refused++
			}
		}
		if refused != 1 {
			t.Errorf("%d of three are refused at once: one is written and one waits", refused)
		}
		<-time.After(2*writeTime + time.Second)
		for _, stream := range []uint32{first, second, third} {
			if !p.ended(stream) {
				t.Errorf("stream %d still waits", stream)
			}
		}
		p.close()
	})
}

// An answer that is not taken does not stay for ever, be it large, small, an error or a stream.
func TestAnswerThatIsNotReadEnds(t *testing.T) {
	for name, handle := range map[string]func(s *Server){
		"large": func(s *Server) {
			s.Handle("m", Everybody, func(context.Context, *Request) (any, error) { return make([]byte, 1<<20), nil })
		},
		"small": func(s *Server) { s.Handle("m", Everybody, nothing) },
		"error": func(s *Server) {
			s.Handle("m", Everybody, func(context.Context, *Request) (any, error) { return nil, errors.New("deliberate") })
		},
		"unknown": func(*Server) {},
		"stream": func(s *Server) {
			s.HandleStream("m", Everybody, func(context.Context, *Request) (func(context.Context, io.Writer) error, error) {
				return func(_ context.Context, w io.Writer) error {
					if _, err := w.Write([]byte("x")); err != nil {
						return err
					}
					<-time.After(10 * writeTime) // a stream that has nothing to say is kept
					_, err := w.Write([]byte("y"))
					return err
				}, nil
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, id.Edge, Hooks{})
				defer w.stop()
				handle(w.server)
				window := uint32(0)
				if name == "stream" {
					window = 1
				}
				p := dialRaw(t, w.server, window)
				stream := p.call("m")
				if name == "stream" {
					<-time.After(10 * writeTime)
				}
				<-time.After(writeTime - time.Second)
				if p.ended(stream) {
					t.Error("ended at once")
				}
				<-time.After(2 * time.Second)
				if !p.ended(stream) {
					t.Error("still there")
				}
				p.close()
			})
		})
	}
}

// A slow reader is no reason to end an answer: it is told by each piece, not by the whole.
func TestSlowReaderGetsTheWholeAnswer(t *testing.T) {
	for name, handle := range map[string]func(s *Server, answer []byte){
		"call": func(s *Server, answer []byte) {
			s.Handle("m", Everybody, func(context.Context, *Request) (any, error) { return answer, nil })
		},
		"stream": func(s *Server, answer []byte) {
			s.HandleStream("m", Everybody, func(context.Context, *Request) (func(context.Context, io.Writer) error, error) {
				return func(_ context.Context, w io.Writer) error {
					_, err := w.Write(answer)
					return err
				}, nil
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, id.Edge, Hooks{})
				defer w.stop()
				answer := make([]byte, 20*writePiece+1)
				handle(w.server, answer)
				p := dialRaw(t, w.server, 0)
				stream := p.call("m")
				for range 21 {
					<-time.After(writeTime / 2)
					p.grant(stream, writePiece)
				}
				synctest.Wait()
				if p.ended(stream) || p.received(stream) != len(answer) {
					t.Errorf("%d of %d bytes, ended %v", p.received(stream), len(answer), p.ended(stream))
				}
				p.close()
			})
		})
	}
}
