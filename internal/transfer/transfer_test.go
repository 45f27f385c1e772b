package transfer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/time/rate"

	"github.com/google/go-cmp/cmp"

	"github.com/ringagent/ringagent/internal/id"
)

func TestFetchOfEverySize(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, ChunkSize - 1, ChunkSize, ChunkSize + 1, 3*ChunkSize + 5} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			from, to, ring := newStore(t), newStore(t), newNetwork(t)
			data := noise(n, 1)
			d := from.put(t, data)
			server := ring.honest(t, good, from)
			at := time.Date(2026, 11, 23, 1, 2, 3, 0, time.UTC)
			c := newClient(t, to, ring, Options{Now: func() time.Time { return at }})
			want := Receipt{Node: self, Digest: d, Bytes: int64(n), At: at}
			for range 2 { // the second finds it in the store
				got, err := c.Fetch(t.Context(), d, 0, []id.Node{self, good, good})
				if diff := cmp.Diff(want, got); diff != "" || err != nil {
					t.Fatal(diff, err)
				}
			}
			to.has(t, data)
			if server.Sent() != int64(n) || c.Received() != int64(n) || ring.dialled(good) != 1 {
				t.Errorf("sent %d, received %d, %d dials", server.Sent(), c.Received(), ring.dialled(good))
			}
		})
	}
}

// cut is a connection that ends after some bytes have been read from it.
type cut struct {
	net.Conn
	left int
	done func()
}

func (c *cut) Read(p []byte) (int, error) {
	if c.left == 0 {
		c.done()
		_ = c.Conn.Close()
		return 0, io.ErrUnexpectedEOF
	}
	n, err := c.Conn.Read(p[:min(len(p), c.left)])
	c.left -= n
	return n, err
}

type dialFunc func(context.Context, id.Node) (net.Conn, error)

func (f dialFunc) DialBlob(ctx context.Context, n id.Node) (net.Conn, error) { return f(ctx, n) }

func TestCutFetchGoesOnWhereItWas(t *testing.T) {
	t.Parallel()
	const size, chunk = 64 << 20, int64(ChunkSize)
	data := noise(size, 2)
	for name, c := range map[string]struct {
		between func(*dirStore, id.Digest) // while nobody runs
		resumes bool
	}{
		"as it is": {func(*dirStore, id.Digest) {}, true},
		// The broken variants: without a record, and with a record that cannot be trusted, everything is sent again.
		"record lost": {func(s *dirStore, d id.Digest) { _, r := partialPaths(s.PartialDir(), d); _ = os.Remove(r) }, false},
		"record flipped": {func(s *dirStore, d id.Digest) {
			_, r := partialPaths(s.PartialDir(), d)
			b, _ := os.ReadFile(r)
			b[100] ^= 1
			_ = os.WriteFile(r, b, 0o600)
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			from, to, ring := newStore(t), newStore(t), newNetwork(t)
			d := from.put(t, data)
			ring.honest(t, good, from)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			first := newClient(t, to, dialFunc(func(ctx context.Context, n id.Node) (conn net.Conn, err error) {
				inner, err := ring.DialBlob(ctx, n)
				return &cut{Conn: inner, left: size * 6 / 10, done: cancel}, err
			}), Options{})
			if _, err := first.Fetch(ctx, d, size, []id.Node{good}); !errors.Is(err, context.Canceled) {
				t.Fatalf("cut fetch: %v", err)
			}
			to.hasNot(t, d)
			c.between(to, d)
			server := ring.honest(t, other, from)
			second := newClient(t, to, ring, Options{})
			if _, err := second.Fetch(t.Context(), d, size, []id.Node{other}); err != nil {
				t.Fatal(err)
			}
			to.has(t, data)
			missing := size - first.Received()
			if over := server.Sent() - missing; (over <= chunk) != c.resumes {
				t.Errorf("%d bytes were missing, %d were sent: %d too many", missing, server.Sent(), over)
			}
		})
	}
}

