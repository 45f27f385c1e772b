package kittest

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/internal/gamedb"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/rating"
)

// Play writes finished games with the given ids into a new job database on n, and adds it to n's jobs.
func (n *Node) Play(job string, c id.Config, done bool, ids ...string) kit.JobDB {
	n.r.T.Helper()
	db := kit.JobDB{JobID: job, WorkID: job, Path: filepath.Join(n.dir, "staging", job+".db"), Config: c, Done: done}
	n.WriteGames(db.Path, c, ids...)
	n.AddJob(db)
	return db
}

// WriteGames adds finished games to the database at path, which is made if need be.
func (n *Node) WriteGames(path string, c id.Config, ids ...string) {
	n.r.T.Helper()
	ctx := context.Background()
	w, err := gamedb.Create(ctx, path)
	if err != nil {
		n.r.T.Error(err)
		return
	}
	for i, g := range ids {
		game := gamedb.Game{ID: g, Board: c.Board(), Players: c.Players(), Seed: int64(i), CreatedAt: time.Now(), CompletedAt: time.Now(),
			Winner: 1, Termination: "win", Source: n.Name}
		for m := range 7 {
			game.Moves = append(game.Moves, gamedb.Move{Number: m, Player: 1 + m%2, Type: "drop", JSON: json.RawMessage(fmt.Sprint(m % 7))})
		}
		if err := w.Add(ctx, game); err != nil {
			n.r.T.Error(err)
		}
	}
	if err := w.Close(); err != nil {
		n.r.T.Error(err)
	}
}

// IDs makes count ids with a prefix.
func IDs(prefix string, count int) []string {
	out := make([]string, count)
	for i := range out {
		out[i] = fmt.Sprintf("%s-%d", prefix, i)
	}
	return out
}

// Games lists the finished games in the database at path; none if there is no such file.
func Games(path string) []string {
	ids, err := gamedb.Finished(context.Background(), path)
	if err != nil {
		return nil
	}
	return ids
}

// Games is Games for who asks again and again: a database is not opened again until its bytes have changed.
func (r *Ring) Games(path string) []string {
	var now [2]id.Digest
	for i, p := range []string{path, path + "-wal"} {
		if b, err := os.ReadFile(p); err == nil {
			now[i] = id.DigestOf(b)
		}
	}
	r.mu.Lock()
	last, ok := r.read[path]
	r.mu.Unlock()
	if ok && last.bytes == now {
		return slices.Clone(last.games)
	}
	ids, err := gamedb.Finished(context.Background(), path)
	if err != nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.read[path] = readGames{now, ids}
	return slices.Clone(ids)
}

// readGames are the games of a database, and of the log beside it, with these bytes.
type readGames struct {
	bytes [2]id.Digest
	games []string
}

// Matches makes a file of matches of candidate: against each opponent so many games, of which it wins the given share.
func Matches(dir, name string, c id.Config, candidate id.Digest, games int, shares map[string]float64) (string, error) {
	path := filepath.Join(dir, name)
	var all []rating.Match
	for opponent, share := range shares {
		for i := range games {
			m := rating.Match{ID: fmt.Sprintf("%s-%s-%d", candidate.Short(), opponent, i), Time: time.Now(), Config: string(c),
				A: string(candidate), B: opponent}
			if float64(i) < share*float64(games) {
				m.Score = 1
			}
			all = append(all, m)
		}
	}
	return path, rating.WriteMatches(path, all)
}
