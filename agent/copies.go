package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/ringagent/ringagent/internal/blob"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/internal/transfer"
	"github.com/ringagent/ringagent/leader"
	"github.com/ringagent/ringagent/leader/state"
)

// A receipt is true or it is taken back: whatever takes a copy out of the store goes through drop, and whatever the state
// says is here and is not, reconcile finds at the start and from time to time.

// gone says that there is no copy here that could be used.
func gone(err error) bool { return errors.Is(err, blob.ErrNotFound) || errors.Is(err, blob.ErrDamaged) }

// absent says that there is surely no copy here. A disk that does not answer says nothing.
func (s *artifacts) absent(d id.Digest) bool {
	_, err := s.blobs.Stat(d)
	return gone(err)
}

// check hashes this node's copy unless that has been done since the file last changed. A damaged one is dropped.
func (s *artifacts) check(ctx context.Context, d id.Digest) error {
	path := s.blobs.Path(d)
	if s.sound.holds(path, d) {
		return nil
	}
	mark, _ := markOf(path) // before the hash: what changes meanwhile is hashed again
	err := s.blobs.Verify(ctx, d)
	if err == nil {
		s.sound.note(d, mark)
	}
	if errors.Is(err, blob.ErrDamaged) {
		s.missed.add(d)
		err = errors.Join(err, s.drop(ctx, d, err.Error()))
	}
	return err
}

// checked is check with a turn.
func (s *artifacts) checked(ctx context.Context, d id.Digest) error {
	end, err := s.turns.take(ctx, d)
	if err != nil {
		return fmt.Errorf("check artifact %s: %w", d.Short(), err)
	}
	defer end()
	return s.check(ctx, d)
}

// Verify implements kit.Store.
func (s *artifacts) Verify(ctx context.Context, d id.Digest) error {
	end, err := s.turns.take(ctx, d)
	if err != nil {
		return fmt.Errorf("verify artifact %s: %w", d.Short(), err)
	}
	defer end()
	s.sound.forget(d)
	return s.check(ctx, d)
}

// suspect verifies a copy that was found to be damaged while it was served; requests that find it so meanwhile start nothing.
func (s *artifacts) suspect(d id.Digest) (started bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.suspects[d] {
		return false
	}
	if s.suspects == nil {
		s.suspects = map[id.Digest]bool{}
	}
	s.suspects[d] = true
	go func() {
		_ = s.Verify(context.Background(), d) // logged and dropped there
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.suspects, d)
	}()
	return true
}

// Drop implements kit.Store. The bytes are the same everywhere, so they are not fetched again.
func (s *artifacts) Drop(ctx context.Context, d id.Digest, reason string) error {
	end, err := s.turns.take(ctx, d)
	if err != nil {
		return fmt.Errorf("drop artifact %s: %w", d.Short(), err)
	}
	defer end()
	return s.reject(ctx, d, &unfit{kind: "artifact", err: errors.New(reason)})
}

// reject drops a copy that is no good artifact of its kind. Other errors, and none, are returned as they are.
func (s *artifacts) reject(ctx context.Context, d id.Digest, err error) error {
	var bad *unfit
	if !errors.As(err, &bad) {
		return err
	}
	s.refused.add(d, bad)
	return errors.Join(err, s.drop(ctx, d, bad.Error()))
}

// drop puts this node's copy into quarantine and takes its receipt back. A receipt that cannot be taken back now, for want of
// a coordinator, is taken back by reconcile.
func (s *artifacts) drop(ctx context.Context, d id.Digest, reason string) error {
	s.sound.forget(d)
	if err := s.blobs.Quarantine(d, reason); err != nil && !errors.Is(err, blob.ErrNotFound) {
		return err
	}
	if err := s.takeBack(ctx, d); err != nil {
		s.a.log.Warn().Err(err).Str("artifact", string(d)).Msg("the receipt of a dropped copy stands until it can be taken back")
	}
	return nil
}

// Discard implements kit.Store.
func (s *artifacts) Discard(ctx context.Context, ds ...id.Digest) error {
	ds = slices.Compact(slices.Sorted(slices.Values(ds))) // in order: two that wait for each other's turns would wait for ever
	var drop state.DropCopies
	for _, d := range ds {
		end, err := s.turns.take(ctx, d)
		if err != nil {
			return fmt.Errorf("discard artifact %s: %w", d.Short(), err)
		}
		defer end()
		drop.Receipts = append(drop.Receipts, ring.Receipt{Node: s.a.node.ID, Digest: d})
	}
	_, err := s.a.leader.Propose(ctx, s.a.command(state.KindDropCopy, drop))
	return s.discarded(ctx, ds, err, s.listed)
}

