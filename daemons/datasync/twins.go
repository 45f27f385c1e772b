package datasync

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/internal/gamedb"
)

// twinsRetry is how long a job whose databases could not be compared is left alone.
const twinsRetry = time.Minute

// keepTwins puts the databases of an ended job aside that give one id to different games, and says whether the job may be
// released. The books know a job's games by their ids, so only one of them was packed, and the other would go with the job's
// folder. The same game in two databases, as a job has it that joins the files of its processes, is no matter.
func (g *gatherer) keepTwins(ctx context.Context, job string, found []fresh) bool {
	if g.now().Before(g.held[job]) {
		return false
	}
	if err := g.twins(ctx, job, found); err != nil {
		g.log.Warn().Err(err).Str("job", job).Msg("the databases of a job cannot be compared yet")
		g.held[job] = g.now().Add(twinsRetry)
		return false
	}
	delete(g.held, job)
	return true
}

func (g *gatherer) twins(ctx context.Context, job string, found []fresh) error {
	var dbs []kit.JobDB
	var there []bool // in quarantine already
	var games [][]string
	times := map[string]int{}
	for _, f := range found {
		if f.db.JobID != job {
			continue
		}
		ids, err := g.reads.finished(ctx, f.db)
		if err != nil && !errors.Is(err, os.ErrNotExist) && !(f.aside && gamedb.Damaged(err)) {
			return err
		}
		for _, i := range ids {
			times[i]++
		}
		dbs, games, there = append(dbs, f.db), append(games, ids), append(there, f.aside)
	}
	sums, useless := map[string]gamedb.Sum{}, g.books.useless(job)
	twins := map[string]bool{}
	extra := make([]int64, len(dbs)) // games of each that are in no pack
	for k, db := range dbs {
		var shared []string
		for _, i := range games[k] {
			if times[i] > 1 {
				shared = append(shared, i)
			}
		}
		if len(shared) == 0 {
			continue
		}
		here, err := gamedb.Sums(ctx, db.Path, shared)
		if err != nil && !(there[k] && gamedb.Damaged(err)) {
			return err
		}
		for i, sum := range here {
			// A game that could not be used hides a good one of its id as well.
			if first, ok := sums[i]; ok && first != sum || useless[named(i)] {
				twins[i] = true
				extra[k]++
			} else {
				sums[i] = sum
			}
		}
	}
	for k, db := range dbs {
		for _, i := range games[k] {
			if !twins[i] || there[k] {
				continue
			}
			cause := fmt.Errorf("game id %.60q is used twice in one job", i)
			if err := g.putAway(ctx, db, cause, &extra[k]); err != nil {
				return err
			}
			g.failed(ctx, db, cause, 1)
			break
		}
	}
	return nil
}
