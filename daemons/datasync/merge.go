package datasync

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/rs/zerolog"

	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/gamedb"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// merger builds games/<config>.db on a core node from every pack of the ring, fetching those that are not here.
type merger struct {
	self    kit.Self
	log     zerolog.Logger
	games   string
	store   kit.Store
	local   kit.Local
	views   kit.Views
	effects kit.Effects
	events  kit.Events
	check   func(ctx context.Context, path string) error                                         // gamedb.Verify, but for tests
	add     func(*gamedb.Merger, context.Context, string, id.Config) (gamedb.MergeResult, error) // its Merge, but for tests
	told    map[id.Digest]bool
	now     func() time.Time
	slow    map[id.Digest]int                          // tries in a row that did not end in time or found the pack unfit
	later   map[id.Digest]time.Time                    // when such a pack is tried again
	late    map[id.Digest]bool                         // those of them that did not arrive
	entered map[id.Config]map[id.Digest]gamedb.Entered // packs in the ledger, with their repeated games; nil: not read yet
	odd     map[id.Digest]bool                         // packs that cannot be entered
	missing map[id.Config]time.Time                    // since when packs of the ledger are uncounted
	aside   map[string]time.Time                       // merged database → when a damaged one was last put into quarantine
	join    *joiner
}

func newMerger(env kit.Env, set JoinSettings) *merger {
	return &merger{self: env.Self, log: env.Log, games: env.Dirs.Games, store: env.Store, local: env.Local, views: env.View,
		effects: env.Effects, events: env.Events, check: gamedb.Verify, add: (*gamedb.Merger).Merge, told: map[id.Digest]bool{}, now: env.Now,
		slow: map[id.Digest]int{}, later: map[id.Digest]time.Time{}, late: map[id.Digest]bool{}, entered: map[id.Config]map[id.Digest]gamedb.Entered{}, odd: map[id.Digest]bool{},
		missing: map[id.Config]time.Time{}, aside: map[string]time.Time{}, join: newJoiner(env, set)}
}

// merged is the local cursor of one config: every pack up to Seq is in the database, but for Open, which could not be had
// yet, and what was put aside as unusable.
type merged struct {
	Generation uint64      `json:"generation,omitempty"` // of the state that Seq is of
	Seq        uint64      `json:"seq"`
	Open       []id.Digest `json:"open,omitempty"`
	Made       bool        `json:"made,omitempty"` // there is a database
}

const (
	// perStep bounds one step, so that it makes progress that the watchdog sees.
	perStep = 50
	// retriesPerStep bounds how many packs that could not be had before are asked for again in one step: the machines that
	// have them may be gone for good, and each costs the time of a dial.
	retriesPerStep = 5
	// A pack whose check did not end in time so often in a row is checked again after a while only: each check costs half a
	// minute of a processor, and the file may be made for that. So is one that can be checked and not merged. A merge that did not
	// end in time has cost more than those checks together, and once is enough.
	slowPatience = 5
	slowRetry    = time.Hour
	// A pack is waited for as long as its size takes at getRate, within bounds: a holder that gives it drop by drop, or says that it
	// is huge, does not keep the others' packs from being merged. The least is for whoever waits in line for a stream.
	getRate  = 64 << 10 // bytes a second
	getLeast = 5 * time.Minute
	getMost  = 15 * time.Minute
)

// errLate says that a pack did not arrive in time. What did is kept by the store, which goes on from there.
var errLate = errors.New("not here in time")

func (m *merger) step(ctx context.Context) error {
	v := m.views.Near()
	var errs []error
	for _, c := range v.Ring.Configs {
		if err := m.config(ctx, v, c); err != nil {
			errs = append(errs, fmt.Errorf("merge games of %s: %w", c, err))
		}
	}
	return errors.Join(errs...)
}

func (m *merger) config(ctx context.Context, v kit.View, c id.Config) error {
	key := "merged/" + string(c)
	var cursor merged
	raw, ok, err := m.local.Get(key)
	if err == nil && ok {
		err = json.Unmarshal(raw, &cursor)
	}
	if err != nil {
		return fmt.Errorf("read cursor: %w", err)
	}
	path := m.database(c)
	if _, err := os.Lstat(path); cursor.Made && errors.Is(err, fs.ErrNotExist) {
		m.log.Warn().Str("config", string(c)).Msg("merged database is gone; all packs are merged again")
		cursor = merged{Generation: cursor.Generation}
	}
	if v.Generation < cursor.Generation {
		return nil // a view of the past: its numbers say nothing now
	}
	if v.Generation > cursor.Generation {
		// After a recovery that went on without what this node had seen, new packs stand at numbers that are behind the cursor.
		cursor = merged{Generation: v.Generation, Made: cursor.Made}
	}
	packs := v.Library.Artifacts(ring.KindPack, c)
	err = m.gather(ctx, v, c, packs, key, &cursor)
	if errors.Is(err, gamedb.ErrTarget) {
		err = errors.Join(err, m.anew(ctx, path, err))
	}
	if err = errors.Join(err, m.count(ctx, c, packs, cursor)); err == nil {
		m.join.offer(v, c, packs, m.entered[c])
	}
	return err
}