// discarded deletes copies for which a permit was asked with err. If it is not known whether it was given, those go of which a
// later reading of the state knows no more: nobody else would ever ask for them. Without a reading all stay.
func (s *artifacts) discarded(ctx context.Context, ds []id.Digest, err error, read func(context.Context, []id.Digest) ([]ring.Artifact, error)) error {
	may := ds
	if err != nil {
		may, err = s.permits(ctx, ds, err, read)
	}
	err = kitError(fmt.Sprintf("ask to discard %d artifacts", len(ds)), err)
	for _, d := range may {
		s.sound.forget(d)
		err = errors.Join(err, s.blobs.Remove(d, permitted(d)))
	}
	return err
}

// permits are those of ds that may be deleted although the request for them ended with err, and what is left of err.
func (s *artifacts) permits(ctx context.Context, ds []id.Digest, err error, read func(context.Context, []id.Digest) ([]ring.Artifact, error)) ([]id.Digest, error) {
	if !errors.Is(err, leader.ErrUnknownOutcome) {
		return nil, err
	}
	listed, bad := read(ctx, ds)
	if bad != nil {
		return nil, err
	}
	may := slices.DeleteFunc(slices.Clone(ds), func(d id.Digest) bool {
		return slices.ContainsFunc(listed, func(a ring.Artifact) bool { return a.Digest == d && a.Held(s.a.node.ID) })
	})
	if len(may) == len(ds) {
		err = nil
	}
	return may, err
}

// listed are those of some artifacts that the ring knows, by a state as new as the coordinator's.
func (s *artifacts) listed(ctx context.Context, ds []id.Digest) ([]ring.Artifact, error) {
	var out []ring.Artifact
	if s.a.node.Class != id.Edge {
		st, err := s.a.current(ctx)
		if err != nil {
			return nil, err
		}
		for _, d := range ds {
			if a, ok := st.Artifact(d); ok {
				out = append(out, a)
			}
		}
		return out, nil
	}
	for some := range slices.Chunk(ds, maxNamed) {
		got, err := s.a.records(ctx, recordsCall{Digests: some})
		if err != nil {
			return nil, err
		}
		out = append(out, got.Artifacts...)
	}
	return out, nil
}

// permitted is the permit for one artifact, given by the state machine.
type permitted id.Digest

// Allow implements blob.Permit.
func (p permitted) Allow(d id.Digest) error {
	if d != id.Digest(p) {
		return fmt.Errorf("the permit is for artifact %s", id.Digest(p).Short())
	}
	return nil
}

// takeBack says that this node's copy is lost.
func (s *artifacts) takeBack(ctx context.Context, d id.Digest) error {
	ctx, cancel := context.WithTimeout(ctx, takeBackLimit)
	defer cancel()
	_, err := s.a.leader.Propose(ctx, s.a.command(state.KindDropCopy, state.DropCopies{
		Receipts: []ring.Receipt{{Node: s.a.node.ID, Digest: d}}, Lost: true,
	}))
	var refused *leader.Refused
	if errors.As(err, &refused) && state.Code(refused.Code) == state.CodeNotFound {
		return nil // nobody counts on it
	}
	return err
}

// Aside implements kit.Store.
func (s *artifacts) Aside(_ context.Context, path, reason string) (string, error) {
	return s.blobs.KeepFile(path, reason, "-wal", "-journal")
}

// Times of reconciling.
const (
	reconcileEvery     = time.Minute
	reconcileEveryEdge = 10 * time.Minute // a core node reads its whole list for it
	reconcileEveryDev  = 30 * time.Second
	reconcileLook      = 10 * time.Second // the timing is not known from the start
	reconcileRetry     = 2 * time.Second  // after a failure
	reconcileFetch     = time.Minute      // for one artifact
	takeBackLimit      = 5 * time.Second  // whoever drops a copy does not wait longer for a coordinator
)

// reconcile compares, from the start on, what the state says is here with what is here.
func (s *artifacts) reconcile(ctx context.Context) {
	var last time.Time
	for wait := reconcileRetry; pause(ctx, wait); wait = min(reconcileLook, s.reconcileEvery()) {
		if !last.IsZero() && time.Since(last) < s.reconcileEvery() {
			continue
		}
		err := s.reconcileOnce(ctx)
		for ; err != nil && pause(ctx, reconcileRetry); err = s.reconcileOnce(ctx) {
			s.a.log.Debug().Err(err).Msg("copies not compared with the state")
		}
		last = time.Now()
	}
}

