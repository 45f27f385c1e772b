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
	path     string
	tally    *rating.Tally // nil where something is in the way
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
			if decided {
				f.path, f.why = a.store.Ensure(ctx, d)
			}
			if !decided || f.why != nil && a.store.blobs.Has(d) {
				f.path, f.why = a.store.bytes(ctx, f.artifact)
			}
			if f.why == nil {
				f.tally, f.why = a.tally(ctx, d, f.path)
			}
		})
	}
	group.Wait()
	champions := map[id.Config][]string{}
	for _, m := range r.models(want, true) {
		champions[m.Config] = append(champions[m.Config], string(m.SHA256))
	}
	rows, missing := rate(a.matches, files, champions)
	for _, m := range missing {
		if a.store.blobs.Has(m.SHA256) {
			_ = a.store.Verify(ctx, m.SHA256) // which drops a damaged copy; why the file is missing is told already
		}
	}
	return api.Ratings{Ratings: rows, Missing: missing, AsOf: a.asOf(r)}
}

// tally counts what is in a file of matches, once.
func (a *Agent) tally(ctx context.Context, d id.Digest, path string) (*rating.Tally, error) {
	if t, ok := a.matches.Tally(d); ok {
		return t, nil
	}
	ms, err := rating.ReadVerified(path, d)
	switch {
	case errors.Is(err, rating.ErrAltered):
		return nil, errors.Join(err, a.store.Verify(ctx, d)) // which drops it
	case errors.Is(err, rating.ErrInvalid):
		// Bytes that are right and say nothing usable are no matches, for ever: nobody promotes by them either.
		a.log.Debug().Err(err).Str("matches", d.Short()).Msg("no matches in it")
	case err != nil:
		return nil, err
	}
	return a.matches.Add(d, ms), nil
}

// rate depends on the set of matches only, so that every node that has the set has the same ratings. Of a config that
// lacks a part of its matches only the names are known: a fold over some of them would be a figure of this node's alone.
func rate(book *rating.Book, files []matchFile, champions map[id.Config][]string) ([]api.Rating, []api.MissingMatches) {
	byConfig := map[id.Config][]rating.File{}
	lacking := map[id.Config]bool{}
	var missing []api.MissingMatches
	lacks := func(c id.Config, d id.Digest, why error) {
		lacking[c] = true
		missing = append(missing, api.MissingMatches{Config: c, SHA256: d, Reason: why.Error()})
	}
	for _, f := range files {
		c, d := f.artifact.Config, f.artifact.Digest
		have := byConfig[c]
		if f.why == nil {
			have = append(have, rating.File{Digest: d, Path: f.path, Tally: f.tally})
		} else {
			lacks(c, d, f.why)
		}
		byConfig[c] = have // also where nothing is
	}
	rows := []api.Rating{}
	for c, have := range byConfig {
		var ratings map[string]rating.Rating
		if !lacking[c] {
			var unread map[id.Digest]error
			ratings, unread = book.Fold(have, pins())
			for d, why := range unread {
				lacks(c, d, why)
			}
		}
		if lacking[c] {
			rows = append(rows, unrated(c, have, champions[c])...)
			continue
		}
		for name, x := range ratings {
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
	slices.SortFunc(missing, func(x, y api.MissingMatches) int {
		return cmp.Or(cmp.Compare(x.Config, y.Config), cmp.Compare(x.SHA256, y.SHA256))
	})
	return rows, missing
}

// unrated names those whose ratings are unknown.
func unrated(c id.Config, files []rating.File, champions []string) []api.Rating {
	names := slices.Clone(champions)
	for _, f := range files {
		names = append(names, f.Tally.Players()...)
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
