package evaluation

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/rating"
	"github.com/ringagent/ringagent/internal/ring"
)

// rateWait is how long all matches that are not here yet are waited for. Over the weeks many of those who had them are gone,
// and dialling one takes seconds.
const rateWait = 30 * time.Second

// rate folds all stored matches of a config. Those that cannot be had now are left out: ratings are shown, gates decide.
func (p *promoter) rate(ctx context.Context, v kit.View, c id.Config, own rating.File) map[string]rating.Rating {
	fetching, cancel := context.WithTimeout(ctx, rateWait)
	defer cancel()
	all := []rating.File{own}
	var out int
	var last error
	for _, a := range v.Library.Artifacts(ring.KindMatches, c) {
		if a.Digest == own.Digest {
			continue
		}
		var f rating.File
		var err error
		if _, here := p.store.Path(a.Digest); here || served(v, a) {
			f, err = p.file(ctx, fetching, a.Digest)
		} else {
			err = fmt.Errorf("nobody has it: %w", errNotHad)
		}
		if err != nil {
			out, last = out+1, err
			continue
		}
		all = append(all, f)
	}
	ratings, unread := p.book.Fold(all, kit.Baselines())
	for d, err := range unread {
		out, last = out+1, errors.Join(err, p.store.Verify(ctx, d)) // which puts a damaged copy aside
	}
	if out > 0 {
		p.log.Warn().Err(last).Int("files", out).Msg("matches left out of the rating")
	}
	return ratings
}

// file has a file of matches here and counts what is in it, which it does once.
func (p *promoter) file(ctx, fetching context.Context, d id.Digest) (rating.File, error) {
	path, err := p.ensure(ctx, fetching, d)
	if err != nil {
		return rating.File{}, fmt.Errorf("get matches %s: %w", d.Short(), err)
	}
	t, ok := p.book.Tally(d)
	if !ok {
		m, err := p.read(ctx, d, path)
		if err != nil {
			return rating.File{}, err
		}
		t = p.book.Add(d, m)
	}
	return rating.File{Digest: d, Path: path, Tally: t}, nil
}

// matches reads a stored file each time, for the gates: kept in memory, those of all candidates would be all that is in it after
// some weeks. What a rating needs of them is kept.
func (p *promoter) matches(ctx, fetching context.Context, d id.Digest) ([]rating.Match, error) {
	path, err := p.ensure(ctx, fetching, d)
	if err != nil {
		return nil, fmt.Errorf("get matches %s: %w", d.Short(), err)
	}
	m, err := p.read(ctx, d, path)
	if err == nil {
		p.book.Add(d, m)
	}
	return m, err
}

func (p *promoter) read(ctx context.Context, d id.Digest, path string) ([]rating.Match, error) {
	if err := p.store.Verify(ctx, d); err != nil {
		return nil, fmt.Errorf("check matches %s: %w", d.Short(), err)
	}
	m, err := rating.ReadVerified(path, d)
	if errors.Is(err, rating.ErrInvalid) {
		// Bytes that are right and say nothing usable are no matches, for ever.
		p.log.Warn().Err(err).Str("matches", d.Short()).Msg("no matches in it")
		m, err = nil, nil
	}
	return m, err
}

// ensure has an artifact here; what is not yet is fetched within the time for that.
func (p *promoter) ensure(ctx, fetching context.Context, d id.Digest) (string, error) {
	if _, here := p.store.Path(d); here {
		return p.store.Ensure(ctx, d)
	}
	path, err := "", fetching.Err()
	if err == nil {
		path, err = p.store.Ensure(fetching, d)
	}
	if err != nil {
		return "", fmt.Errorf("%w: %w", errNotHad, err)
	}
	return path, nil
}