func TestLostConnectionIsTakenUpWithTheSameHolder(t *testing.T) {
	t.Parallel()
	from, to, ring := newStore(t), newStore(t), newNetwork(t)
	data := noise(5*ChunkSize, 3)
	d := from.put(t, data)
	server := ring.honest(t, good, from)
	c := newClient(t, to, dialFunc(func(ctx context.Context, n id.Node) (net.Conn, error) {
		inner, err := ring.DialBlob(ctx, n)
		return &cut{Conn: inner, left: ChunkSize + ChunkSize/2, done: func() {}}, err
	}), Options{})
	if _, err := c.Fetch(t.Context(), d, 0, []id.Node{good}); err != nil {
		t.Fatal(err)
	}
	to.has(t, data)
	// Each connection brings one chunk and loses half of one. Pieces in flight are counted as sent.
	if n := server.Sent(); n > 5*ChunkSize+5*(ChunkSize/2+piece) || ring.dialled(good) != 5 {
		t.Errorf("sent %d over %d connections", n, ring.dialled(good))
	}
}

func TestBadHoldersCostTheirTurnOnly(t *testing.T) {
	t.Parallel()
	data := noise(3*ChunkSize+100, 4)
	m := manifestOf(t, data)
	fake := noise(len(data), 5)
	fakeManifest := manifestOf(t, fake)
	sized := func(n uint64) []byte {
		b := m.encode()
		for i := range 8 {
			b[i] = byte(n >> (56 - 8*i))
		}
		return b
	}
	manifest := func(b []byte) func(request, io.Writer) bool {
		return func(_ request, w io.Writer) bool { return ok(w, b) }
	}
	header := func(status byte, n int64) func(request, io.Writer) bool {
		return func(_ request, w io.Writer) bool { _, err := w.Write(answerHeader(status, n)); return err == nil }
	}
	// chunks answers the manifest truly and leaves the chunks to the function.
	chunks := func(f func(request, io.Writer) bool) func(request, io.Writer) bool {
		return func(q request, w io.Writer) bool {
			if q.op == opManifest {
				return ok(w, m.encode())
			}
			return f(q, w)
		}
	}
	for name, c := range map[string]struct {
		answer func(request, io.Writer) bool
		want   error
	}{
		"not there":             {func(_ request, w io.Writer) bool { _, _ = w.Write(answerHeader(statusNotFound, 0)); return true }, ErrNotHeld},
		"busy":                  {header(statusBusy, 0), ErrBusy},
		"closes at once":        {func(request, io.Writer) bool { return false }, io.EOF},
		"reason of 2⁶³ bytes":   {header(statusBroken, -1), ErrLied},
		"unknown status":        {header(77, 0), ErrLied},
		"manifest of 2⁶³ bytes": {header(statusOK, -1), ErrLied},
		"manifest too long":     {header(statusOK, 1<<40), ErrLied},
		"empty manifest":        {manifest(nil), ErrLied},
		"other size":            {manifest(sized(uint64(len(data) - 1))), ErrLied},
		"size of 2⁶⁴−1":         {manifest(sized(1<<64 - 1)), ErrLied},
		"size of 1 TiB":         {manifest(sized(1 << 40)), ErrLied},
		"a hash missing":        {manifest(m.encode()[:8+3*hashSize]), ErrLied},
		"a hash more":           {manifest(append(m.encode(), make([]byte, hashSize)...)), ErrLied},
		"half a manifest": {func(_ request, w io.Writer) bool {
			_, _ = w.Write(append(answerHeader(statusOK, 136), 1, 2, 3))
			return false
		}, io.ErrUnexpectedEOF},
		"stalls":       {header(statusOK, int64(len(m.encode()))), ErrSlow},
		"other length": {chunks(func(_ request, w io.Writer) bool { return ok(w, data[:10]) }), ErrLied},
		"wrong chunk": {chunks(func(q request, w io.Writer) bool {
			b := bytes.Clone(chunksOf(data, q))
			b[len(b)-1] ^= 1
			return ok(w, b)
		}), ErrLied},
		"leaves in a chunk": {chunks(func(q request, w io.Writer) bool {
			b := chunksOf(data, q)
			_, _ = w.Write(append(answerHeader(statusOK, int64(len(b))), b[:len(b)/2]...))
			return false
		}), io.ErrUnexpectedEOF},
		"drips": {chunks(func(q request, w io.Writer) bool {
			_, err := w.Write(append(answerHeader(statusOK, int64(len(chunksOf(data, q)))), 1))
			return err == nil
		}), ErrSlow},
		"another file with its own manifest": {func(q request, w io.Writer) bool {
			if q.op == opManifest {
				return ok(w, fakeManifest.encode())
			}
			return ok(w, chunksOf(fake, q))
		}, ErrLied},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { badHolder(t, data, c.answer, c.want) })
		})
	}
}

