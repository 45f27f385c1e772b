package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/ringagent/ringagent/internal/blob"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/internal/transfer"
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
	turns   turns   // one at a time fetches, looks into or drops an artifact
	sound   sound   // what has been hashed
	refused refused // what was found to be no good
	missed  missed  // what is to be fetched again
	coming  coming  // what is arriving

	mu       sync.Mutex
	suspects map[id.Digest]bool // being verified because a request found them damaged
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
			peer, _ := mesh.PeerOf(c)
			if err := s.server.Serve(ctx, peer.Node, c); err != nil && ctx.Err() == nil {
				s.a.log.Debug().Err(err).Msg("artifact connection ended")
			}
		})
	}
}

// PutFile implements kit.Store. A copy that was here before is hashed, and gives way if it is damaged.
func (s *artifacts) PutFile(ctx context.Context, path string) (id.Digest, int64, error) {
	d, n, err := s.blobs.PutFile(ctx, path)
	if err != nil {
		return d, n, err
	}
	if err = s.checked(ctx, d); gone(err) {
		if d, n, err = s.blobs.PutFile(ctx, path); err == nil {
			err = s.checked(ctx, d)
		}
	}
	return d, n, err
}

// Path implements kit.Store. Whoever is told that there is no copy packs its games again: a disk that does not answer is no
// reason for it.
func (s *artifacts) Path(d id.Digest) (string, bool) { return s.blobs.Path(d), !s.absent(d) }

// Ensure implements kit.Store and worker.Artifacts: the right bytes are here afterwards, and the ring knows it. A copy is
// hashed before its first use since the start, and when the file has changed since; one that is damaged is fetched anew.
func (s *artifacts) Ensure(ctx context.Context, d id.Digest) (string, error) {
	if s.sound.holds(s.blobs.Path(d), d) { // without waiting for whoever has the turn
		return s.blobs.Path(d), nil
	}
	end, err := s.turns.take(ctx, d)
	if err != nil {
		return "", fmt.Errorf("get artifact %s: %w", d.Short(), err)
	}
	defer end()
	if err := s.check(ctx, d); err == nil {
		return s.blobs.Path(d), nil
	} else if !gone(err) {
		return "", err
	}
	if err := s.holdNow(ctx, d); err != nil {
		return "", err
	}
	return s.blobs.Path(d), nil
}

// hold makes this node a holder of d: it fetches from a holder, verifies, looks into it, fsyncs, gives it its name, links the
// name that people look for, and then states its receipt.
func (s *artifacts) hold(ctx context.Context, d id.Digest) error {
	end, err := s.turns.take(ctx, d)
	if err != nil {
		return fmt.Errorf("hold artifact %s: %w", d.Short(), err)
	}
	defer end()
	return s.holdNow(ctx, d)
}

// holdNow is hold for whose turn it is.
func (s *artifacts) holdNow(ctx context.Context, d id.Digest) error {
	a, err := s.known(ctx, d)
	if err != nil {
		return err
	}
	held := a.Held(s.a.node.ID)
	if s.a.opts.Faults.ReceiptFirst && !held {
		_ = s.receipt.state(ctx, d)
	}
	fetched, err := s.have(ctx, a)
	if err != nil {
		return err
	}
	s.link(a)
	if held && !fetched {
		return nil
	}
	return s.receipt.state(ctx, d)
}

// bytes is where the bytes of a are, fetched if need be. Nobody is told that they are here.
func (s *artifacts) bytes(ctx context.Context, a ring.Artifact) (string, error) {
	path := s.blobs.Path(a.Digest)
	if s.sound.holds(path, a.Digest) { // without waiting for whoever has the turn
		return path, nil
	}
	end, err := s.turns.take(ctx, a.Digest)
	if err != nil {
		return "", fmt.Errorf("get artifact %s: %w", a.Digest.Short(), err)
	}
	defer end()
	_, err = s.have(ctx, a)
	return path, err
}

// read is bytes for somebody who asked for them and for nothing else. The ring is told of the copy, but nobody waits for that:
// where no coordinator answers the bytes are as good.
func (s *artifacts) read(ctx context.Context, a ring.Artifact) (string, error) {
	path, err := s.bytes(ctx, a)
	if err != nil || a.Held(s.a.node.ID) {
		return path, err
	}
	go func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), receiptLimit)
		defer cancel()
		if err := s.hold(ctx, a.Digest); err != nil {
			s.a.log.Debug().Err(err).Str("artifact", string(a.Digest)).Msg("a copy is here without a receipt")
		}
	}()
	return path, nil
}

// have sees to it that the right bytes are here and have been looked into. A copy without a receipt may be here because
// somebody was interrupted before the look; one with a receipt has been looked into.
func (s *artifacts) have(ctx context.Context, a ring.Artifact) (fetched bool, err error) {
	if why, no := s.refused.why(a.Digest); no {
		return false, why
	}
	err = s.check(ctx, a.Digest)
	if gone(err) {
		return true, s.bring(ctx, a)
	}
	if err != nil || a.Held(s.a.node.ID) {
		return false, err
	}
	return false, s.reject(ctx, a.Digest, fit(ctx, a, s.blobs.Path(a.Digest)))
}

// bring fetches an artifact, and looks into it before it gets its name.
func (s *artifacts) bring(ctx context.Context, a ring.Artifact) error {
	s.coming.put(a)
	defer s.coming.drop(a.Digest)
	if _, err := s.client.Fetch(ctx, a.Digest, a.Bytes, s.order(a.Holders)); err != nil {
		var bad *unfit
		if errors.As(err, &bad) {
			s.refused.add(a.Digest, bad)
		}
		return fmt.Errorf("fetch %s: %w", a.Digest.Short(), err)
	}
	return s.check(ctx, a.Digest)
}

// incoming is the store as package transfer fills it.
type incoming struct {
	*blob.Store
	s *artifacts
}

// Adopt implements transfer.Store. What is no good artifact of its kind goes into quarantine instead of the store.
func (in incoming) Adopt(ctx context.Context, path string, d id.Digest) (int64, error) {
	n, err := in.Store.AdoptChecked(ctx, path, d, func(ctx context.Context, path string) error {
		return fit(ctx, in.s.coming.of(d), path)
	})
	var bad *unfit
	if errors.As(err, &bad) {
		err = errors.Join(err, in.Store.QuarantineArtifact(d, path, bad.Error()))
	}
	return n, err
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
			return ring.Artifact{}, fmt.Errorf("artifact %s is %w", d.Short(), errNotInRing)
		}
		return got.Artifacts[0], nil
	}
	st, err := s.a.current(ctx)
	if err != nil {
		return ring.Artifact{}, fmt.Errorf("look up %s: %w", d.Short(), err)
	}
	a, ok := st.Artifact(d)
	if !ok {
		return ring.Artifact{}, fmt.Errorf("artifact %s is %w", d.Short(), errNotInRing)
	}
	return a, nil
}

var errNotInRing = errors.New("not known to the ring")

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

// receiptLimit bounds the statement of receipts that somebody waits for.
const receiptLimit = 15 * time.Second

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
	ctx, cancel := context.WithTimeout(context.Background(), receiptLimit)
	defer cancel()
	err := b.flush(ctx, ds)
	for _, w := range waiting {
		w <- err
	}
}