func (m *merger) database(c id.Config) string { return filepath.Join(m.games, string(c)+".db") }

// keepEvery is how often at most a damaged database is kept: a disk that spoils it again and again must not fill itself.
const keepEvery = 24 * time.Hour

// anew puts a damaged database aside. The next step finds it gone and begins again; games whose packs nobody has any more are in
// quarantine.
func (m *merger) anew(ctx context.Context, path string, cause error) error {
	where, now := "", m.now()
	var err error
	if now.Sub(m.aside[path]) >= keepEvery {
		if where, err = m.store.Aside(ctx, path, cause.Error()); err == nil {
			m.aside[path] = now
		}
	}
	if err == nil {
		err = gamedb.Remove(path)
	}
	if err != nil {
		return fmt.Errorf("put merged database aside: %w", err)
	}
	m.log.Error().Err(cause).Str("quarantine", where).Msg("merged database is damaged and taken away; all packs are merged again")
	return nil
}

// gather merges what is new, and some of what could not be had before.
func (m *merger) gather(ctx context.Context, v kit.View, c id.Config, packs []ring.Artifact, key string, cursor *merged) error {
	var receipts, open, failed []id.Digest
	var errs []error
	steps := 0
	into := &database{path: m.database(c), add: m.add}
	defer into.close() // after a panic
	try := func(a ring.Artifact) {
		steps++
		here, err := m.merge(ctx, c, a, into)
		if err != nil {
			// Whatever is wrong with one pack, the others are merged.
			failed = append(failed, a.Digest)
			if errors.Is(err, gamedb.ErrTarget) {
				errs = append(errs[:0], err) // one is enough
			} else {
				m.tell(ctx, c, a, err)
			}
		}
		m.pace(a.Digest, err)
		if here && !a.Held(m.self.ID) {
			receipts = append(receipts, a.Digest)
		}
	}
	// A view that is older than the cursor, as after a restart, says nothing of packs that it lacks.
	fresh := len(packs) > 0 && packs[len(packs)-1].Seq >= cursor.Seq
	for _, d := range cursor.Open {
		a, ok := v.Library.Artifact(d)
		switch {
		case !ok && fresh, ok && a.Joined != "": // it is no more, or its games come with a newer pack
		case !ok || !m.reachable(v, a) || steps >= retriesPerStep || m.waits(d):
			open = append(open, d)
		default:
			try(a)
		}
	}
	since, retried := cursor.Seq, steps
	for _, a := range packs {
		if a.Seq <= since || slices.Contains(cursor.Open, a.Digest) {
			continue
		}
		// Packs that were announced together have one Seq, and the cursor passes all of them or none.
		if steps-retried >= perStep && a.Seq > cursor.Seq {
			break
		}
		try(a)
		cursor.Seq = a.Seq
	}
	if steps == 0 {
		return nil
	}
	if err := into.close(); err != nil {
		errs = append(errs, err)
	}
	cursor.Open = slices.Concat(open, failed)                     // those that were tried come last
	if _, err := os.Lstat(into.path); err == nil || into.opened { // where it is gone again, all of it is merged anew
		cursor.Made = true
	}
	raw, err := json.Marshal(cursor)
	if err == nil {
		err = m.local.Put(key, raw)
	}
	if err != nil {
		errs = append(errs, fmt.Errorf("keep cursor: %w", err))
	}
	if len(receipts) > 0 {
		if err := m.effects.AddReceipts(ctx, receipts...); err != nil {
			errs = append(errs, fmt.Errorf("state receipts: %w", err))
		}
	}
	return errors.Join(errs...)
}

// database is a merged database that is open from its first pack to the last of one look.
type database struct {
	path   string
	add    func(*gamedb.Merger, context.Context, string, id.Config) (gamedb.MergeResult, error)
	merger *gamedb.Merger
	opened bool
}

func (d *database) merge(ctx context.Context, pack string, c id.Config) (res gamedb.MergeResult, err error) {
	if d.merger == nil {
		if d.merger, err = gamedb.OpenMerger(ctx, d.path); err != nil {
			return res, err
		}
		d.opened = true
	}
	return d.add(d.merger, ctx, pack, c)
}

func (d *database) close() error {
	if d.merger == nil {
		return nil
	}
	m := d.merger
	d.merger = nil
	return m.Close()
}

// reachable says whether somebody may have a pack who is not gone: asking those who are costs the time of a dial each, and they stay
// in the roster.
func (m *merger) reachable(v kit.View, a ring.Artifact) bool {
	if _, here := m.store.Path(a.Digest); here {
		return true
	}
	return slices.ContainsFunc(a.Holders, func(n id.Node) bool {
		holder, ok := v.Fleet.Member(n)
		return ok && holder.Serves()
	})
}

