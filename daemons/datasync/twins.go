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
)

// keepTwins puts the databases of an ended job aside that give one id to different games. The books know a job's games by
// their ids, so only one of them was packed, and the other would go with the job's folder. The same game in two databases, as a
// job has it that joins the files of its processes, is no matter.
func (g *gatherer) keepTwins(ctx context.Context, job string, found []fresh) error {
	var dbs []kit.JobDB
	var games [][]string
	times := map[string]int{}
	for _, f := range found {
		if f.db.JobID != job || f.aside {
			continue
		}
		ids, err := g.reads.finished(ctx, f.db)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		for _, i := range ids {
			times[i]++
		}
		dbs, games = append(dbs, f.db), append(games, ids)
	}
	for k := range games {
		games[k] = slices.DeleteFunc(slices.Clone(games[k]), func(i string) bool { return times[i] < 2 })
	}
	twins, err := g.twins(ctx, dbs, games)
	if err != nil || len(twins) == 0 {
		return err
	}
	for k, db := range dbs {
		at := slices.IndexFunc(games[k], func(i string) bool { return slices.Contains(twins, i) })
		if at < 0 || g.kept[db.Path] != "" { // the latter: its job could not be released the last time
			continue
		}
		cause := fmt.Errorf("game id %.60q is used twice in one job", games[k][at])
		where, err := g.store.Aside(ctx, db.Path, cause.Error())
		if err != nil {
			return fmt.Errorf("keep the games of job %s: %w", job, err)
		}
		g.kept[db.Path] = where
		g.log.Error().Err(cause).Str("job", job).Str("quarantine", where).Msg("one of two games could not be packed; the database is put aside")
		g.failed(ctx, db, cause, 1)
	}
	return nil
}

// twins lists the ids under which the databases hold different games.
func (g *gatherer) twins(ctx context.Context, dbs []kit.JobDB, games [][]string) ([]string, error) {
	pool := filepath.Join(g.staging, fmt.Sprintf("twins-%d.db", g.now().UnixNano()))
	pack := pool + ".pack"
	defer func() { _ = gamedb.Remove(pool) }() // SQLite leaves files beside it
	defer os.Remove(pack)
	var twins []string
	for k, db := range dbs {
		if len(games[k]) == 0 {
			continue
		}
		if _, err := gamedb.Pack(ctx, db.Path, pack, games[k]); errors.Is(err, gamedb.ErrNoGames) {
			continue // none that is of any use
		} else if err != nil {
			return nil, fmt.Errorf("compare the games of job %s: %w", db.JobID, err)
		}
		merged, err := gamedb.Merge(ctx, pool, pack)
		if err != nil {
			return nil, fmt.Errorf("compare the games of job %s: %w", db.JobID, err)
		}
		twins = append(twins, merged.Conflicts...)
	}
	return twins, nil
}
