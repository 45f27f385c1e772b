package gamedb

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

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

// Merger adds packs to one database, one after the other. Its user must Close it; until then others may find the newest games beside
// the file (SQLite's write-ahead log), not in it.
type Merger struct {
	path string
	into target
}

// OpenMerger opens the database at path for merging, which is made if it is missing. A damaged one is ErrTarget.
func OpenMerger(ctx context.Context, path string) (*Merger, error) {
	c, err := openForWriting(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("merge into %s: %w", path, ofTarget(err))
	}
	// A merge is remembered elsewhere as done, so unlike a playing job's file it must be on disk when it returns.
	if _, err := c.ExecContext(ctx, "PRAGMA synchronous = FULL"); err != nil {
		return nil, errors.Join(fmt.Errorf("ask for durable commits: %w", err), c.Close())
	}
	return &Merger{path: path, into: target{conn: c}}, nil
}

// Close lets go of the database. What Merge has returned for stays.
func (m *Merger) Close() error {
	if err := m.into.Close(); err != nil {
		return fmt.Errorf("close %s: %w", m.path, err)
	}
	return nil
}

// Merge adds the finished games of pack, a file nobody writes to.
// It is one transaction by game id, parent and children together: all of the pack or nothing. Games that are there with the
// same contents count as Present, so merging twice changes nothing; those of another config than of, if that is not empty, are
// Rejected. A damaged database is ErrTarget, and a pack that takes far longer than one of its size should is ErrSlow. The pack is
// treated as hostile, but Verify is the fuller check and comes first for bytes from another machine.
func (m *Merger) Merge(ctx context.Context, pack string, of id.Config) (MergeResult, error) {
	res, err := m.into.merge(ctx, pack, of)
	if err != nil {
		return MergeResult{}, fmt.Errorf("merge %s into %s: %w", pack, m.path, err)
	}
	return res, nil
}

// Gather merges the games of a config, or all where of is empty, of many packs into a file that is only read once and then thrown
// away, such as an export's input: nothing of it is brought to disk on purpose, and after an error or a crash it is worth nothing.
// Games that cannot be used are left out, and so is a pack that cannot be read, or not together with those before it: one that somebody
// made so must not keep the others out of every export.
func Gather(ctx context.Context, dst string, packs []string, of id.Config) (out []Rejection, err error) {
	to, err := openScratch(ctx, dst)
	if err != nil {
		return nil, fmt.Errorf("gather into %s: %w", dst, err)
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	for _, pack := range packs {
		res, err := to.merge(ctx, pack, of)
		if ofPack(ctx, err) {
			out = append(out, Rejection{Pack: pack, Reason: err.Error()})
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("gather %s into %s: %w", pack, dst, err)
		}
		out = append(out, res.Rejected...)
	}
	return out, nil
}

// ofPack says that a merge failed for what is wrong with the pack, not with this machine or the database.
func ofPack(ctx context.Context, err error) bool {
	return err != nil && ctx.Err() == nil && !errors.Is(err, ErrTarget) &&
		(Damaged(err) || errors.Is(err, ErrNewerSchema) || errors.Is(err, ErrSlow))
}

// mergeTime is how long a pack of so many bytes may take: ten thousand small games take some 400 s on a cold disk. A pack can be made such
// that all of its games take for ever, and whoever merges would merge nothing else.
func mergeTime(bytes int64) time.Duration {
	return 10*time.Minute + 2*time.Duration(bytes>>20)*time.Second
}

func (t *target) merge(ctx context.Context, pack string, of id.Config) (MergeResult, error) {
	info, err := os.Stat(pack)
	if err != nil {
		return MergeResult{}, err
	}
	return t.mergeWithin(ctx, pack, of, mergeTime(info.Size()))
}

func (t *target) mergeWithin(ctx context.Context, pack string, of id.Config, most time.Duration) (MergeResult, error) {
	limited, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	res, err := t.take(limited, pack, of)
	if err != nil && ctx.Err() == nil && limited.Err() != nil && !errors.Is(err, ErrTarget) {
		return MergeResult{}, fmt.Errorf("not merged within %v: %w", most, ErrSlow)
	}
	return res, err
}

// take adds a pack's games in one transaction.
func (t *target) take(ctx context.Context, pack string, of id.Config) (res MergeResult, err error) {
	if err := settled(pack); err != nil {
		return res, err
	}
	s, err := openSource(ctx, pack, finished)
	if err != nil {
		return res, err
	}
	defer s.Close()
	ids, err := s.finished(ctx)
	if err != nil || len(ids) == 0 {
		return res, err
	}
	if err := s.narrow(ctx); err != nil {
		return res, err
	}
	if err := s.affordable(ctx); err != nil { // after Verify again: of fewer columns an index may be read instead of the table
		return res, err
	}
	err = t.transact(ctx, s.tables, func() error {
		res = MergeResult{}
		return s.mergeInto(ctx, t, ids, of, &res)
	})
	slices.Sort(res.Conflicts)
	return res, err
}

func (s *source) mergeInto(ctx context.Context, to *target, ids []string, of id.Config, res *MergeResult) error {
	from, err := newLoader(ctx, s.tx, s.tables, "")
	if err != nil {
		return err
	}
	defer from.Close()
	from.expect(ids)
	to.have.expect(ids)
	for _, gameID := range ids {
		r, err := from.load(ctx, gameID)
		if ofOneGame(err) {
			res.Rejected = append(res.Rejected, Rejection{ID: gameID, Reason: err.Error()})
			continue
		}
		if err != nil {
			return err
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
		has, err := to.standing(ctx, r)
		if err != nil {
			return err
		}
		switch has {
		case present:
			res.Present++
		case differs:
			res.Conflicts = append(res.Conflicts, gameID)
		case absent:
			err := to.in.insert(ctx, r)
			switch {
			case err == nil:
				res.Added++
			case errors.Is(err, errTorn) || !ofOneGame(err):
				return ofTarget(err)
			default:
				res.Rejected = append(res.Rejected, Rejection{ID: gameID, Reason: err.Error()})
			}
		}
	}
	return nil
}
