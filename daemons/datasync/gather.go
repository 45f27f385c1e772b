package datasync

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/rs/zerolog"

	"github.com/ringagent/ringagent/daemons/kit"
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
	waiting map[id.Config]time.Time    // since when games wait to be packed
	last    map[id.Config]time.Time    // newest pack
	unread  map[string]int             // job → failures to read its database
	read    map[string]reading         // job → its database as last read
	shunned map[kit.Delivery]time.Time // until when
	urgent  chan struct{}              // closed when the node drains
	empty   chan int                   // how many games are left, for Drain
}

func newGatherer(env kit.Env, set GatherSettings) (*gatherer, error) {
	b, err := openBooks(env.Local, func(d id.Digest) bool { _, ok := env.Store.Path(d); return ok })
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
		waiting: map[id.Config]time.Time{}, last: map[id.Config]time.Time{}, unread: map[string]int{}, read: map[string]reading{}, shunned: map[kit.Delivery]time.Time{},
		urgent: make(chan struct{}), empty: make(chan int, 1),
	}, nil
}

// fresh are finished games of a job that are in no pack yet.
type fresh struct {
	db  kit.JobDB
	ids []string
}

func (g *gatherer) step(ctx context.Context) error {
	work, unsynced, settled := g.survey(ctx)
	g.gauge("unsynced_games", float64(unsynced))
	select {
	case <-g.empty:
	default:
	}
	g.empty <- unsynced
	var errs []error
	for c, list := range work {
		if err := g.pack(ctx, c, list); err != nil {
			errs = append(errs, fmt.Errorf("pack %s: %w", c, err))
		}
	}
	if err := g.push(ctx); err != nil {
		errs = append(errs, err)
	}
	for _, db := range settled {
		if err := g.release(ctx, db); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// survey reads what the jobs have finished: what is to be packed now, how many games are not safe, and which jobs have
// nothing left here.
func (g *gatherer) survey(ctx context.Context) (work map[id.Config][]fresh, unsynced int, settled []kit.JobDB) {
	found := map[id.Config][]fresh{}
	count, done := map[id.Config]int{}, map[id.Config]bool{}
	for _, db := range g.jobs.Databases() {
		ids, err := g.finished(ctx, db)
		if errors.Is(err, os.ErrNotExist) {
			ids, err = nil, nil
		}
		if err != nil {
			g.unreadable(ctx, db, err)
			continue
		}
		delete(g.unread, db.JobID)
		all, safe := g.books.known(db.JobID)
		var news []string
		open := 0
		for _, i := range ids {
			if !all[i] {
				news = append(news, i)
			}
			if !safe[i] {
				open++
			}
		}
		unsynced += open
		if len(news) > 0 {
			found[db.Config] = append(found[db.Config], fresh{db, news})
			count[db.Config] += len(news)
			done[db.Config] = done[db.Config] || db.Done
		}
		if db.Done && open == 0 {
			settled = append(settled, db)
		}
	}
	work = map[id.Config][]fresh{}
	now := g.now()
	for c, list := range found {
		if g.waiting[c].IsZero() {
			g.waiting[c] = now
		}
		due := count[c] >= g.set.Batch || done[c] || now.Sub(g.waiting[c]) >= g.every
		if g.draining() || due && now.Sub(g.last[c]) >= g.set.MinGap.D() {
			work[c] = list
		}
	}
	return work, unsynced, settled
}

// reading is what a job's database held when it was last read.
type reading struct {
	mark string
	ids  []string
}

// finished lists the finished games of a job. A file that has not changed since is not opened again: jobs wait here for
// their receipts much longer than they run. The end of the job counts as a change, so that nothing of it is missed.
func (g *gatherer) finished(ctx context.Context, db kit.JobDB) ([]string, error) {
	mark := fmt.Sprint(db.Done)
	for _, path := range []string{db.Path, db.Path + "-wal"} {
		if info, err := os.Stat(path); err == nil {
			mark += fmt.Sprint(" ", info.Size(), info.ModTime().UnixNano())
		}
	}
	if r, ok := g.read[db.JobID]; ok && r.mark == mark {
		return r.ids, nil
	}
	ids, err := gamedb.Finished(ctx, db.Path)
	if err == nil {
		g.read[db.JobID] = reading{mark, ids}
	}
	return ids, err
}

func (g *gatherer) draining() bool {
	select {
	case <-g.urgent:
		return true
	default:
		return false
	}
}

// unreadable gives up on the database of an ended job that cannot be read at all: it is kept aside for people.
func (g *gatherer) unreadable(ctx context.Context, db kit.JobDB, err error) {
	g.unread[db.JobID]++
	g.log.Warn().Err(err).Str("job", db.JobID).Int("failures", g.unread[db.JobID]).Msg("cannot read a job's games")
	if !db.Done || g.unread[db.JobID] < 10 {
		return
	}
	delete(g.unread, db.JobID)
	if err := g.store.Quarantine(ctx, db.Path, err.Error()); err != nil {
		g.log.Error().Err(err).Str("job", db.JobID).Msg("cannot quarantine a job's games")
		return
	}
	if err := g.release(ctx, db); err != nil {
		g.log.Warn().Err(err).Str("job", db.JobID).Msg("cannot release")
	}
}

// pack makes one pack of the new games of a config, whatever jobs they are from, and writes it down.
func (g *gatherer) pack(ctx context.Context, c id.Config, list []fresh) error {
	path := filepath.Join(g.staging, fmt.Sprintf("pack-%s-%d.db", c, g.now().UnixNano()))
	pool := path + ".pool"
	defer os.Remove(path)
	defer os.Remove(pool)
	p := packed{Config: c, Made: g.now(), Games: map[string][]string{}}
	room := g.set.MaxGames
	var all []string
	for _, f := range list {
		ids := f.ids[:min(len(f.ids), room)]
		room -= len(ids)
		if len(ids) == 0 {
			break
		}
		into := path
		if len(list) > 1 {
			into = pool
		}
		good, err := g.collect(ctx, f.db, path, into, ids)
		if err != nil {
			return err
		}
		if len(good) > 0 {
			p.Games[f.db.JobID] = good
			all = append(all, good...)
		}
	}
	if len(all) == 0 {
		return nil
	}
	if len(list) > 1 {
		if _, err := gamedb.Pack(ctx, pool, path, all); err != nil {
			return fmt.Errorf("pack games of %d jobs: %w", len(list), err)
		}
	}
	var err error
	if p.Digest, p.Bytes, err = g.store.PutFile(ctx, path); err != nil {
		return fmt.Errorf("store pack: %w", err)
	}
	if err := g.books.add(p); err != nil {
		return err
	}
	g.last[c] = g.now()
	delete(g.waiting, c)
	return nil
}

// collect packs a job's games at path, joins them into the file at into if that is another one, and returns those that
// are in it. Others are refused for good.
func (g *gatherer) collect(ctx context.Context, db kit.JobDB, path, into string, ids []string) ([]string, error) {
	info, err := gamedb.Pack(ctx, db.Path, path, ids)
	nothing := errors.Is(err, gamedb.ErrNoGames)
	if err != nil && !nothing {
		return nil, fmt.Errorf("pack games of job %s: %w", db.JobID, err)
	}
	bad := map[string]bool{}
	rejected := info.Rejected
	if !nothing && into != path {
		merged, err := gamedb.Merge(ctx, into, path)
		if err != nil {
			return nil, fmt.Errorf("join games of job %s: %w", db.JobID, err)
		}
		// Two jobs that give one id to two games: the first stays, the other is no new game.
		for _, i := range merged.Conflicts {
			bad[i] = true
			g.log.Error().Str("job", db.JobID).Str("game", i).Msg("game id is used twice")
		}
		rejected = append(rejected, merged.Rejected...)
	}
	for _, r := range rejected {
		bad[r.ID] = true
		g.log.Warn().Str("job", db.JobID).Str("game", r.ID).Msg("game cannot be used")
	}
	var good, refused []string
	for _, i := range ids {
		if nothing || bad[i] {
			refused = append(refused, i)
		} else {
			good = append(good, i)
		}
	}
	if len(refused) > 0 {
		if err := g.books.refuse(db.JobID, refused); err != nil {
			return nil, err
		}
	}
	return good, nil
}
