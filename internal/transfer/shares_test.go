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

// slowChunk is what a chunk takes then.
const slowChunk = ChunkSize / piece * slowPiece

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
		if waited := time.Since(began); waited != 0 || ring.dialled(bad) != 2 {
			t.Errorf("the others waited %s, %d streams from the slow one", waited, ring.dialled(bad))
		}
		group.Wait()
	})
}

// Where all streams are taken, transfers that are slow let others go first, and go on where they were.
func TestSlowFetchesGiveWay(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		want   bool
		streak time.Duration // that the slow ones take
		dials  int
	}{
		"somebody waits": {true, 3 * slowChunk, 8},
		"nobody waits":   {false, 3 * slowChunk, 4},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				large := [][]byte{noise(3*ChunkSize, 50), noise(3*ChunkSize, 51), noise(3*ChunkSize, 52), noise(3*ChunkSize, 53)}
				small := noise(1000, 54)
				from, to, ring := newStore(t), newStore(t), newNetwork(t)
				ring.slow(t, bad, large[:2]...)
				ring.slow(t, other, large[2:]...)
				from.put(t, small)
				ring.honest(t, good, from)
				client := newClient(t, to, ring, Options{Progress: 15 * time.Second})
				began := time.Now()
				var group sync.WaitGroup
				fetchAll(t, client, &group, bad, large[:2]...)
				fetchAll(t, client, &group, other, large[2:]...)
				if c.want {
					if _, err := client.Fetch(t.Context(), id.DigestOf(small), 0, []id.Node{good}); err != nil {
						t.Error(err)
					}
					if waited := time.Since(began); waited != slowChunk {
						t.Errorf("waited %s for a stream", waited)
					}
				}
				group.Wait()
				took, all := time.Since(began), int64(12*ChunkSize)
				if c.want {
					all += int64(len(small))
				}
				if took != c.streak || client.Received() != all {
					t.Errorf("took %s and %d bytes", took, client.Received())
				}
				if n := ring.dialled(bad) + ring.dialled(other); n > c.dials || n < 4 || c.want && n == 4 {
					t.Errorf("%d connections to the slow ones", n)
				}
			})
		})
	}
}

// What was fast once is judged by what it is now.
func TestPaceIsThatOfLate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const enough = leastRate * int64(leastTurn/time.Second)
		p := pace{since: time.Now(), bytes: 1 << 40}
		for i, c := range []struct {
			wait  time.Duration
			bytes int64 // since the last judgement, but for the first ones
			want  bool
		}{{leastTurn - 1, 1 << 40, false}, {1, 1 << 40, false}, {leastTurn - 1, 0, false}, {1, enough - 1, true}, {leastTurn, enough, false}} {
			time.Sleep(c.wait)
			if p.bytes = c.bytes; p.slow() != c.want {
				t.Errorf("judgement %d is not %v", i, c.want)
			}
		}
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
		if !l.wanted(bad) || !l.wanted(good) {
			t.Error("nobody is seen to wait")
		}
		cancel()
		if err := <-results; !errors.Is(err, context.Canceled) || l.wanted(bad) {
			t.Errorf("%v; waits still: %v", err, l.wanted(bad))
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

// drain reads slowly, and says how much came.
func drain(conn net.Conn) (n int64) {
	for {
		k, err := io.CopyN(io.Discard, conn, piece)
		if n += k; err != nil {
			return n
		}
		time.Sleep(slowPiece)
	}
}

// Peers that read slowly give way between two chunks when others find no stream.
func TestSlowReadersGiveWay(t *testing.T) {
	t.Parallel()
	for name, wanted := range map[string]bool{"somebody waits": true, "nobody waits": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				from := newStore(t)
				d := from.put(t, noise(2*ChunkSize, 61))
				s, err := NewServer(from, Options{})
				if err != nil {
					t.Fatal(err)
				}
				var group sync.WaitGroup
				for _, peer := range []id.Node{bad, "00000000000000b1", "00000000000000b2", "00000000000000b3"} {
					for range 2 {
						conn := reader(t, s, peer)
						if begin(t, conn, d, 2) != statusOK {
							t.Fatal("no stream")
						}
						group.Go(func() {
							want := int64(2 * ChunkSize)
							if wanted {
								want = ChunkSize
							}
							if got := drain(conn); got != want {
								t.Errorf("%d bytes, want %d", got, want)
							}
						})
					}
				}
				if wanted {
					conn := reader(t, s, good)
					if begin(t, conn, d, 1) != statusBusy {
						t.Error("there are more streams")
					}
					time.Sleep(slowChunk)
					if begin(t, reader(t, s, bad), d, 1) != statusBusy || begin(t, reader(t, s, good), d, 1) != statusOK {
						t.Error("no stream for who waited, or one for who was slow")
					}
					time.Sleep(leastTurn)
					if begin(t, reader(t, s, bad), d, 1) != statusOK {
						t.Error("a slow one is never served again")
					}
				}
				group.Wait()
			})
		})
	}
}
