package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/ringagent/ringagent/internal/blob"
	"github.com/ringagent/ringagent/internal/connect4"
	"github.com/ringagent/ringagent/internal/gamedb"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/npz"
	"github.com/ringagent/ringagent/internal/proc"
	"github.com/ringagent/ringagent/internal/rating"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/internal/transfer"
	"github.com/ringagent/ringagent/leader/state"
	"github.com/ringagent/ringagent/mesh"
)

// artifacts is this node's content store together with the ways to fill it: it meets kit.Store for the daemons and
// worker.Artifacts for the worker.
type artifacts struct {
	a       *Agent
	blobs   *blob.Store
	client  *transfer.Client
	server  *transfer.Server
	receipt batcher
}

// DialBlob implements transfer.Dialer.
func (s *artifacts) DialBlob(ctx context.Context, n id.Node) (net.Conn, error) {
	return s.a.mesh.Dial(ctx, n, mesh.BlobProtocol)
}

// serve answers other nodes' requests for bytes.
func (s *artifacts) serve(ctx context.Context, l net.Listener) {
	var group sync.WaitGroup
	defer group.Wait()
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		group.Go(func() {
			if err := s.server.Serve(ctx, c); err != nil && ctx.Err() == nil {
				s.a.log.Debug().Err(err).Msg("artifact connection ended")
			}
		})
	}
}

// PutFile implements kit.Store.
func (s *artifacts) PutFile(ctx context.Context, path string) (id.Digest, int64, error) {
	return s.blobs.PutFile(ctx, path)
}

// Path implements kit.Store.
func (s *artifacts) Path(d id.Digest) (string, bool) { return s.blobs.Path(d), s.blobs.Has(d) }

// Ensure implements kit.Store and worker.Artifacts: the bytes are here afterwards, and the ring knows it.
func (s *artifacts) Ensure(ctx context.Context, d id.Digest) (string, error) {
	if s.blobs.Has(d) {
		return s.blobs.Path(d), nil
	}
	if err := s.hold(ctx, d); err != nil {
		return "", err
	}
	return s.blobs.Path(d), nil
}

// hold makes this node a holder of d: it fetches from a holder, verifies, fsyncs, links the name that people look for, and
// then states its receipt.
func (s *artifacts) hold(ctx context.Context, d id.Digest) error {
	a, err := s.known(ctx, d)
	if err != nil {
		return err
	}
	if !s.blobs.Has(d) {
		if err := s.bring(ctx, a); err != nil {
			return err
		}
	}
	s.link(a)
	if a.Held(s.a.node.ID) {
		return nil
	}
	return s.receipt.state(ctx, d)
}

// bring fetches an artifact and looks into it; nobody is told.
func (s *artifacts) bring(ctx context.Context, a ring.Artifact) error {
	if _, err := s.client.Fetch(ctx, a.Digest, a.Bytes, s.order(a.Holders)); err != nil {
		return fmt.Errorf("fetch %s: %w", a.Digest.Short(), err)
	}
	return s.validate(ctx, a)
}

// known asks for an artifact's record: the near copy first, else the coordinator.
func (s *artifacts) known(ctx context.Context, d id.Digest) (ring.Artifact, error) {
	if a, ok := s.a.leader.View().Artifact(d); ok && len(a.Holders) > 0 {
		return a, nil
	}
	if s.a.node.Class == id.Edge {
		got, err := s.a.records(ctx, recordsCall{Digests: []id.Digest{d}})
		if err != nil {
			return ring.Artifact{}, fmt.Errorf("look up %s: %w", d.Short(), err)
		}
		if len(got.Artifacts) != 1 {
			return ring.Artifact{}, fmt.Errorf("artifact %s is not known to the ring", d.Short())
		}
		return got.Artifacts[0], nil
	}
	st, err := s.a.current(ctx)
	if err != nil {
		return ring.Artifact{}, fmt.Errorf("look up %s: %w", d.Short(), err)
	}
	a, ok := st.Artifact(d)
	if !ok {
		return ring.Artifact{}, fmt.Errorf("artifact %s is not known to the ring", d.Short())
	}
	return a, nil
}

// order puts live holders first, core nodes among them before rented ones, and leaves this node out.
func (s *artifacts) order(holders []id.Node) []id.Node {
	alive := map[id.Node]bool{}
	for _, m := range s.a.mesh.Members() {
		alive[m.ID] = m.Status == mesh.Alive
	}
	var first, then, last []id.Node
	for _, h := range holders {
		e, _ := s.a.roster.Lookup(h)
		switch {
		case h == s.a.node.ID || e.Revoked:
		case alive[h] && e.Class == id.Core:
			first = append(first, h)
		case alive[h]:
			then = append(then, h)
		default:
			last = append(last, h)
		}
	}
	return append(append(first, then...), last...)
}

// validate looks into bytes that came from elsewhere before anybody uses them.
func (s *artifacts) validate(ctx context.Context, a ring.Artifact) error {
	check, ok := validators()[string(a.Kind)]
	if !ok {
		return nil
	}
	if _, err := check(ctx, s.blobs.Path(a.Digest)); err != nil {
		if ctx.Err() != nil { // nothing is known about the bytes
			return fmt.Errorf("validate artifact %s: %w", a.Digest.Short(), err)
		}
		if qerr := s.blobs.Quarantine(a.Digest, err.Error()); qerr != nil {
			err = errors.Join(err, qerr)
		}
		return fmt.Errorf("artifact %s is no good %s: %w", a.Digest.Short(), a.Kind, err)
	}
	return nil
}

