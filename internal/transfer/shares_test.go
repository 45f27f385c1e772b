package transfer

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ringagent/ringagent/internal/id"
)

// slowPiece is how long a slow peer takes for 256 KiB: it makes progress, and little.
const slowPiece = 10 * time.Second

// slow adds a holder that sends as little as it may.
func (n *network) slow(t testing.TB, node id.Node, files ...[]byte) {
	t.Helper()
	of := map[id.Digest][]byte{}
	for _, b := range files {
		of[id.DigestOf(b)] = b
	}
	n.liar(node, func(q request, w io.Writer) bool {
		if q.op == opManifest {
			return ok(w, manifestOf(t, of[q.digest]).encode())
		}
		b := chunksOf(of[q.digest], q)
		_, err := w.Write(answerHeader(statusOK, int64(len(b))))
		for len(b) > 0 && err == nil {
			time.Sleep(slowPiece)
			_, err = w.Write(b[:min(piece, len(b))])
			b = b[min(piece, len(b)):]
		}
		return err == nil
	})
}

// fetchAll begins to fetch files from one holder, and waits until nothing more happens at once.
func fetchAll(t *testing.T, c *Client, group *sync.WaitGroup, node id.Node, files ...[]byte) {
	t.Helper()
	for _, b := range files {
		group.Go(func() {
			if _, err := c.Fetch(t.Context(), id.DigestOf(b), int64(len(b)), []id.Node{node}); err != nil {
				t.Error(err)
			}
		})
	}
	synctest.Wait()
}

// A slow holder with many artifacts does not keep those of others from being fetched, be they only there or there as well.
func TestSlowHolderLeavesStreamsToOthers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		files := [][]byte{noise(ChunkSize, 40), noise(ChunkSize, 41), noise(ChunkSize, 42), noise(ChunkSize, 43), noise(ChunkSize, 44), noise(ChunkSize, 45)}
		from, to, ring := newStore(t), newStore(t), newNetwork(t)
		ring.slow(t, bad, files[:5]...)
		from.put(t, files[4])
		from.put(t, files[5])
		ring.honest(t, good, from)
		c := newClient(t, to, ring, Options{Progress: 15 * time.Second})
		var group sync.WaitGroup
		fetchAll(t, c, &group, bad, files[:4]...)
		began := time.Now()
		for i, holders := range [][]id.Node{{bad, good}, {good}} {
			if _, err := c.Fetch(t.Context(), id.DigestOf(files[4+i]), ChunkSize, holders); err != nil {
				t.Error(err)
			}
		}
		if waited := time.Since(began); waited != 0 || ring.dialled(bad) != 3 {
			t.Errorf("the others waited %s, %d streams from the slow one", waited, ring.dialled(bad))
		}
		group.Wait()
	})
}

// Who stops waiting for a stream leaves none behind.
func TestLanesAreGivenBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLanes(2)
		for range 2 {
			if _, err := l.take(t.Context(), []id.Node{bad, good}); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		results := make(chan error, 1)
		go func() {
			_, err := l.take(ctx, []id.Node{other})
			results <- err
		}()
		synctest.Wait()
		cancel()
		if err := <-results; !errors.Is(err, context.Canceled) || len(l.waiting) != 0 {
			t.Errorf("%v; %d wait still", err, len(l.waiting))
		}
		// One that is given a stream while it stops waiting gives it back.
		for range 200 {
			ctx, cancel := context.WithCancel(t.Context())
			var group sync.WaitGroup
			group.Go(func() {
				if node, err := l.take(ctx, []id.Node{good}); err == nil {
					l.give(node)
				}
			})
			synctest.Wait()
			cancel()
			l.give(good)
			group.Wait()
			if _, err := l.take(t.Context(), []id.Node{good}); err != nil {
				t.Fatal(err)
			}
		}
		l.give(bad)
		l.give(good)
		if l.free != 2 || len(l.busy) != 0 || len(l.waiting) != 0 {
			t.Errorf("%+v", l)
		}
	})
}

