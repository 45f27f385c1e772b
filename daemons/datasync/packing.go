package datasync

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/internal/gamedb"
	"github.com/ringagent/ringagent/internal/id"
)

// pack makes one pack of the new games of a config, whatever jobs they are from, and writes it down. A job whose games cannot
// be read is passed over: the others do not wait for it. What is left has too many columns of its own to be in one pack with those
// before it.
func (g *gatherer) pack(ctx context.Context, c id.Config, list []fresh) (left []fresh, err error) {
	path := filepath.Join(g.staging, fmt.Sprintf("pack-%s-%d.db", c, g.now().UnixNano()))
	defer os.Remove(path)
	g.tried[c] = g.now()
	var pool *gamedb.Pool
	if len(list) > 1 {
		defer func() { _ = gamedb.Remove(poolOf(path)) }()
		if pool, err = gamedb.OpenPool(ctx, poolOf(path)); err != nil {
			return nil, fmt.Errorf("make pack: %w", err)
		}
		defer pool.Close()
	}
	p := packed{Config: c, Made: g.now(), Games: map[string][]string{}}
	_, room := g.gap()
	var all []string
	var failed []fresh
	var errs []error // of this machine
	for _, f := range list {
		ids := f.ids[:min(len(f.ids), room)]
		room -= len(ids)
		if len(ids) == 0 {
			break
		}
		good, err := g.collect(ctx, f.db, path, pool, ids)
		if errors.Is(err, gamedb.ErrTooWide) {
			left, room = append(left, f), room+len(ids)
			continue
		}
		switch f.err = err; {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case errors.Is(err, gamedb.ErrTarget): // that says nothing of the job
			return nil, fmt.Errorf("collect games: %w", err)
		case err == nil:
			delete(g.unread, f.db.Path)
		default:
			failed = append(failed, f)
			if !gamedb.Damaged(err) {
				errs = append(errs, err)
			}
		}
		if len(good) > 0 {
			p.Games[f.db.JobID] = append(p.Games[f.db.JobID], names(good)...)
			all = append(all, good...)
		}
	}
	if len(all) > 0 {
		if err := g.finish(ctx, p, path, pool, all); err != nil {
			return nil, errors.Join(append(errs, err)...)
		}
		delete(g.waiting, c)
		// What failed is tried again without regard to the ring's room, but not for ever: a job that plays may be unreadable for hours.
		if !slices.ContainsFunc(failed, func(f fresh) bool {
			return (f.db.Done || !gamedb.Busy(f.err)) && g.unread[f.db.Path] < patience
		}) {
			g.last[c] = g.now()
		}
	}
	for _, f := range failed { // what could be packed of them is written down by now
		g.unreadable(ctx, f)
	}
	return left, errors.Join(errs...)
}

// poolOf is where the games of several jobs are gathered for the pack at path.
func poolOf(path string) string { return path + ".pool" }

// finish stores a pack and writes it down. The games of several jobs are in the pool, with what was collected in vain.
func (g *gatherer) finish(ctx context.Context, p packed, path string, pool *gamedb.Pool, all []string) error {
	if pool != nil {
		if err := pool.Close(); err != nil {
			return fmt.Errorf("collect games: %w", err)
		}
		info, err := gamedb.Pack(ctx, poolOf(path), path, all)
		if n := len(info.Damaged) + len(info.Rejected); err == nil && n > 0 {
			err = fmt.Errorf("%d of them cannot be read any more", n) // the books must not say that they are in the pack
		}
		if err != nil {
			return fmt.Errorf("pack games of several jobs: %w", err)
		}
	}
	var err error
	if p.Digest, p.Bytes, err = g.store.PutFile(ctx, path); err != nil {
		return fmt.Errorf("store pack: %w", err)
	}
	return g.books.add(p)
}

// collect packs a job's games at path, or collects them in the pool if there is one, and returns those that are in it. Others are
// refused for good, but for those that cannot be read now, for which there is an error, too, and those that cannot be in one file
// with another job's: they are in the next pack.
func (g *gatherer) collect(ctx context.Context, db kit.JobDB, path string, pool *gamedb.Pool, ids []string) ([]string, error) {
	var info gamedb.CollectInfo
	var err error
	if pool != nil {
		info, err = pool.Collect(ctx, db.Path, ids)
	} else {
		var pack gamedb.PackInfo
		pack, err = gamedb.Pack(ctx, db.Path, path, ids)
		info.Rejected, info.Damaged = pack.Rejected, pack.Damaged
	}
	nothing := errors.Is(err, gamedb.ErrNoGames)
	if err != nil && !nothing {
		return nil, fmt.Errorf("pack games of job %s: %w", db.JobID, err)
	}
	bad, later := map[string]bool{}, map[string]bool{}
	for _, r := range info.Damaged {
		later[r.ID] = true
	}
	// Two jobs that give one id to two games: they count as one, and nobody merges the second; but it is kept, in a pack of
	// its own, for people to look at.
	for _, i := range info.Conflicts {
		later[i] = true
		g.log.Error().Str("job", db.JobID).Str("game", i).Msg("game id is used twice")
	}
	for _, r := range info.Rejected {
		bad[r.ID] = true
		g.log.Warn().Str("job", db.JobID).Str("game", r.ID).Str("reason", r.Reason).Msg("game cannot be used")
	}
	var good, refused []string
	for _, i := range ids {
		switch {
		case later[i]:
		case nothing || bad[i]:
			refused = append(refused, i)
		default:
			good = append(good, i)
		}
	}
	if len(refused) > 0 {
		if err := g.books.refuse(db.JobID, refused); err != nil {
			return nil, err
		}
	}
	if n := len(info.Damaged); n > 0 {
		return good, fmt.Errorf("%d games of job %s lie in a damaged part of its database, such as %s (%s): %w", n, db.JobID, info.Damaged[0].ID, info.Damaged[0].Reason, gamedb.ErrUnsafe)
	}
	return good, nil
}
