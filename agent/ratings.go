package agent

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/rating"
	"github.com/ringagent/ringagent/internal/ring"
)

const (
	matchFetches = 4 // match files that are fetched at once
	// For all files together: their holders may be gone for good, and whoever asks waits for no more than half a minute.
	matchesWait      = 15 * time.Second
	matchesWaitAlone = 5 * time.Second // without a coordinator
)

// matchFile is one stored file of matches as far as it can be had here; why says what is in the way.
type matchFile struct {
	artifact ring.Artifact
	matches  []rating.Match
	why      error
}

// ratings folds the stored matches, of one config if it is given.
func (a *Agent) ratings(ctx context.Context, r reading, want id.Config) api.Ratings {
	decided := a.leader.Freshness().Coordinator != ""
	wait := matchesWait
	if !decided {
		wait = matchesWaitAlone
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	var files []matchFile
	for art := range r.s.Artifacts(ring.KindMatches, want, 0) {
		files = append(files, matchFile{artifact: art})
	}
	places := make(chan struct{}, matchFetches)
	var group sync.WaitGroup
	for i := range files {
		places <- struct{}{}
		group.Go(func() {
			defer func() { <-places }()
			f := &files[i]
			d := f.artifact.Digest
			// Only a coordinator can take this node in as a holder; for reading, the verified bytes will do.
			path := ""
			if decided {
				path, f.why = a.store.Ensure(ctx, d)
			}
			if !decided || f.why != nil && a.store.blobs.Has(d) {
				path, f.why = a.store.bytes(ctx, f.artifact)
			}
			if f.why == nil {
				f.matches, f.why = rating.ReadMatches(path)
			}
			if errors.Is(f.why, rating.ErrInvalid) && a.store.Verify(ctx, d) == nil {
				// Bytes that are right and say nothing usable are no matches, for ever: nobody promotes by them either.
				a.log.Debug().Err(f.why).Str("matches", d.Short()).Msg("no matches in it")
				f.matches, f.why = nil, nil
			}
		})
	}
	group.Wait()
	champions := map[id.Config][]string{}
	for _, m := range r.models(want, true) {
		champions[m.Config] = append(champions[m.Config], string(m.SHA256))
	}
	rows, missing := rate(files, champions)
	return api.Ratings{Ratings: rows, Missing: missing, AsOf: a.asOf(r)}
}

// rate is a pure function of the set of matches, so that every node that has the set has the same ratings. Of a config that
// lacks a part of its matches only the names are known: a fold over some of them would be a figure of this node's alone.
func rate(files []matchFile, champions map[id.Config][]string) ([]api.Rating, []api.MissingMatches) {
	byConfig := map[id.Config][]rating.Match{}
	lacking := map[id.Config]bool{}
	var missing []api.MissingMatches
	for _, f := range files {
		c := f.artifact.Config
		byConfig[c] = append(byConfig[c], f.matches...)
		if f.why != nil {
			lacking[c] = true
			missing = append(missing, api.MissingMatches{Config: c, SHA256: f.artifact.Digest, Reason: f.why.Error()})
		}
	}
	rows := []api.Rating{}
	for c, ms := range byConfig {
		if lacking[c] {
			rows = append(rows, unrated(c, ms, champions[c])...)
			continue
		}
		for name, x := range rating.Fold(ms, pins()) {
			rows = append(rows, api.Rating{
				Config: c, Model: name, Elo: &x.Elo, Low: &x.Low, High: &x.High, Games: &x.Games, Wins: &x.Wins, Losses: &x.Losses, Draws: &x.Draws,
			})
		}
	}
	slices.SortFunc(rows, func(x, y api.Rating) int {
		byElo := 0
		if x.Elo != nil && y.Elo != nil {
			byElo = cmp.Compare(*y.Elo, *x.Elo)
		}
		return cmp.Or(cmp.Compare(x.Config, y.Config), byElo, cmp.Compare(x.Model, y.Model))
	})
	return rows, missing
}

// unrated names those whose ratings are unknown.
func unrated(c id.Config, ms []rating.Match, champions []string) []api.Rating {
	names := slices.Clone(champions)
	for _, m := range ms {
		names = append(names, m.A, m.B)
	}
	slices.Sort(names)
	var rows []api.Rating
	for _, name := range slices.Compact(names) {
		rows = append(rows, api.Rating{Config: c, Model: name})
	}
	return rows
}

// pins are the baselines' ratings, which everything is measured against.
func pins() map[string]float64 {
	return map[string]float64{"random": 400, "heuristic": 1200, "minimax": 1400}
}
