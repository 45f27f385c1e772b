package datasync

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/gamedb"
	"github.com/ringagent/ringagent/internal/id"
)

// GatherSettings are the figures of EPHEMERAL_SYNC and AUTO_SYNC. Their period is the time after which whatever there is
// gets packed.
type GatherSettings struct {
	Batch    int          `json:"batch"`     // new games that do not wait for the period
	MinGap   kit.Duration `json:"min_gap"`   // between packs of one config
	MaxGames int          `json:"max_games"` // in one pack
	Parallel int          `json:"parallel"`  // transfers at once
	Retry    kit.Duration `json:"retry"`     // after the first failed transfer, doubling up to ten times it
	Patience int          `json:"patience"`  // failures in a row before another node is chosen and DATA_SYNC_FAILED stated
}

// Validate implements kit's check.
func (s GatherSettings) Validate() error {
	if s.Batch < 1 || s.MinGap < 0 || s.MaxGames < s.Batch || s.Parallel < 1 || s.Retry <= 0 || s.Patience < 1 {
		return errors.New("want 1 ≤ batch ≤ max_games, parallel, retry and patience above 0, min_gap not negative")
	}
	return nil
}

// poll is how often job databases are looked at; only the sizes that are packed depend on the settings.
const poll = time.Second

// gatherer brings the finished games of this node's jobs to where they are safe.
type gatherer struct {
	set     GatherSettings
	self    kit.Self
	log     zerolog.Logger
	now     func() time.Time
	every   time.Duration
	staging string
	jobs    kit.Jobs
	store   kit.Store
	views   kit.Views
	effects kit.Effects
	events  kit.Events
	gauge   func(string, float64)
	courier *kit.Courier
	books   *books
	waiting map[id.Config]time.Time // since when games wait to be packed
	tried   map[id.Config]time.Time // last attempt at a pack
	last    map[id.Config]time.Time // newest pack of all that there was
	spacing time.Duration           // between packs, for the sake of the ring's room
	unread  map[string]int          // database → failures to read it
	kept    map[string]string       // database → its place in quarantine, until the books have it
	held    map[string]time.Time    // job → until when its databases are not compared
	reads   readings
	behind  bool                       // this node is held
	shunned map[kit.Delivery]time.Time // until when
	drains  atomic.Int32               // calls of Drain that are waiting
	owed    map[string]map[string]bool // job → games that Drain waits for; nil before its first look
	empty   chan int                   // how many of them are left; below 0: unknown
}

func newGatherer(env kit.Env, set GatherSettings) (*gatherer, error) {
	b, err := openBooks(env.Local)
	if err != nil {
		return nil, err
	}
	gauge := env.Gauge
	if gauge == nil {
		gauge = func(string, float64) {}
	}
	return &gatherer{
		set: set, self: env.Self, log: env.Log, now: env.Now, every: env.Every, staging: env.Dirs.Staging, jobs: env.Jobs,
		store: env.Store, views: env.View, effects: env.Effects, events: env.Events, gauge: gauge, books: b,
		courier: kit.NewCourier(&kit.Courier{Orders: env.Orders, Parallel: set.Parallel, First: set.Retry.D(), Slowest: 10 * set.Retry.D()}),
		waiting: map[id.Config]time.Time{}, tried: map[id.Config]time.Time{}, last: map[id.Config]time.Time{}, unread: map[string]int{}, kept: map[string]string{}, held: map[string]time.Time{}, shunned: map[kit.Delivery]time.Time{},
		empty: make(chan int, 1),
	}, nil
}