// badHolder runs on synthetic time: deadlines pass only when nobody has anything else to do.
func badHolder(t *testing.T, data []byte, answer func(request, io.Writer) bool, want error) {
	d := id.DigestOf(data)
	from, to, ring := newStore(t), newStore(t), newNetwork(t)
	from.put(t, data)
	ring.honest(t, good, from)
	ring.liar(bad, answer)
	client := newClient(t, to, ring, Options{})
	// Alone the bad holder gives nothing, and the reason is told.
	_, err := client.Fetch(t.Context(), d, int64(len(data)), []id.Node{bad})
	var failed *FetchError
	if !errors.As(err, &failed) || len(failed.Reasons) == 0 || failed.Reasons[0].Node != bad || !errors.Is(err, want) {
		t.Fatalf("alone: %v", err)
	}
	to.hasNot(t, d)
	// Before a good one it delays, whatever its first visit has left behind.
	if _, err := client.Fetch(t.Context(), d, int64(len(data)), []id.Node{bad, good}); err != nil {
		t.Fatalf("with a good one: %v", err)
	}
	to.has(t, data)
}

func TestNobodyHoldsIt(t *testing.T) {
	t.Parallel()
	to, ring := newStore(t), newNetwork(t)
	c := newClient(t, to, ring, Options{})
	var failed *FetchError
	if _, err := c.Fetch(t.Context(), id.DigestOf(nil), 0, []id.Node{self}); !errors.As(err, &failed) || len(failed.Reasons) != 0 {
		t.Error(err)
	}
	if _, err := c.Fetch(t.Context(), "../../etc/passwd", 0, []id.Node{good}); err == nil || errors.As(err, &failed) {
		t.Error(err)
	}
	if _, err := c.Fetch(t.Context(), id.DigestOf(nil), DefaultMaxBytes+1, []id.Node{good}); err == nil {
		t.Error("too large: accepted")
	}
}

// A liar that gives part of another file and leaves, mixed with an honest holder.
func TestChunksOfAnotherFileAreNotKept(t *testing.T) {
	t.Parallel()
	data, fake := noise(4*ChunkSize, 6), noise(4*ChunkSize, 7)
	fakeManifest := manifestOf(t, fake)
	visits := 0
	from, to, ring := newStore(t), newStore(t), newNetwork(t)
	d := from.put(t, data)
	server := ring.honest(t, good, from)
	ring.liar(bad, func(q request, w io.Writer) bool {
		if q.op == opManifest {
			return ok(w, fakeManifest.encode())
		}
		visits++
		b := chunksOf(fake, q)
		_, _ = w.Write(append(answerHeader(statusOK, int64(len(b))), b[:2*ChunkSize]...))
		return false
	})
	c := newClient(t, to, ring, Options{})
	if _, err := c.Fetch(t.Context(), d, 0, []id.Node{bad, good}); err != nil {
		t.Fatal(err)
	}
	to.has(t, data)
	if server.Sent() != int64(len(data)) || visits != 1 {
		t.Errorf("sent %d, %d visits", server.Sent(), visits)
	}
}

