package wire

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ringagent/ringagent/internal/id"
)

func TestPlainBytesGoToTheOperatorsAPI(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.stop()
		server := w.serve(w.certify(id.Core, nil), "10.0.0.1", w.roster, Limits{})
		c, err := w.net.Host("10.0.0.9").Dial(t.Context(), server.addr)
		must(t, err)
		defer c.Close()
		_, err = c.Write([]byte("GET / HTTP/1.1\r\n"))
		must(t, err)
		got, err := server.end.PlainHTTP().Accept()
		must(t, err)
		defer got.Close()
		b := make([]byte, 16)
		_, err = io.ReadFull(got, b)
		must(t, err)
		if string(b) != "GET / HTTP/1.1\r\n" {
			t.Errorf("got %q", b)
		}
		if got.RemoteAddr().String() != c.LocalAddr().String() {
			t.Errorf("remote address %s", got.RemoteAddr())
		}
		// The deadline of the handshake is gone.
		<-time.After(time.Minute)
		_, err = got.Write([]byte("x"))
		must(t, err)
	})
}

// TestSlowLoris opens far more connections than the lobby holds, from many addresses, that say nothing or half a hello.
func TestSlowLoris(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.stop()
		limits := Limits{HalfOpen: 32, HalfOpenPerIP: 8}
		server := w.serve(w.certify(id.Core, nil), "10.0.0.1", w.roster, limits)
		friend := w.serve(w.certify(id.Edge, nil), "10.0.0.2", w.roster, Limits{})
		for i := range 400 {
			c, err := w.net.Host(fmt.Sprintf("10.1.%d.1", i%50)).Dial(t.Context(), server.addr)
			must(t, err)
			defer c.Close()
			if i%2 == 0 {
				_, _ = c.Write([]byte{0x16, 3, 1, 0x02})
			}
			if i%40 == 0 {
				must(t, friend.reach(server, RPC))
			}
		}
		synctest.Wait()
		server.end.lobby.mu.Lock()
		held := server.end.lobby.waiting.Len()
		server.end.lobby.mu.Unlock()
		if held > limits.HalfOpen {
			t.Errorf("%d half-open connections are held, the limit is %d", held, limits.HalfOpen)
		}
		must(t, friend.reach(server, RPC))
		<-time.After(6 * time.Second)
		server.end.lobby.mu.Lock()
		held = server.end.lobby.waiting.Len()
		server.end.lobby.mu.Unlock()
		if held != 0 {
			t.Errorf("%d half-open connections outlive the deadline", held)
		}
	})
}

func TestOneAddressCannotFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.stop()
		server := w.serve(w.certify(id.Core, nil), "10.0.0.1", w.roster, Limits{PerIPRate: 20, PerIPBurst: 10})
		served := make(chan struct{}, 1000)
		go func() {
			for {
				c, err := server.end.PlainHTTP().Accept()
				if err != nil {
					return
				}
				served <- struct{}{}
				_ = c.Close()
			}
		}()
		flooder := w.net.Host("10.0.0.9")
		for range 200 {
			c, err := flooder.Dial(t.Context(), server.addr)
			must(t, err)
			_, _ = c.Write([]byte("G"))
			defer c.Close()
		}
		synctest.Wait()
		if n := len(served); n != 10 {
			t.Errorf("%d connections at once were served, want the burst of 10", n)
		}
		friend := w.serve(w.certify(id.Edge, nil), "10.0.0.2", w.roster, Limits{})
		must(t, friend.reach(server, RPC))
	})
}

// TestRandomFirstBytes sends rubbish, cut hellos and rubbish after a hello, on real sockets too; the port must go on.
// TestOneAdmittedPeerCannotFlood is a peer that opens connections and never closes them.
func TestOneAdmittedPeerCannotFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.stop()
		server := w.serve(w.certify(id.Core, nil), "10.0.0.1", w.roster, Limits{})
		leaky := w.serve(w.certify(id.Edge, nil), "10.0.0.2", w.roster, Limits{})
		friend := w.serve(w.certify(id.Edge, nil), "10.0.0.3", w.roster, Limits{})
		leaky.end.cfg.Book.Add(server.node, server.addr)
		var open []*Conn
		for range maxPerPeer {
			c, err := leaky.end.Dial(t.Context(), server.node, RPC)
			must(t, err)
			open = append(open, c)
			<-time.After(time.Second / 10)
		}
		if c, err := leaky.end.Dial(t.Context(), server.node, RPC); !IsCode(err, CodeUnavailable) {
			t.Errorf("one more: %v, %v", c, err)
		}
		must(t, friend.reach(server, RPC))
		must(t, server.reach(leaky, RPC)) // what this node itself wants of it is not held up
		for _, c := range open {
			must(t, c.Close())
		}
		synctest.Wait()
		must(t, leaky.reach(server, RPC))
	})
}

func TestRandomFirstBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.stop()
		server := w.serve(w.certify(id.Core, nil), "10.0.0.1", w.roster, Limits{PerIPRate: 1e6, PerIPBurst: 1e6})
		go func() {
			for {
				c, err := server.end.PlainHTTP().Accept()
				if err != nil {
					return
				}
				_ = c.Close()
			}
		}()
		random := rand.New(rand.NewPCG(1, 2))
		host := w.net.Host("10.0.0.9")
		for i := range 1000 {
			c, err := host.Dial(t.Context(), server.addr)
			must(t, err)
			b := make([]byte, random.IntN(200))
			for j := range b {
				b[j] = byte(random.Uint32())
			}
			if i%2 == 0 && len(b) > 5 {
				copy(b, []byte{0x16, 3, 1, 0, byte(random.IntN(256))})
			}
			_, _ = c.Write(b)
			if i%3 == 0 {
				_ = c.Close()
			} else {
				defer c.Close()
			}
		}
		<-time.After(10 * time.Second)
		friend := w.serve(w.certify(id.Edge, nil), "10.0.0.2", w.roster, Limits{})
		must(t, friend.reach(server, RPC))
		if n := server.end.Connections(); n > 1 {
			t.Errorf("%d connections are held as admitted", n)
		}
	})
}

func FuzzReadFrame(f *testing.F) {
	f.Add([]byte{0, 0, 0, 2, '{', '}'})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{0, 0, 0, 9, '{', '"', 'b'})
	f.Fuzz(func(t *testing.T, b []byte) {
		var g greeting
		if err := ReadFrame(bytes.NewReader(b), maxGreeting, &g); err != nil {
			return
		}
		var out bytes.Buffer
		must(t, WriteFrame(&out, g))
		var again greeting
		must(t, ReadFrame(&out, 4*maxGreeting, &again))
	})
}

func TestDialRacesAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.stop()
		a := w.serve(w.certify(id.Core, nil), "10.0.0.1", w.roster, Limits{})
		b := w.serve(w.certify(id.Core, nil), "10.0.0.2", w.roster, Limits{})
		// Two addresses into a black hole, one where nobody listens, and the right one last.
		hole := w.net.Host("10.9.9.9")
		hole.Unplug()
		a.end.cfg.Book.Add(b.node, b.addr)
		for _, addr := range []string{"10.0.0.7:1", "10.9.9.9:1", "10.9.9.9:2"} {
			a.end.cfg.Book.Add(b.node, addr)
		}
		began := time.Now()
		must(t, a.reach(b, RPC))
		if took := time.Since(began); took > time.Second {
			t.Errorf("took %s", took)
		}
		if got := a.end.cfg.Book.Address(b.node); got != b.addr {
			t.Errorf("best address is now %s", got)
		}
		began = time.Now()
		must(t, a.reach(b, RPC))
		if took := time.Since(began); took > 0 {
			t.Errorf("with the last good address first it still took %s", took)
		}
	})
}

func TestBookSurvives(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "peers.json")
	b, err := OpenBook(path)
	must(t, err)
	n := id.NewNode()
	b.Add(n, "10.0.0.1:8770")
	b.heard(n, []string{"10.0.0.2:8770", "no port", "10.0.0.2:8770"}, "192.0.2.1:8770")
	b.good(n, "192.0.2.1:8770")
	must(t, b.Save())
	info, err := os.Stat(path)
	must(t, err)
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	again, err := OpenBook(path)
	must(t, err)
	if diff := cmp.Diff(again.candidates(n, []string{"10.0.0.3:1"}), []string{"192.0.2.1:8770", "10.0.0.2:8770", "10.0.0.3:1"}); diff != "" {
		t.Error(diff)
	}
	must(t, os.WriteFile(path, []byte(`{"peers":`), 0o600))
	empty, err := OpenBook(path)
	if err == nil || len(empty.Nodes()) != 0 {
		t.Errorf("a cut file gave %v, %v", empty.Nodes(), err)
	}
}

func TestErrorsCompareByCode(t *testing.T) {
	t.Parallel()
	err := fmt.Errorf("outer: %w", Errorf(CodeConflict, "x").WithDetail("a", "b"))
	if !errors.Is(err, &Error{Code: CodeConflict}) || errors.Is(err, &Error{Code: CodeInvalid}) || !IsCode(err, CodeInvalid, CodeConflict) {
		t.Error("codes are not compared")
	}
	if IsCode(nil, "") || IsCode(errors.New("x"), "") {
		t.Error("an error without code has one")
	}
}

func TestLoopbackTCP(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	l, err := TCP{}.Listen(ctx, "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	c, err := TCP{}.Dial(ctx, l.Addr().String())
	must(t, err)
	_ = c.Close()
	cancel()
	if _, err := (TCP{}).Dial(ctx, l.Addr().String()); err == nil {
		t.Error("dialled with a context that had ended")
	}
	if ip, local := remoteIP(fakeConn{}); ip != "127.0.0.1" || !local {
		t.Errorf("%s %v", ip, local)
	}
	if !slices.Equal(cleaned([]string{"a:1", "", "b", ":1", "a:1"}, 3), []string{"a:1"}) {
		t.Error("addresses are not cleaned")
	}
}

type fakeConn struct{ net.Conn }

func (fakeConn) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }
