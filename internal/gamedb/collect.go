package gamedb

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// CollectInfo says what became of the games that Collect was asked for; the others are in the pool.
type CollectInfo struct {
	Rejected  []Rejection // no usable game
	Damaged   []Rejection // src is damaged where they lie: somebody may yet save them
	Conflicts []string    // in the pool with other contents, from another file
}

// ErrTooWide says that a file has, together with those before it, more columns that are not known than one file may have.
var ErrTooWide = errors.New("too many columns for one file")

// Pool gathers games of several files that may be live, so that one pack can be made of them. It is read once and then thrown away:
// nothing of it is brought to disk on purpose, and after an error or a crash it is worth nothing.
type Pool struct {
	to   *target
	wide map[string][]string // columns of its tables that are not of the layout
}

// OpenPool makes the file at path.
func OpenPool(ctx context.Context, path string) (*Pool, error) {
	to, err := openScratch(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("open pool: %w", err)
	}
	return &Pool{to: to, wide: map[string][]string{}}, nil
}

// Close lets go of the file; what was collected can be read then.
func (p *Pool) Close() error { return p.to.Close() }

// Collect adds the named finished games of src, all read from one snapshot. Games that are there already with the same contents
// count as collected. After an error, of which ErrTarget is one of the pool itself, nothing of src has been added. ErrTooWide, which the
// first games never get, says that they have to go into another pool.
func (p *Pool) Collect(ctx context.Context, src string, ids []string) (CollectInfo, error) {
	s, err := openSource(ctx, src, live)
	if err != nil {
		return CollectInfo{}, fmt.Errorf("collect games: %w", err)
	}
	defer s.Close()
	ids = slices.Clone(ids)
	slices.Sort(ids)
	ids = slices.Compact(ids)
	if err := s.narrowFor(ctx, len(ids)); err != nil {
		return CollectInfo{}, fmt.Errorf("collect games of %s: %w", src, err)
	}
	wide, err := widened(p.wide, s.tables)
	if err != nil {
		return CollectInfo{}, fmt.Errorf("collect games of %s: %w", src, err)
	}
	var info CollectInfo
	err = p.to.transact(ctx, s.tables, func() error {
		info = CollectInfo{}
		added, err := s.collect(ctx, p.to, ids, &info)
		if err == nil && added == 0 {
			err = errNothing
		}
		return err
	})
	switch {
	case err == nil:
		p.wide = wide
	case errors.Is(err, errNothing):
	default:
		return CollectInfo{}, fmt.Errorf("collect games of %s: %w", src, err)
	}
	return info, nil
}

// errNothing has the columns taken back that were made for games of which none was added: they would keep out those of others.
var errNothing = errors.New("no game was added")

func (s *source) collect(ctx context.Context, to *target, ids []string, info *CollectInfo) (added int, err error) {
	from, err := s.finder(ctx, ids)
	if err != nil {
		return 0, err
	}
	defer from.Close()
	to.have.expect(ids)
	for _, gameID := range ids {
		r, reason, err := from.find(ctx, gameID)
		switch {
		case err == nil && reason != "":
			info.Rejected = append(info.Rejected, Rejection{ID: gameID, Reason: reason})
			continue
		case ofOneGame(err):
			info.Rejected = append(info.Rejected, Rejection{ID: gameID, Reason: err.Error()})
			continue
		case Damaged(err) && ctx.Err() == nil:
			info.Damaged = append(info.Damaged, Rejection{ID: gameID, Reason: err.Error()})
			continue
		case err != nil:
			return added, err
		}
		has, err := to.standing(ctx, r)
		switch {
		case err != nil:
			return added, err
		case has == differs:
			info.Conflicts = append(info.Conflicts, gameID)
			continue
		case has == present:
			continue
		}
		err = to.in.insert(ctx, r)
		switch {
		case err == nil:
			added++
		case errors.Is(err, errTorn) || !ofOneGame(err):
			return added, ofTarget(err)
		default:
			info.Rejected = append(info.Rejected, Rejection{ID: gameID, Reason: err.Error()})
		}
	}
	return added, nil
}