// Two holders whose manifests contradict each other and who both leave after a chunk must not keep a fetch busy for ever.
func TestHoldersThatUndoEachOtherEnd(t *testing.T) {
	t.Parallel()
	to, ring := newStore(t), newNetwork(t)
	for i, node := range []id.Node{bad, other} {
		file := noise(4*ChunkSize, uint64(8+i))
		m := manifestOf(t, file)
		ring.liar(node, func(q request, w io.Writer) bool {
			if q.op == opManifest {
				return ok(w, m.encode())
			}
			_, _ = w.Write(append(answerHeader(statusOK, int64(len(chunksOf(file, q)))), chunksOf(file, q)[:ChunkSize]...))
			return false
		})
	}
	c := newClient(t, to, ring, Options{})
	var failed *FetchError
	if _, err := c.Fetch(t.Context(), id.DigestOf([]byte("x")), 0, []id.Node{bad, other}); !errors.As(err, &failed) {
		t.Fatal(err)
	}
	if n := ring.dialled(bad) + ring.dialled(other); n > 4 {
		t.Errorf("%d connections", n)
	}
}

// What an earlier attempt got from a liar must not be held against the honest holder of the next.
func TestPoisonedRestDoesNotBlameTheNextHolder(t *testing.T) {
	t.Parallel()
	data := noise(2*ChunkSize, 10)
	from, to, ring := newStore(t), newStore(t), newNetwork(t)
	d := from.put(t, data)
	ring.honest(t, good, from)
	// The rest is a whole other file, and the record and a colluding first holder vouch for it.
	fake := noise(2*ChunkSize, 11)
	p, err := openPartial(to.PartialDir(), d, manifestOf(t, fake), DefaultMaxBytes)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		if err := p.put(i, fake[i*ChunkSize:(i+1)*ChunkSize]); err != nil {
			t.Fatal(err)
		}
	}
	p.Close()
	ring.liar(bad, func(_ request, w io.Writer) bool { m := manifestOf(t, fake); return ok(w, m.encode()) })
	c := newClient(t, to, ring, Options{})
	if _, err := c.Fetch(t.Context(), d, 0, []id.Node{bad, good}); err != nil {
		t.Fatal(err)
	}
	to.has(t, data)
}

func TestFullDiskFreesTheHalfFetchedFile(t *testing.T) {
	t.Parallel()
	from, to, ring := newStore(t), newStore(t), newNetwork(t)
	data := noise(2*ChunkSize, 12)
	d := from.put(t, data)
	ring.honest(t, good, from)
	to.adopt = func() error { return &os.PathError{Op: "rename", Path: "x", Err: syscall.ENOSPC} }
	c := newClient(t, to, ring, Options{})
	r, err := c.Fetch(t.Context(), d, 0, []id.Node{good, other})
	var failed *FetchError
	if !errors.Is(err, ErrNoSpace) || errors.As(err, &failed) || r != (Receipt{}) {
		t.Fatalf("%+v %v", r, err)
	}
	if left, _ := os.ReadDir(to.PartialDir()); len(left) != 0 || ring.dialled(other) != 0 {
		t.Errorf("left: %v", left)
	}
	to.adopt = func() error { return errors.New("fsync failed") }
	if r, err := c.Fetch(t.Context(), d, 0, []id.Node{good}); err == nil || r != (Receipt{}) {
		t.Errorf("a receipt for what is not on disk: %+v %v", r, err)
	}
	to.adopt = func() error { return nil }
	if _, err := c.Fetch(t.Context(), d, 0, []id.Node{good}); err != nil {
		t.Fatal(err)
	}
	to.has(t, data)
}

