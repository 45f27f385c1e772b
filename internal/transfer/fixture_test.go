package transfer

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
	"sync"
	"testing"
	"time"

	"github.com/ringagent/ringagent/internal/id"
)

// dirStore is a store as small as the interface allows.
type dirStore struct {
	dir   string
	adopt func() error // before the bytes are looked at
}

func newStore(t testing.TB) *dirStore {
	t.Helper()
	s := &dirStore{dir: t.TempDir(), adopt: func() error { return nil }}
	if err := os.Mkdir(s.PartialDir(), 0o700); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *dirStore) path(d id.Digest) string                 { return filepath.Join(s.dir, string(d)) }
func (s *dirStore) Sidecar(d id.Digest, kind string) string { return s.path(d) + "." + kind }
func (s *dirStore) PartialDir() string                      { return filepath.Join(s.dir, "partial") }
func (s *dirStore) Open(d id.Digest) (*os.File, error)      { return os.Open(s.path(d)) }

type damaged struct{}

func (damaged) Error() string { return "damaged" }
func (damaged) Damaged() bool { return true }

func (s *dirStore) Adopt(_ context.Context, path string, d id.Digest) (int64, error) {
	if err := s.adopt(); err != nil {
		return 0, err
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	if id.DigestOf(b) != d {
		return 0, fmt.Errorf("adopt: %w", damaged{})
	}
	return int64(len(b)), os.Rename(path, s.path(d))
}

func (s *dirStore) put(t testing.TB, b []byte) id.Digest {
	t.Helper()
	d := id.DigestOf(b)
	if err := os.WriteFile(s.path(d), b, 0o600); err != nil {
		t.Fatal(err)
	}
	return d
}

// has fails the test unless the store has exactly these bytes and nothing half-fetched of them.
func (s *dirStore) has(t testing.TB, want []byte) {
	t.Helper()
	got, err := os.ReadFile(s.path(id.DigestOf(want)))
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%d bytes in the store, want %d (%v)", len(got), len(want), err)
	}
	if left, _ := os.ReadDir(s.PartialDir()); len(left) != 0 {
		t.Fatalf("left half-fetched: %v", left)
	}
}

func (s *dirStore) hasNot(t testing.TB, d id.Digest) {
	t.Helper()
	if _, err := os.Stat(s.path(d)); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("the store has %s (%v)", d.Short(), err)
	}
}

// network dials in-memory connections; each node is a function that serves one.
type network struct {
	nodes map[id.Node]func(ctx context.Context, conn net.Conn)

	mu    sync.Mutex
	dials map[id.Node]int
	wg    sync.WaitGroup
	ctx   context.Context
}

func newNetwork(t testing.TB) *network {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	n := &network{nodes: make(map[id.Node]func(context.Context, net.Conn)), dials: make(map[id.Node]int), ctx: ctx}
	t.Cleanup(func() {
		cancel()
		n.wg.Wait()
	})
	return n
}

func (n *network) DialBlob(_ context.Context, node id.Node) (net.Conn, error) {
	serve, ok := n.nodes[node]
	if !ok {
		return nil, errors.New("no route")
	}
	n.mu.Lock()
	n.dials[node]++
	n.mu.Unlock()
	a, b := net.Pipe()
	n.wg.Go(func() {
		defer b.Close()
		serve(n.ctx, b)
	})
	return a, nil
}

func (n *network) dialled(node id.Node) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.dials[node]
}

// honest adds a node that serves a store as it should.
func (n *network) honest(t testing.TB, node id.Node, s Source) *Server {
	t.Helper()
	server, err := NewServer(s, Options{})
	if err != nil {
		t.Fatal(err)
	}
	n.nodes[node] = func(ctx context.Context, conn net.Conn) { _ = server.Serve(ctx, self, conn) } // clients leave as they please
	return server
}

// liar adds a node that answers each request by a function; false ends the connection.
func (n *network) liar(node id.Node, answer func(q request, w io.Writer) bool) {
	n.nodes[node] = func(_ context.Context, conn net.Conn) {
		for {
			var b [requestSize]byte
			if _, err := io.ReadFull(conn, b[:]); err != nil || !answer(decodeRequest(b), conn) {
				return
			}
		}
	}
}

const (
	self  = id.Node("00000000000000aa")
	bad   = id.Node("00000000000000bb")
	good  = id.Node("00000000000000cc")
	other = id.Node("00000000000000dd")
)

func newClient(t testing.TB, s Store, d Dialer, o Options) *Client {
	t.Helper()
	if o.Progress == 0 {
		o.Progress = time.Minute // tests about deadlines run on synthetic time; the others have none to miss
	}
	c, err := NewClient(self, s, d, o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// noise is incompressible and the same in every run.
func noise(n int, seed uint64) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	_, _ = r.Read(b) // never fails
	return b
}

func ok(w io.Writer, body []byte) bool {
	_, err := w.Write(append(answerHeader(statusOK, int64(len(body))), body...))
	return err == nil
}

func manifestOf(t testing.TB, b []byte) manifest {
	t.Helper()
	m, err := computeManifest(context.Background(), bytes.NewReader(b), id.DigestOf(b))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func chunksOf(b []byte, q request) []byte {
	return b[int(q.first)*ChunkSize : min(len(b), int(q.first+q.count)*ChunkSize)]
}
