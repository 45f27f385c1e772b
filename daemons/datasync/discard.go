package datasync

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/rs/zerolog"

	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/internal/gamedb"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// discarder deletes this node's copies of packs whose games are in a joined pack by now, and of files that never became one, by
// permit. A core node looks for the
// games in its own copy of the joined pack before it asks; a rented node, which need not have one, does where it has.
type discarder struct {
	self  kit.Self
	log   zerolog.Logger
	now   func() time.Time
	store kit.Store
	views kit.Views
	open  func(id.Digest) bool                        // the pack is this node's own and not settled: nothing of it goes
	waits func(id.Digest) bool                        // it is a joined pack that this node has on its way
	holds func(context.Context, string, string) error // gamedb.Holds, but for tests
	since map[id.Digest]time.Time                     // when a joined pack was first seen here
	found map[id.Digest]bool                          // packs whose games were found in the joined one: to look again costs as much
	later map[id.Digest]time.Time                     // until when one that may not go, as far as is known, stays unasked
}

const (
	discardEvery = 30 * time.Second
	// discardAfter is how long a joined pack's copies stay at least: who has read of them a moment ago may want them yet.
	discardAfter = time.Minute
	// neverJoined is how long a file that was to take the place of packs is kept for it: another node may have been faster.
	neverJoined = 24 * time.Hour
	// discardRetry is when a pack is looked at again whose games are not all in the joined one, or cannot be compared.
	discardRetry = time.Hour
	// refusedRetry is when a permit is asked for again that was refused. Each question is an entry of the log.
	refusedRetry = 10 * time.Minute
	// perDiscard bounds one permit.
	perDiscard = 64
)

func newDiscarder(env kit.Env, open func(id.Digest) bool) *discarder {
	return &discarder{self: env.Self, log: env.Log, now: env.Now, store: env.Store, views: env.View, open: open, holds: gamedb.Holds,
		waits: func(id.Digest) bool { return false },
		since: map[id.Digest]time.Time{}, later: map[id.Digest]time.Time{}, found: map[id.Digest]bool{}}
}

func (d *discarder) step(ctx context.Context) error {
	v, err := d.views.Current(ctx)
	if err != nil {
		return fmt.Errorf("read state: %w", err)
	}
	now := d.now()
	since, later := map[id.Digest]time.Time{}, map[id.Digest]time.Time{}
	safe := map[id.Digest]bool{} // joined packs
	var old []ring.Artifact
	for _, a := range v.Library.Artifacts(ring.ListJoined, "") {
		if !a.Held(d.self.ID) {
			continue
		}
		if since[a.Digest] = d.since[a.Digest]; since[a.Digest].IsZero() {
			since[a.Digest] = now
		}
		later[a.Digest] = d.later[a.Digest]
		stays := discardAfter
		if a.Joined == "" {
			stays = neverJoined
		}
		if now.Sub(since[a.Digest]) < stays || now.Before(later[a.Digest]) || d.open(a.Digest) || d.waits(a.Digest) {
			continue
		}
		if _, known := safe[a.Joined]; !known {
			safe[a.Joined] = a.Joined == "" || carries(v, a.Joined)
		}
		if safe[a.Joined] {
			old = append(old, a)
		}
	}
	d.since, d.later = since, later
	maps.DeleteFunc(d.found, func(p id.Digest, _ bool) bool { return since[p].IsZero() })
	old = unread(v, old)
	var errs []error
	for some := range slices.Chunk(old, perDiscard) {
		if err := d.some(ctx, some); err != nil {
			errs = append(errs, err)
		}
		if ctx.Err() != nil || errors.Is(errors.Join(errs...), kit.ErrNoCoordinator) {
			break
		}
	}
	return errors.Join(errs...)
}

// unread leaves out the packs of configs in which unfinished work reads one of them, or may. The state would refuse them.
func unread(v kit.View, old []ring.Artifact) []ring.Artifact {
	of := map[id.Config]map[id.Digest]bool{}
	for _, a := range old {
		if of[a.Config] == nil {
			of[a.Config] = map[id.Digest]bool{}
		}
		of[a.Config][a.Digest] = true
	}
	maps.DeleteFunc(of, func(c id.Config, packs map[id.Digest]bool) bool { return needed(v, c, packs) })
	return slices.DeleteFunc(old, func(a ring.Artifact) bool { return of[a.Config] == nil })
}

// carries says whether a joined pack has its copies as far as v knows. The state has the last word; but whoever asks it in vain for
// each pack, again and again while a machine is down, fills the log with that.
func carries(v kit.View, joined id.Digest) bool {
	to, ok := v.Library.Artifact(joined)
	if !ok {
		return false
	}
	members := v.Fleet.Members()
	n, core := kit.Copies(members, to, "")
	return core && n >= max(1, min(v.Ring.CopiesOf(ring.KindPack), potential(members, "")))
}

func (d *discarder) some(ctx context.Context, old []ring.Artifact) error {
	var may []id.Digest
	var errs []error
	for _, a := range old {
		ok, err := d.carried(ctx, a)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil { // whatever is wrong with one pack, the others go
			d.later[a.Digest] = d.now().Add(discardRetry)
			errs = append(errs, err)
		}
		if ok {
			may = append(may, a.Digest)
		}
	}
	if len(may) > 0 {
		errs = append(errs, d.discard(ctx, may))
	}
	return errors.Join(errs...)
}

// discard deletes all of them, or those that do not hold the others up.
func (d *discarder) discard(ctx context.Context, may []id.Digest) error {
	err := d.store.Discard(ctx, may...)
	if err == nil || ctx.Err() != nil || errors.Is(err, kit.ErrNoCoordinator) {
		return err
	}
	if errors.Is(err, kit.ErrConflict) { // work reads one of them, and ends; each alone would be asked for in vain until then
		d.log.Debug().Err(err).Msg("copies of joined packs stay for now")
		return nil
	}
	if len(may) == 1 {
		d.later[may[0]] = d.now().Add(refusedRetry)
		d.log.Debug().Err(err).Str("pack", may[0].Short()).Msg("copy of a joined pack stays for now")
		return nil
	}
	for _, one := range may {
		if err := d.discard(ctx, []id.Digest{one}); err != nil {
			return err
		}
	}
	return nil
}

// carried says that as far as this node can see nothing is lost with its copy of a.
func (d *discarder) carried(ctx context.Context, a ring.Artifact) (bool, error) {
	path, here := d.store.Path(a.Digest)
	if !here || a.Joined == "" || d.found[a.Digest] {
		return true, nil
	}
	if _, there := d.store.Path(a.Joined); !there {
		return d.self.Class == id.Edge, nil
	}
	to, err := d.store.Ensure(ctx, a.Joined)
	if err != nil {
		return false, fmt.Errorf("get joined pack %s: %w", a.Joined.Short(), err)
	}
	err = d.holds(ctx, to, path)
	if errors.Is(err, gamedb.ErrNotHeld) || gamedb.Damaged(err) {
		d.later[a.Digest] = d.now().Add(discardRetry)
		d.log.Error().Err(err).Str("pack", a.Digest.Short()).Str("joined", a.Joined.Short()).Msg("games of a pack are not in the joined one; its copy stays")
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("compare pack %s: %w", a.Digest.Short(), err)
	}
	d.found[a.Digest] = true
	return true, nil
}
