package datasync

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"sync"
	"time"

	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/internal/gamedb"
	"github.com/ringagent/ringagent/internal/id"
)

// fresh are finished games of a job that were in no pack when the books were looked at.
type fresh struct {
	db  kit.JobDB
	ids []string
	err error // its database could not be read
	// aside: the database is in quarantine, and nothing more can be had of it.
	aside bool
}

// look reads what the jobs of this node have finished beside what the books say; known is false where there may be more. The
// books come first: a game that is packed or becomes safe meanwhile is then seen in its older state, and none in neither.
func (g *gatherer) look(ctx context.Context) (found []fresh, t tally, known bool) {
	t = g.books.tally()
	dbs, known := g.jobs.Databases()
	g.reads.keep(dbs)
	for _, db := range dbs {
		f := fresh{db: db}
		if f.aside = t.aside[db.Path]; f.aside {
			found = append(found, f)
			continue
		}
		ids, err := g.reads.finished(ctx, db)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			f.err, known = err, false
		}
		for _, i := range ids {
			if !t.known[db.JobID][named(i)] {
				f.ids = append(f.ids, i)
			}
		}
		found = append(found, f)
	}
	return found, t, known
}

// total adds up by config what is not safe: games in no pack, games in packs without their receipts, and games put aside.
func total(found []fresh, t tally) map[id.Config]int64 {
	sum := maps.Clone(t.games)
	for _, f := range found {
		sum[f.db.Config] += int64(len(f.ids))
	}
	return sum
}

// settled lists the ended jobs that have nothing left here, in any of their databases.
func settled(found []fresh, t tally) []string {
	open := map[string]bool{}
	for _, f := range found {
		open[f.db.JobID] = open[f.db.JobID] || !f.aside && (!f.db.Done || f.err != nil || len(f.ids) > 0 || t.pending[f.db.JobID])
	}
	var out []string
	for _, f := range found {
		if !open[f.db.JobID] {
			out = append(out, f.db.JobID)
			open[f.db.JobID] = true
		}
	}
	return out
}

// Unsynced implements kit.Counter. It waits for no step that is under way, such as one that finds no coordinator.
func (d *syncer) Unsynced(ctx context.Context) (map[id.Config]int64, error) {
	found, t, known := d.g.look(ctx)
	if !known {
		return nil, errors.New("not all jobs of this node can be read now")
	}
	if t.lost > 0 {
		return nil, fmt.Errorf("%d databases with games are in quarantine, and cannot be read", t.lost)
	}
	return total(found, t), nil
}

// readings keeps what each job's database held when it was last read.
type readings struct {
	mu  sync.Mutex
	all map[string]reading // by path
}

type reading struct {
	mark string // of the file; "" fits none
	ids  []string
	all  bool // the job had ended: there are no others
}

// tick is longer than the steps in which any file system counts the times of its files.
const tick = 50 * time.Millisecond

// finished lists the finished games of a job. A file that has not changed since is not opened again: jobs wait here for
// their receipts much longer than they run. The end of the job counts as a change, so that nothing of it is missed. What
// was written a moment ago may be written again without a change of size or time, and is not kept.
func (r *readings) finished(ctx context.Context, db kit.JobDB) ([]string, error) {
	mark, young := fmt.Sprint(db.Done), false
	now := time.Now()
	for _, path := range []string{db.Path, db.Path + "-wal"} {
		if info, err := os.Stat(path); err == nil {
			mark += fmt.Sprint(" ", info.Size(), info.ModTime().UnixNano())
			young = young || now.Sub(info.ModTime()) < tick
		}
	}
	r.mu.Lock()
	last, ok := r.all[db.Path]
	r.mu.Unlock()
	if ok && last.mark == mark {
		return last.ids, nil
	}
	ids, err := gamedb.Finished(ctx, db.Path)
	if err == nil && (!young || db.Done) {
		if young {
			mark = ""
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.all == nil {
			r.all = map[string]reading{}
		}
		r.all[db.Path] = reading{mark, ids, db.Done}
	}
	return ids, err
}

// whole lists the games of an ended job as they were when its database could last be read; ok is false if it never could.
func (r *readings) whole(path string) (ids []string, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	last := r.all[path]
	return last.ids, last.all
}

// keep forgets the databases that are gone.
func (r *readings) keep(dbs []kit.JobDB) {
	there := make(map[string]bool, len(dbs))
	for _, db := range dbs {
		there[db.Path] = true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for path := range r.all {
		if !there[path] {
			delete(r.all, path)
		}
	}
}
