package transfer

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ringagent/ringagent/internal/id"
)

// A copy that a disk altered after it was first offered is found out when it is served: only its holder can say that it has
// none, and until it does the copy counts.
func TestCopyDamagedSinceItsManifestIsNoticed(t *testing.T) {
	t.Parallel()
	from, ring := newStore(t), newNetwork(t)
	data := noise(2*ChunkSize+1000, 32)
	d := from.put(t, data)
	var told []id.Digest
	server, err := NewServer(from, Options{Damaged: func(d id.Digest, err error) {
		if !errors.Is(err, errDamagedHere) {
			t.Error(err)
		}
		told = append(told, d)
	}})
	if err != nil {
		t.Fatal(err)
	}
	ring.nodes[good] = func(ctx context.Context, conn net.Conn) { _ = server.Serve(ctx, self, conn) }
	to := newStore(t)
	if _, err := newClient(t, to, ring, Options{}).Fetch(t.Context(), d, 0, []id.Node{good}); err != nil || len(told) != 0 {
		t.Fatal(err, told)
	}
	to.has(t, data)
	f, err := os.OpenFile(from.path(d), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{data[2*ChunkSize] ^ 1}, 2*ChunkSize); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	to = newStore(t)
	if _, err := newClient(t, to, ring, Options{}).Fetch(t.Context(), d, 0, []id.Node{good}); err == nil {
		t.Error("fetched")
	}
	to.hasNot(t, d)
	ring.wg.Wait()
	if len(told) == 0 {
		t.Error("the holder does not know of its damaged copy")
	} else if diff := cmp.Diff(d, told[0]); diff != "" {
		t.Error(diff)
	}
}

// A spot of a half-fetched file that cannot be read is fetched again; it does not keep the artifact away for ever.
func TestUnreadableChunkIsFetchedAgain(t *testing.T) {
	t.Parallel()
	data := noise(1000, 33)
	path := filepath.Join(t.TempDir(), "part")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600) // nothing can be read through it
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(data); err != nil {
		t.Fatal(err)
	}
	p := &partial{digest: id.DigestOf(data), manifest: manifestOf(t, data), have: make([]bool, 1), data: f}
	defer p.Close()
	if err := p.begin([]bool{true}, path+".have"); err != nil {
		t.Fatal(err)
	}
	if _, count := p.missing(); count != 1 {
		t.Errorf("%d chunks are missing", count)
	}
}