// link gives datasets and models the second name under which people look for them. It is a convenience: a failure costs
// nobody anything but a line in the log.
func (s *artifacts) link(a ring.Artifact) {
	dir, ext := "", ""
	switch a.Kind {
	case ring.KindDataset:
		dir, ext = "datasets", ".npz"
	case ring.KindModel:
		dir, ext = "models", ".model"
	default:
		return
	}
	dst := s.a.dir.path(dir, fmt.Sprintf("%s-%s%s", a.Config, a.Digest.Short(), ext))
	if err := s.blobs.Link(a.Digest, dst); err != nil {
		s.a.log.Warn().Err(err).Str("artifact", string(a.Digest)).Msg("artifact not linked")
	}
}

// Verify implements kit.Store.
func (s *artifacts) Verify(ctx context.Context, d id.Digest) error {
	err := s.blobs.Verify(ctx, d)
	if errors.Is(err, blob.ErrDamaged) {
		if qerr := s.blobs.Quarantine(d, err.Error()); qerr != nil {
			err = errors.Join(err, qerr)
		}
		_, perr := s.a.leader.Propose(ctx, s.a.command(state.KindDropCopy, state.DropCopies{
			Receipts: []ring.Receipt{{Node: s.a.node.ID, Digest: d}}, Lost: true,
		}))
		err = errors.Join(err, perr)
	}
	return err
}

// Quarantine implements kit.Store.
func (s *artifacts) Quarantine(_ context.Context, path, reason string) error {
	return s.blobs.QuarantineFile(path, reason)
}

// jobValidators are for what a job has left. Its games database may still have a write-ahead log beside it, because this
// node's sync daemon was reading when the job closed it: it is read as a live file, in a snapshot.
func jobValidators() map[string]proc.Validator {
	out := validators()
	out[string(ring.KindPack)] = func(ctx context.Context, path string) (map[string]int64, error) {
		c, err := gamedb.Count(ctx, path)
		if err != nil {
			return nil, err
		}
		return map[string]int64{"games": int64(c.Games)}, nil
	}
	return out
}

// validators look into a file by kind, without ever running what is in it, and count what it holds.
func validators() map[string]proc.Validator {
	return map[string]proc.Validator{
		string(ring.KindPack): func(ctx context.Context, path string) (map[string]int64, error) {
			if err := gamedb.Verify(ctx, path); err != nil {
				return nil, err
			}
			c, err := gamedb.Count(ctx, path)
			if err != nil {
				return nil, err
			}
			return map[string]int64{"games": int64(c.Games)}, nil
		},
		string(ring.KindDataset): func(_ context.Context, path string) (map[string]int64, error) {
			s, err := npz.Verify(path)
			if err != nil {
				return nil, err
			}
			return map[string]int64{"samples": int64(s.Samples)}, nil
		},
		string(ring.KindMatches): func(_ context.Context, path string) (map[string]int64, error) {
			ms, err := rating.ReadMatches(path)
			if err != nil {
				return nil, err
			}
			return countMatches(ms), nil
		},
		string(ring.KindModel): validateModel,
	}
}

// builtinModel is how the built-in workload's model files begin.
const builtinModel = "RA-C4NET"

// validateModel checks what can be told without the model's own program: the built-in format's checksum, or a checkpoint's
// zip magic; anything must be more than a few bytes.
func validateModel(_ context.Context, path string) (map[string]int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	head := make([]byte, 8)
	n, _ := f.ReadAt(head, 0)
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	switch {
	case n == 8 && string(head) == builtinModel:
		if _, err := connect4.LoadModel(path); err != nil {
			return nil, err
		}
	case n >= 4 && string(head[:4]) == "PK\x03\x04":
		if st.Size() < 10<<10 {
			return nil, fmt.Errorf("checkpoint of %d bytes is too small to be one", st.Size())
		}
	default:
		return nil, fmt.Errorf("%s is no model that is known here", filepath.Base(path))
	}
	return map[string]int64{"models": 1}, nil
}

func countMatches(ms []rating.Match) map[string]int64 {
	out := map[string]int64{"matches": int64(len(ms)), "games": int64(len(ms))}
	for _, m := range ms {
		key := "vs:" + m.B + ":"
		out[key+"games"]++
		switch m.Score {
		case 1:
			out[key+"wins"]++
		case 0:
			out[key+"losses"]++
		default:
			out[key+"draws"]++
		}
	}
	return out
}

// batcher states receipts of many artifacts in one command.
type batcher struct {
	flush func(ctx context.Context, ds []id.Digest) error
	delay time.Duration

	mu      sync.Mutex
	pending []id.Digest
	waiting []chan error
	armed   bool
}

// state returns once the receipt is committed.
func (b *batcher) state(ctx context.Context, d id.Digest) error {
	done := make(chan error, 1)
	b.mu.Lock()
	b.pending = append(b.pending, d)
	b.waiting = append(b.waiting, done)
	if !b.armed {
		b.armed = true
		time.AfterFunc(b.delay, b.send)
	}
	b.mu.Unlock()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("state receipt: %w", ctx.Err())
	}
}

func (b *batcher) send() {
	b.mu.Lock()
	ds, waiting := b.pending, b.waiting
	b.pending, b.waiting, b.armed = nil, nil, false
	b.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	err := b.flush(ctx, ds)
	for _, w := range waiting {
		w <- err
	}
}
