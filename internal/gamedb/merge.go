package gamedb

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/ringagent/ringagent/internal/id"
)

// MergeResult says what became of a pack's games.
type MergeResult struct {
	Added, Present int
	Conflicts      []string    // ids that are in dst with other contents; dst keeps what it had
	Rejected       []Rejection // games of the pack that cannot be used
}

// ErrTarget says that the database written to is damaged, not the one that was read.
var ErrTarget = errors.New("database written to is damaged")

// ofTarget marks an error of the file merged into. Only what no pack can cause counts as damage.
func ofTarget(err error) error {
	var e *sqlite.Error
	if errors.As(err, &e) {
		switch e.Code() & 0xff {
		case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT:
			return fmt.Errorf("%w: %w", ErrTarget, err)
		}
	}
	return err
}

// Merge adds the finished games of pack, a file nobody writes to, to the database at dst, which is made if it is missing.
// It is one transaction by game id, parent and children together: all of the pack or nothing. Games that are in dst with the
// same contents count as Present, so merging twice changes nothing; those of another config than of, if that is not empty, are
// Rejected. A damaged dst is ErrTarget. The pack is treated as hostile, but Verify is the
// fuller check and comes first for bytes from another machine.
func Merge(ctx context.Context, dst, pack string, of id.Config) (MergeResult, error) {
	if err := settled(pack); err != nil {
		return MergeResult{}, fmt.Errorf("merge %s: %w", pack, err)
	}
	s, err := openSource(ctx, pack, finished)
	if err != nil {
		return MergeResult{}, fmt.Errorf("merge: %w", err)
	}
	defer s.Close()
	c, err := openForWriting(ctx, dst)
	if err != nil {
		return MergeResult{}, fmt.Errorf("merge into %s: %w", dst, ofTarget(err))
	}
	defer c.Close()
	// A merge is remembered elsewhere as done, so unlike a playing job's file it must be on disk when this returns.
	if _, err := c.ExecContext(ctx, "PRAGMA synchronous = FULL"); err != nil {
		return MergeResult{}, fmt.Errorf("ask for durable commits: %w", err)
	}
	res, err := s.mergeInto(ctx, c, of)
	if err != nil {
		return MergeResult{}, fmt.Errorf("merge %s into %s: %w", pack, dst, err)
	}
	return res, nil
}

// Gather merges the games of a config, or all where of is empty, of many packs into a file that is only read once and then thrown away, such as an export's input: nothing of it
// is brought to disk on purpose, and after an error or a crash it is worth nothing. Games that cannot be used are left out.
func Gather(ctx context.Context, dst string, packs []string, of id.Config) (out []Rejection, err error) {
	c, err := openForWriting(ctx, dst)
	if err != nil {
		return nil, fmt.Errorf("gather into %s: %w", dst, err)
	}
	defer c.Close()
	if _, err := c.ExecContext(ctx, "PRAGMA synchronous = OFF"); err != nil {
		return nil, fmt.Errorf("ask for quick commits: %w", err)
	}
	for _, pack := range packs {
		res, err := gather(ctx, c, pack, of)
		if err != nil {
			return nil, fmt.Errorf("gather %s into %s: %w", pack, dst, err)
		}
		out = append(out, res.Rejected...)
	}
	return out, nil
}

func gather(ctx context.Context, dst *conn, pack string, of id.Config) (MergeResult, error) {
	if err := settled(pack); err != nil {
		return MergeResult{}, err
	}
	s, err := openSource(ctx, pack, finished)
	if err != nil {
		return MergeResult{}, err
	}
	defer s.Close()
	return s.mergeInto(ctx, dst, of)
}

func (s *source) mergeInto(ctx context.Context, dst *conn, of id.Config) (MergeResult, error) {
	var res MergeResult
	ids, err := s.finished(ctx)
	if err != nil {
		return res, err
	}
	if len(ids) == 0 {
		return res, nil
	}
	from, err := newLoader(ctx, s.tx, s.tables)
	if err != nil {
		return res, err
	}
	defer from.Close()
	tx, err := dst.BeginTx(ctx, nil)
	if err != nil {
		return res, fmt.Errorf("begin: %w", ofTarget(err))
	}
	defer func() { _ = tx.Rollback() }() // nothing to undo after the commit
	in, err := newInserter(ctx, tx, s.tables)
	if err != nil {
		return res, ofTarget(err)
	}
	have, err := targetLoader(ctx, tx)
	if err != nil {
		return res, ofTarget(err)
	}
	defer have.Close()
	for _, gameID := range ids {
		r, err := from.load(ctx, gameID)
		if ofOneGame(err) {
			res.Rejected = append(res.Rejected, Rejection{ID: gameID, Reason: err.Error()})
			continue
		}
		if err != nil {
			return res, err
		}
		reason := r.fault()
		if reason == "" && of != "" {
			if c := r.config(); c != of {
				reason = fmt.Sprintf("its board_type and num_players make %s, not %s", c, of)
			}
		}
		if reason != "" {
			res.Rejected = append(res.Rejected, Rejection{ID: gameID, Reason: reason})
			continue
		}
		old, err := have.load(ctx, gameID)
		if err != nil {
			return res, ofTarget(err)
		}
		switch rows, _ := old.find("games"); {
		case len(rows) == 0:
			err := in.insert(ctx, r)
			if err == nil {
				res.Added++
				continue
			}
			if !ofOneGame(err) {
				return res, ofTarget(err)
			}
			res.Rejected = append(res.Rejected, Rejection{ID: gameID, Reason: err.Error()})
		case old.sum() == r.sum():
			res.Present++
		default:
			res.Conflicts = append(res.Conflicts, gameID)
		}
	}
	slices.Sort(res.Conflicts)
	if err := tx.Commit(); err != nil {
		return res, fmt.Errorf("commit: %w", ofTarget(err))
	}
	return res, nil
}

// targetLoader reads what our own file holds, including child tables that this pack does not have.
func targetLoader(ctx context.Context, s session) (*loader, error) {
	var tables []tableColumns
	for _, t := range layout() {
		cols, err := columnsOf(ctx, s, t.name)
		if err != nil {
			return nil, err
		}
		if len(cols) > 0 {
			tables = append(tables, tableColumns{table: t, cols: cols})
		}
	}
	return newLoader(ctx, s, tables)
}
