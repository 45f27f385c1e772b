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

// Pool gathers games of several files that may be live, so that one pack can be made of them. It is read once and then thrown away:
// nothing of it is brought to disk on purpose, and after an error or a crash it is worth nothing.
type Pool struct{ c *conn }

// OpenPool makes the file at path.
func OpenPool(ctx context.Context, path string) (*Pool, error) {
	c, err := openForWriting(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("open pool: %w", err)
	}
	if _, err := c.ExecContext(ctx, "PRAGMA synchronous = OFF"); err != nil {
		return nil, errors.Join(fmt.Errorf("ask for quick commits: %w", err), c.Close())
	}
	return &Pool{c}, nil
}

// Close lets go of the file; what was collected can be read then.
func (p *Pool) Close() error { return p.c.Close() }

// Collect adds the named finished games of src, all read from one snapshot. Games that are there already with the same contents
// count as collected. After an error, of which ErrTarget is one of the pool itself, nothing of src has been added.
func (p *Pool) Collect(ctx context.Context, src string, ids []string) (CollectInfo, error) {
	s, err := openSource(ctx, src, live)
	if err != nil {
		return CollectInfo{}, fmt.Errorf("collect games: %w", err)
	}
	defer s.Close()
	info, err := s.collect(ctx, p.c, ids)
	if err != nil {
		return CollectInfo{}, fmt.Errorf("collect games of %s: %w", src, err)
	}
	return info, nil
}

func (s *source) collect(ctx context.Context, pool *conn, ids []string) (info CollectInfo, err error) {
	from, err := s.finder(ctx)
	if err != nil {
		return info, err
	}
	defer from.Close()
	tx, err := pool.BeginTx(ctx, nil)
	if err != nil {
		return info, fmt.Errorf("begin: %w", ofTarget(err))
	}
	defer func() { _ = tx.Rollback() }() // nothing to undo after the commit
	in, err := newInserter(ctx, tx, s.tables)
	if err != nil {
		return info, ofTarget(err)
	}
	have, err := targetLoader(ctx, tx)
	if err != nil {
		return info, ofTarget(err)
	}
	defer have.Close()
	ids = slices.Clone(ids)
	slices.Sort(ids)
	for _, gameID := range slices.Compact(ids) {
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
			return info, err
		}
		old, err := have.load(ctx, gameID)
		if err != nil {
			return info, ofTarget(err)
		}
		if rows, _ := old.find("games"); len(rows) > 0 {
			if old.sum() != r.sum() {
				info.Conflicts = append(info.Conflicts, gameID)
			}
			continue
		}
		err = in.insert(ctx, r)
		switch {
		case ofOneGame(err):
			info.Rejected = append(info.Rejected, Rejection{ID: gameID, Reason: err.Error()})
		case err != nil:
			return info, ofTarget(err)
		}
	}
	if err := tx.Commit(); err != nil {
		return info, fmt.Errorf("commit: %w", ofTarget(err))
	}
	return info, nil
}