func (s *artifacts) reconcileEvery() time.Duration {
	switch often := s.a.opts.Faults.Reconcile; {
	case often > 0:
		return often
	case s.a.lastTiming() == ring.TimingDev:
		return reconcileEveryDev
	case s.a.node.Class == id.Edge:
		return reconcileEveryEdge
	}
	return reconcileEvery
}

func (s *artifacts) reconcileOnce(ctx context.Context) error {
	if err := s.sweepPartial(); err != nil {
		s.a.log.Warn().Err(err).Msg("half-fetched artifacts stay")
	}
	workGames{s.a}.sweep(s.a.dir.path("staging"))
	lost, err := s.lost(ctx)
	if err != nil {
		return err
	}
	for _, a := range lost {
		if err := s.admit(ctx, a); err != nil {
			return err
		}
	}
	s.missed.round(ctx, s.reconcileEvery(), s.again)
	return ctx.Err()
}

// partialAge is how long a half-fetched artifact is kept for whoever goes on with it.
const partialAge = 48 * time.Hour

// sweepPartial removes what was half fetched and is wanted no more: a node runs for months, and what it wanted last week has
// been superseded.
func (s *artifacts) sweepPartial() error {
	n, err := transfer.Sweep(s.blobs.PartialDir(), partialAge, time.Now())
	if err != nil {
		return fmt.Errorf("sweep half-fetched artifacts: %w", err)
	}
	if n > 0 {
		s.a.log.Info().Int("files", n).Msg("half-fetched artifacts that nobody went on with are gone")
	}
	return nil
}

// lost are the artifacts that this node has a receipt for and no file.
func (s *artifacts) lost(ctx context.Context) ([]ring.Artifact, error) {
	var out []ring.Artifact
	missing := func(a ring.Artifact) {
		if a.Held(s.a.node.ID) && s.absent(a.Digest) {
			out = append(out, a)
		}
	}
	if s.a.node.Class != id.Edge {
		if !s.a.leader.Freshness().Known {
			return nil, errors.New("the state is not known yet")
		}
		for a := range s.a.leader.View().ArtifactsByPrefix("") {
			missing(a)
		}
		return out, nil
	}
	for after := uint64(0); ; {
		got, err := s.a.records(ctx, recordsCall{Held: true, After: after})
		if err != nil {
			return nil, err
		}
		for _, a := range got.Artifacts {
			missing(a)
			after = max(after, a.Seq)
		}
		if !got.More {
			return out, nil
		}
	}
}

// admit takes back the receipt of a copy that is not here.
func (s *artifacts) admit(ctx context.Context, a ring.Artifact) error {
	d := a.Digest
	end, err := s.turns.take(ctx, d)
	if err != nil {
		return err
	}
	defer end()
	if !s.absent(d) { // meanwhile
		return nil
	}
	if err := s.takeBack(ctx, d); err != nil {
		return fmt.Errorf("take back receipt of %s: %w", d.Short(), err)
	}
	if a.Joined != "" { // deleted by permit since the list was read, or as good as that
		return nil
	}
	s.a.log.Error().Str("artifact", string(d)).Msg("a copy is not here any more; its receipt is taken back")
	if _, no := s.refused.why(d); !no {
		s.missed.add(d)
	}
	return nil
}

// nowhere counts the artifacts, and the games in them, whose copy got lost here and that have none at all, as far as this node's state
// knows: it may be that of an edge node, which knows of none.
func (s *artifacts) nowhere() (files int, games int64, since time.Time) {
	lost := s.missed.lost()
	if len(lost) == 0 {
		return 0, 0, since
	}
	st := s.a.leader.View()
	for d, at := range lost {
		if a, ok := st.Artifact(d); ok && len(a.Holders) == 0 && a.Joined == "" {
			if files++; since.IsZero() || at.Before(since) {
				since = at
			}
			if a.Kind == ring.KindPack {
				games = ring.AddGames(games, a.Games())
			}
		}
	}
	return files, games, since
}

// again fetches a copy that got lost, if others have it, and if it is still to be here.
func (s *artifacts) again(ctx context.Context, d id.Digest) error {
	ctx, cancel := context.WithTimeout(ctx, reconcileFetch)
	defer cancel()
	if a, err := s.known(ctx, d); err == nil && a.Joined != "" {
		return nil
	}
	err := s.hold(ctx, d)
	if err != nil {
		s.a.log.Debug().Err(err).Str("artifact", string(d)).Msg("a lost copy is not back yet")
	}
	return err
}