func (g *gatherer) step(ctx context.Context) error {
	draining := g.draining() // before the look: what Drain waits for is no older than its call
	found, t, known := g.look(ctx)
	left, shown := -1, math.NaN()
	if known {
		left = 0
		for _, n := range total(found, t) {
			left += int(n)
		}
		if t.lost == 0 {
			shown = float64(left)
		}
		if draining {
			left = g.stillOwed(found)
		}
	}
	g.gauge("unsynced_games", shown)
	select {
	case <-g.empty:
	default:
	}
	g.empty <- left
	g.hold(found)
	var errs []error
	for c, list := range g.due(found) {
		for len(list) > 0 { // the first is never left
			left, err := g.pack(ctx, c, list)
			if err != nil {
				errs = append(errs, fmt.Errorf("pack %s: %w", c, err))
			}
			list = left
		}
	}
	if err := g.push(ctx); err != nil {
		errs = append(errs, err)
	}
	for _, f := range found {
		switch {
		case f.err != nil:
			g.unreadable(ctx, f)
		case len(f.ids) == 0: // else it is packed that shows whether it can be read
			delete(g.unread, f.db.Path)
		}
	}
	if err := g.books.tended(); err != nil {
		errs = append(errs, err)
	}
	for _, job := range settled(found, t) {
		if !g.keepTwins(ctx, job, found) {
			continue
		}
		if err := g.release(ctx, job); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// due chooses what is to be packed now.
func (g *gatherer) due(found []fresh) map[id.Config][]fresh {
	lists := map[id.Config][]fresh{}
	count, done := map[id.Config]int{}, map[id.Config]bool{}
	for _, f := range found {
		if c := f.db.Config; len(f.ids) > 0 {
			lists[c] = append(lists[c], f)
			count[c] += len(f.ids)
			done[c] = done[c] || f.db.Done
		}
	}
	now := g.now()
	for c := range lists {
		if g.waiting[c].IsZero() {
			g.waiting[c] = now
		}
		ripe := count[c] >= g.set.Batch || done[c] || now.Sub(g.waiting[c]) >= g.every
		gap, most := g.gap()
		if count[c] >= most {
			gap = g.set.MinGap.D()
		}
		if !g.draining() && (!ripe || now.Sub(g.last[c]) < gap || now.Sub(g.tried[c]) < g.set.MinGap.D()) {
			delete(lists, c)
		}
	}
	return lists
}

// packsBehind is how many packs' worth of games, beyond those of the next pack, may wait before this node plays no more.
const packsBehind = 20

// hold has this node play no more while it is far behind with packing, as on a machine whose processor is too busy: what it would
// take with it has a bound. Games of files that cannot be read for long do not count: nobody knows when that ends. Packs without
// their receipts do not either: a node plays on while others are away.
func (g *gatherer) hold(found []fresh) {
	waiting, most := map[id.Config]int{}, 0
	for _, f := range found {
		if !f.aside && g.unread[f.db.Path] < patience {
			waiting[f.db.Config] += len(f.ids)
			most = max(most, waiting[f.db.Config])
		}
	}
	_, next := g.gap()
	limit := next + packsBehind*g.set.MaxGames
	g.behind = most >= limit || g.behind && most >= limit/2
	if !g.behind {
		most = 0
	}
	g.jobs.Hold(most)
}

// stillOwed counts the games that Drain waits for: those that were not safe at the first look after it was called. What jobs
// that go on finish later is for the next start to bring away: waiting for that, too, a node that plays would never be done.
func (g *gatherer) stillOwed(found []fresh) int {
	open := map[string]map[string]bool{}
	add := func(job string, games []string) {
		if open[job] == nil {
			open[job] = map[string]bool{}
		}
		for _, i := range games {
			open[job][i] = true
		}
	}
	for _, f := range found {
		add(f.db.JobID, names(f.ids))
	}
	for _, p := range g.books.pending() {
		for job, games := range p.Games {
			add(job, games)
		}
	}
	if g.owed == nil {
		g.owed = open
	}
	n := 0
	for job, games := range g.owed {
		for i := range games {
			if !open[job][i] && !open[released][i] {
				delete(games, i)
			}
		}
		n += len(games)
	}
	return n
}

func (g *gatherer) draining() bool { return g.drains.Load() > 0 }

// unreadable counts the failures to read a job's database, and tells of it when they do not end. A database of an ended job
// that is itself damaged is then given up, and kept aside for people, since it may hold games that can be saved. What is wrong
// with this machine gives nothing up, and a node that is about to go does not either, since its disk goes with it.
func (g *gatherer) unreadable(ctx context.Context, f fresh) {
	db := f.db
	if !db.Done && gamedb.Busy(f.err) {
		return // its writer is at work, and it is read later
	}
	g.unread[db.Path]++
	n := g.unread[db.Path]
	g.log.Warn().Err(f.err).Str("job", db.JobID).Int("failures", n).Msg("cannot read a job's games")
	if n == patience {
		g.failed(ctx, db, f.err, n)
	}
	if !db.Done || n < patience || g.draining() || !gamedb.Damaged(f.err) {
		return
	}
	var games *int64
	if ids, ok := g.reads.whole(db.Path); ok {
		games = new(int64)
		for known := g.books.tally().known[db.JobID]; len(ids) > 0; ids = ids[1:] {
			if !known[named(ids[0])] {
				*games++
			}
		}
	}
	if err := g.putAway(ctx, db, f.err, games); err != nil {
		g.log.Error().Err(err).Str("job", db.JobID).Msg("cannot put a job's games aside")
		return
	}
	delete(g.unread, db.Path)
}

// putAway puts a database of an ended job into quarantine and writes that down, with how many games of it are in no pack; nil:
// nobody knows. They count as unsynced from then on.
func (g *gatherer) putAway(ctx context.Context, db kit.JobDB, cause error, games *int64) error {
	where, ok := g.kept[db.Path]
	if !ok {
		var err error
		if where, err = g.store.Aside(ctx, db.Path, cause.Error()); err != nil {
			return fmt.Errorf("put aside: %w", err)
		}
		g.kept[db.Path] = where // one is enough, also when the books cannot be written now
	}
	if err := g.books.putAside(aside{JobID: db.JobID, Config: db.Config, Path: db.Path, Where: where, Games: games}); err != nil {
		return fmt.Errorf("note what was put aside: %w", err)
	}
	g.log.Error().Err(cause).Str("job", db.JobID).Str("quarantine", where).Msg("a job's games are put aside; they count as unsynced until the file is taken from there")
	delete(g.kept, db.Path)
	return nil
}

// patience is how many failures in a row to read a database are told to the ring.
const patience = 10

// failed states that the games of a job do not come away.
func (g *gatherer) failed(ctx context.Context, db kit.JobDB, cause error, n int) {
	_, err := g.events.Publish(ctx, event.DataSyncFailed.Type(), kit.Stamp(g.self, event.SyncFailed{
		Config: db.Config, Target: string(g.self.ID), Error: fmt.Sprintf("games of job %s: %v", db.JobID, cause), Attempts: int64(n)}), "")
	if err != nil {
		g.log.Warn().Err(err).Msg("cannot publish")
	}
}