// reader is a peer's connection to a server.
func reader(t *testing.T, s *Server, peer id.Node) net.Conn {
	t.Helper()
	near, far := net.Pipe()
	go func() { _ = s.Serve(t.Context(), peer, far) }()
	t.Cleanup(func() { _ = near.Close() })
	return near
}

// begin asks for chunks, and says how the answer begins.
func begin(t *testing.T, conn net.Conn, d id.Digest, count uint32) byte {
	t.Helper()
	b, err := request{op: opChunks, digest: d, count: count}.encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(b); err != nil {
		t.Fatal(err)
	}
	var head [answerSize]byte
	if _, err := io.ReadFull(conn, head[:]); err != nil {
		t.Fatal(err)
	}
	if head[0] != statusOK {
		if _, err := io.CopyN(io.Discard, conn, int64(head[8])); err != nil {
			t.Fatal(err)
		}
	}
	return head[0]
}

// One peer that opens many connections has its share of the streams, and a little more while they are free.
func TestOnePeerLeavesStreamsToOthers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		from := newStore(t)
		d := from.put(t, noise(ChunkSize, 60))
		s, err := NewServer(from, Options{})
		if err != nil {
			t.Fatal(err)
		}
		for i, c := range []struct {
			peer id.Node
			want int
		}{{bad, 4}, {good, 2}, {other, 2}, {self, 0}} {
			got := 0
			for range 8 {
				if begin(t, reader(t, s, c.peer), d, 1) == statusOK {
					got++
				}
			}
			if got != c.want {
				t.Errorf("peer %d has %d streams, want %d", i, got, c.want)
			}
		}
		time.Sleep(s.o.Progress + time.Second) // they read nothing
		if begin(t, reader(t, s, self), d, 1) != statusOK {
			t.Error("no stream is free again")
		}
	})
}

// However slow transfers are, none is cut for others that wait: on a slow link all are slow, and each would begin again.
func TestSlowTransfersAreNotCut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		large, small := noise(3*ChunkSize, 50), noise(1000, 51)
		from, to, ring := newStore(t), newStore(t), newNetwork(t)
		from.put(t, small)
		ring.slow(t, bad, large)
		ring.honest(t, good, from)
		c := newClient(t, to, ring, Options{Progress: 15 * time.Second, Streams: 1})
		var group sync.WaitGroup
		fetchAll(t, c, &group, bad, large)
		fetchAll(t, c, &group, good, small)
		group.Wait()
		if n := ring.dialled(bad); n != 1 {
			t.Errorf("%d connections to the slow one", n)
		}

		d := from.put(t, noise(3*ChunkSize, 52))
		s, err := NewServer(from, Options{Streams: 1})
		if err != nil {
			t.Fatal(err)
		}
		conn := reader(t, s, bad)
		if begin(t, conn, d, 3) != statusOK || begin(t, reader(t, s, good), d, 1) != statusBusy {
			t.Fatal("not one stream")
		}
		for range 3 * ChunkSize / piece {
			if _, err := io.CopyN(io.Discard, conn, piece); err != nil {
				t.Fatal(err)
			}
			time.Sleep(slowPiece)
		}
	})
}

// panicking is a Dialer with a fault.
type panicking struct{}

func (panicking) DialBlob(context.Context, id.Node) (net.Conn, error) { panic("fault") }

// A fetch that panics leaves its stream to the others.
func TestPanicGivesTheStreamBack(t *testing.T) {
	t.Parallel()
	c, err := NewClient(self, newStore(t), panicking{}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	func() {
		defer func() {
			if recover() == nil {
				t.Error("no panic")
			}
		}()
		_, _ = c.Fetch(t.Context(), id.DigestOf([]byte("x")), 0, []id.Node{bad})
	}()
	if c.streams.free != 4 || len(c.streams.busy) != 0 {
		t.Errorf("%+v", c.streams)
	}
}