func TestPartialDoesNotFollowLinks(t *testing.T) {
	t.Parallel()
	from, to, ring := newStore(t), newStore(t), newNetwork(t)
	d := from.put(t, noise(100, 13))
	ring.honest(t, good, from)
	victim := filepath.Join(to.dir, "victim")
	path, _ := partialPaths(to.PartialDir(), d)
	if err := errors.Join(os.WriteFile(victim, []byte("precious"), 0o600), os.Symlink(victim, path)); err != nil {
		t.Fatal(err)
	}
	if _, err := newClient(t, to, ring, Options{}).Fetch(t.Context(), d, 0, []id.Node{good}); err == nil {
		t.Error("followed a link")
	}
	if b, _ := os.ReadFile(victim); string(b) != "precious" {
		t.Errorf("victim has %q", b)
	}
}

func TestFetchesOfOneArtifactShareOneStream(t *testing.T) {
	t.Parallel()
	from, to, ring := newStore(t), newStore(t), newNetwork(t)
	data := noise(2*ChunkSize, 14)
	d := from.put(t, data)
	server := ring.honest(t, good, from)
	c := newClient(t, to, ring, Options{})
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() {
			if _, err := c.Fetch(t.Context(), d, 0, []id.Node{good}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	to.has(t, data)
	if server.Sent() != int64(len(data)) {
		t.Errorf("sent %d", server.Sent())
	}
}

func TestBandwidthIsTakenFromTheLimit(t *testing.T) {
	t.Parallel()
	from, to, ring := newStore(t), newStore(t), newNetwork(t)
	d := from.put(t, noise(ChunkSize, 15))
	ring.honest(t, good, from)
	limit := rate.NewLimiter(1e-6, 2*ChunkSize) // never refills while the test runs
	c := newClient(t, to, ring, Options{Limit: limit})
	if _, err := c.Fetch(t.Context(), d, 0, []id.Node{good}); err != nil {
		t.Fatal(err)
	}
	if left := limit.Tokens(); left > ChunkSize+1 || left < ChunkSize-1 {
		t.Errorf("%v tokens left", left)
	}
	if _, err := NewClient(self, to, ring, Options{Limit: rate.NewLimiter(1, 10)}); err == nil {
		t.Error("a limit that could never be met was accepted")
	}
}

func TestServerRefusesAndBounds(t *testing.T) {
	t.Parallel()
	from, ring := newStore(t), newNetwork(t)
	data := noise(ChunkSize+1, 16)
	d := from.put(t, data)
	server := ring.honest(t, good, from)
	for name, c := range map[string]struct {
		q      request
		status byte
		closes bool
	}{
		"unknown artifact": {request{op: opManifest, digest: id.DigestOf([]byte("?"))}, statusNotFound, false},
		"unknown op":       {request{op: 9, digest: d}, statusRefused, true},
		"past the end":     {request{op: opChunks, digest: d, first: 1, count: 2}, statusRefused, true},
		"far past":         {request{op: opChunks, digest: d, first: 1<<32 - 1, count: 1<<32 - 1}, statusRefused, true},
		"none":             {request{op: opChunks, digest: d, count: 0}, statusRefused, true},
	} {
		conn, err := ring.DialBlob(t.Context(), good)
		if err != nil {
			t.Fatal(err)
		}
		b, err := c.q.encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write(b); err != nil {
			t.Fatal(err)
		}
		var head [answerSize]byte
		if _, err := io.ReadFull(conn, head[:]); err != nil || head[0] != c.status {
			t.Errorf("%s: status %d, %v", name, head[0], err)
		}
		if _, err := io.CopyN(io.Discard, conn, int64(head[8])+int64(head[7])<<8); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if c.closes {
			if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
				t.Errorf("%s: the connection goes on: %v", name, err)
			}
		}
		_ = conn.Close()
	}
	for _, node := range []id.Node{self, bad, good, other} {
		for range server.o.Streams / 4 {
			server.streams.take(node)
		}
	}
	_, err := newClient(t, newStore(t), ring, Options{}).Fetch(t.Context(), d, 0, []id.Node{good})
	if !errors.Is(err, ErrBusy) {
		t.Errorf("all streams taken: %v", err)
	}
}

func TestDamagedCopyIsNotOffered(t *testing.T) {
	t.Parallel()
	from, ring := newStore(t), newNetwork(t)
	d := from.put(t, noise(1000, 17))
	if err := os.WriteFile(from.path(d), noise(1000, 18), 0o600); err != nil {
		t.Fatal(err)
	}
	var told []id.Digest
	server, err := NewServer(from, Options{Damaged: func(d id.Digest, _ error) { told = append(told, d) }})
	if err != nil {
		t.Fatal(err)
	}
	ring.nodes[good] = func(ctx context.Context, conn net.Conn) { _ = server.Serve(ctx, self, conn) }
	if _, err := newClient(t, newStore(t), ring, Options{}).Fetch(t.Context(), d, 0, []id.Node{good}); !errors.Is(err, ErrNotHeld) {
		t.Error(err)
	}
	if diff := cmp.Diff([]id.Digest{d}, told); diff != "" {
		t.Error(diff)
	}
}

func TestManifestIsComputedOnceAndCheckedWhenRead(t *testing.T) {
	t.Parallel()
	from := newStore(t)
	data := noise(2*ChunkSize, 19)
	d := from.put(t, data)
	server, err := NewServer(from, Options{})
	if err != nil {
		t.Fatal(err)
	}
	get := func() manifest {
		f, err := from.Open(d)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		m, err := server.manifest(t.Context(), d, f)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	want := get()
	side := from.Sidecar(d, "chunks")
	kept, err := os.ReadFile(side)
	if err != nil {
		t.Fatal(err)
	}
	for i := range kept {
		b := bytes.Clone(kept)
		b[i] ^= 1
		if err := os.WriteFile(side, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, ok := loadManifest(side, int64(len(data)), DefaultMaxBytes); ok {
			t.Fatalf("byte %d flipped: taken", i)
		}
	}
	if got := get(); !bytes.Equal(got.encode(), want.encode()) {
		t.Error("manifest differs after a damaged cache")
	}
}

func TestSweep(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	now := time.Now()
	for name, age := range map[string]time.Duration{
		string(id.DigestOf(nil)) + ".part":         time.Hour,
		string(id.DigestOf(nil)) + ".have":         time.Hour,
		string(id.DigestOf([]byte("x"))) + ".part": 48 * time.Hour,
		"rubbish": 0,
	} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Chtimes(path, now, now.Add(-age))); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := Sweep(dir, 24*time.Hour, now); n != 2 || err != nil {
		t.Error(n, err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 2 {
		t.Error(left)
	}
}

func FuzzPeerBytes(f *testing.F) {
	f.Add([]byte{statusOK, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		n, err := readAnswer(r, maxManifest(DefaultMaxBytes), true)
		if err != nil || n > int64(r.Len()) {
			return
		}
		body := make([]byte, n)
		_, _ = io.ReadFull(r, body)
		if m, err := decodeManifest(body, DefaultMaxBytes); err == nil && !bytes.Equal(m.encode(), body) {
			t.Fatal("a manifest that is not what it was read from")
		}
	})
}

// A record that cannot be written is an error: a fetch that goes on without one would begin from nothing after every break.
func TestRecordThatCannotBeWrittenIsTold(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	data := noise(ChunkSize, 12)
	d := id.DigestOf(data)
	_, record := partialPaths(s.PartialDir(), d)
	if err := os.MkdirAll(filepath.Join(record, "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	if p, err := openPartial(s.PartialDir(), d, manifestOf(t, data), DefaultMaxBytes); err == nil {
		p.Close()
		t.Error("opened without a record")
	}
	if left, _ := filepath.Glob(record + ".*"); len(left) != 0 {
		t.Errorf("left %v", left)
	}
}