// waits says that a pack is put off. What did not arrive is not any more when it has come another way.
func (m *merger) waits(d id.Digest) bool {
	if !m.now().Before(m.later[d]) {
		return false
	}
	_, here := m.store.Path(d)
	return !m.late[d] || !here
}

// pace puts the next try at a pack off when it does not arrive, when its checks do not end in time, or when it cannot be merged as it
// is.
func (m *merger) pace(d id.Digest, err error) {
	unfit := gamedb.Damaged(err) && !errors.Is(err, gamedb.ErrTarget)
	if !errors.Is(err, gamedb.ErrSlow) && !errors.Is(err, errLate) && !unfit {
		delete(m.slow, d)
		delete(m.later, d)
		delete(m.late, d)
		return
	}
	m.late[d] = errors.Is(err, errLate)
	if m.slow[d]++; m.slow[d] >= slowPatience {
		m.later[d] = m.now().Add(slowRetry)
	}
}

// get has the store fetch a pack, but not for ever.
func (m *merger) get(ctx context.Context, a ring.Artifact) (string, error) {
	limit := min(max(time.Duration(a.Bytes/getRate)*time.Second, getLeast), getMost)
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	path, err := m.store.Ensure(limited, a.Digest)
	if err != nil && limited.Err() != nil && ctx.Err() == nil {
		err = fmt.Errorf("%w, which was %v: %w", errLate, limit, err)
	}
	return path, err
}

// merge adds one pack. Its bytes are checked before they are used; here says that the right ones are on this disk.
func (m *merger) merge(ctx context.Context, c id.Config, a ring.Artifact, into *database) (here bool, err error) {
	path, err := m.get(ctx, a)
	if err != nil {
		return false, fmt.Errorf("get pack %s: %w", a.Digest.Short(), err)
	}
	if err := m.store.Verify(ctx, a.Digest); err != nil {
		return false, fmt.Errorf("check pack %s: %w", a.Digest.Short(), err)
	}
	err = m.check(ctx, path)
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return true, ctx.Err()
	case !errors.Is(err, gamedb.ErrUnsafe):
		// This machine cannot read it now, or this version not yet: the copy is as good as before, and its receipt true.
		return true, fmt.Errorf("check pack %s: %w", a.Digest.Short(), err)
	case a.Safe:
		// It was good enough when it was taken, its games are counted, and jobs' files were thrown away for it: what has been found
		// fault with since is no reason to lose them. Its hash is right, and it stays, for a version that can read it or for people.
		return true, fmt.Errorf("check pack %s: %w", a.Digest.Short(), err)
	default:
		m.tell(ctx, c, a, err)
		// The hash is right, so no other copy is better: it is put aside for good.
		if err := m.store.Drop(ctx, a.Digest, err.Error()); err != nil {
			return false, fmt.Errorf("drop pack %s: %w", a.Digest.Short(), err)
		}
		return false, nil
	}
	if err := asCounted(ctx, path, a); err != nil && !a.Safe { // what was counted stays so
		// Its bytes are what they are: it is the record that is wrong, and they stay. But there is no receipt for it.
		return false, fmt.Errorf("count games of pack %s: %w", a.Digest.Short(), err)
	}
	res, err := into.merge(ctx, path, c)
	if errors.Is(err, gamedb.ErrSlow) {
		m.slow[a.Digest] = slowPatience
	}
	if err != nil {
		return true, fmt.Errorf("merge pack %s: %w", a.Digest.Short(), err)
	}
	if len(res.Rejected) > 0 {
		m.tell(ctx, c, a, fmt.Errorf("%d games cannot be used, such as %s (%s): not merged", len(res.Rejected), res.Rejected[0].ID, res.Rejected[0].Reason))
	}
	if len(res.Conflicts) > 0 {
		// The first of two games with one id stays in the database; the other is still in its pack, for people to look at.
		m.tell(ctx, c, a, fmt.Errorf("%d games are here with other contents, such as %s: not merged", len(res.Conflicts), res.Conflicts[0]))
	}
	m.log.Debug().Str("pack", a.Digest.Short()).Int("added", res.Added).Int("present", res.Present).Msg("merged")
	return true, nil
}

// tell states once per pack that something is wrong with it.
func (m *merger) tell(ctx context.Context, c id.Config, a ring.Artifact, cause error) {
	if m.told[a.Digest] || ctx.Err() != nil {
		return
	}
	m.told[a.Digest] = true
	m.log.Warn().Err(cause).Str("pack", a.Digest.Short()).Msg("pack not merged whole")
	if _, err := m.events.Publish(ctx, event.DataSyncFailed.Type(), kit.Stamp(m.self, event.SyncFailed{
		Config: c, Target: string(m.self.ID), Error: fmt.Sprintf("pack %s: %v", a.Digest, cause), Attempts: 1}), ""); err != nil {
		m.log.Warn().Err(err).Msg("cannot publish")
	}
}
