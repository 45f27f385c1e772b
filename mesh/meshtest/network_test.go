package meshtest

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// joined gives both ends of a connection between two new hosts.
func joined(t *testing.T) (n *Network, a, b *Host, near, far net.Conn) {
	t.Helper()
	n = New(1)
	a, b = n.Host("10.0.0.1"), n.Host("10.0.0.2")
	l, err := b.Listen(t.Context(), "10.0.0.2:80")
	must(t, err)
	near, err = a.Dial(t.Context(), "10.0.0.2:80")
	must(t, err)
	far, err = l.Accept()
	must(t, err)
	return n, a, b, near, far
}

func exchange(t *testing.T, from, to net.Conn) time.Duration {
	t.Helper()
	began := time.Now()
	_, err := from.Write([]byte("hello"))
	must(t, err)
	b := make([]byte, 5)
	_, err = io.ReadFull(to, b)
	must(t, err)
	if string(b) != "hello" {
		t.Errorf("got %q", b)
	}
	return time.Since(began)
}

func TestDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, a, b, near, far := joined(t)
		if d := exchange(t, near, far); d != 0 {
			t.Errorf("took %s", d)
		}
		n.Delay(a, b, 70*time.Millisecond)
		if d := exchange(t, near, far); d != 70*time.Millisecond {
			t.Errorf("took %s", d)
		}
		if d := exchange(t, far, near); d != 0 {
			t.Errorf("the other way took %s", d)
		}
		// What is written later never overtakes.
		_, err := near.Write([]byte("1"))
		must(t, err)
		n.Delay(a, b, 0)
		_, err = near.Write([]byte("2"))
		must(t, err)
		got := make([]byte, 2)
		_, err = io.ReadFull(far, got)
		must(t, err)
		if string(got) != "12" {
			t.Errorf("got %q", got)
		}
	})
}

func TestOneWayBlockAndHeal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, a, b, near, far := joined(t)
		n.Block(a, b)
		_, err := near.Write([]byte("hello"))
		must(t, err)
		must(t, far.SetReadDeadline(time.Now().Add(time.Minute)))
		if _, err := far.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read through a block: %v", err)
		}
		must(t, far.SetReadDeadline(time.Time{}))
		exchange(t, far, near)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := a.Dial(ctx, "10.0.0.2:80"); err == nil {
			t.Error("dialled through a block")
		}
		n.Heal()
		b5 := make([]byte, 5)
		_, err = io.ReadFull(far, b5)
		must(t, err)
	})
}

func TestKillAndUnplug(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, a, b, near, _ := joined(t)
		b.Kill()
		if _, err := near.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("read from a killed host: %v", err)
		}
		if _, err := a.Dial(t.Context(), "10.0.0.2:80"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("dial to a killed host: %v", err)
		}
		_, a, b, near, far := joined(t)
		b.Unplug()
		b.Kill()
		must(t, near.SetReadDeadline(time.Now().Add(time.Minute)))
		if _, err := near.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("an unplugged host told of its end: %v", err)
		}
		if _, err := near.Write([]byte("x")); err != nil {
			t.Errorf("write to an unplugged host: %v", err)
		}
		_ = far.Close()
		_ = a
	})
}

func TestCloseDeliversWhatWasWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, a, b, near, far := joined(t)
		n.Delay(a, b, time.Second)
		_, err := near.Write([]byte("bye"))
		must(t, err)
		must(t, near.Close())
		got, err := io.ReadAll(far)
		if string(got) != "bye" || err != nil {
			t.Errorf("got %q, %v", got, err)
		}
		if _, err := near.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("read after close: %v", err)
		}
		if _, err := far.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
			t.Errorf("write to a closed end: %v", err)
		}
	})
}

func TestFullWindowBlocksUntilDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, _, _, near, far := joined(t)
		must(t, near.SetWriteDeadline(time.Now().Add(time.Second)))
		n, err := near.Write(make([]byte, window+1))
		if n != window || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("wrote %d, %v", n, err)
		}
		must(t, near.SetWriteDeadline(time.Time{}))
		go func() { _, _ = io.Copy(io.Discard, far) }()
		_, err = near.Write([]byte("x"))
		must(t, err)
		must(t, near.Close())
	})
}

func TestLossOnlyDelays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, a, b, near, far := joined(t)
		n.Drop(a, b, 0.5)
		began := time.Now()
		for range 100 {
			_, err := near.Write([]byte("x"))
			must(t, err)
		}
		_, err := io.ReadFull(far, make([]byte, 100))
		must(t, err)
		if took := time.Since(began); took < 200*time.Millisecond || took > 10*time.Second {
			t.Errorf("took %s", took)
		}
	})
}

func TestAddressInUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New(1)
		h := n.Host("10.0.0.1")
		l, err := h.Listen(t.Context(), "10.0.0.1:80")
		must(t, err)
		if _, err := h.Listen(t.Context(), "10.0.0.1:80"); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("second listener: %v", err)
		}
		must(t, l.Close())
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("accept after close: %v", err)
		}
		_, err = h.Listen(t.Context(), "10.0.0.1:80")
		must(t, err)
	})
}
