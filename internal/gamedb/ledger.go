package gamedb

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/ringagent/ringagent/internal/id"
)

// A ledger says which games were in several packs. It is made of packs alone and can be made of them again; the file is ours,
// and only this package reads it.

// ErrLedger says that a ledger is damaged: Remove it, and enter the packs again.
var ErrLedger = errors.New("ledger of games is damaged")

// Entry is a pack's place in the order of all packs: by Seq, then by Digest.
type Entry struct {
	Seq    uint64
	Digest id.Digest
}

func (e Entry) compare(o Entry) int {
	return cmp.Or(cmp.Compare(e.Seq, o.Seq), strings.Compare(string(e.Digest), string(o.Digest)))
}

// Enter notes the finished games of pack, a file nobody writes to, in the ledger at path, which is made if it is missing. It is
// one transaction, and a pack that is noted already changes nothing. It returns what the ledger says now of the packs of which it
// said something else before. A machine that loses power may lose the newest entries.
func Enter(ctx context.Context, path, pack string, e Entry) (map[id.Digest]Entered, error) {
	return Supersede(ctx, path, pack, e, nil)
}

// Supersede enters a pack as Enter does, and in the same transaction lets the packs named in gone leave the ledger, also where
// the pack itself is noted already. Each game is then its oldest pack's among those that are left, so repeats of others may
// become fewer. Names in gone that the ledger does not know, and the pack's own, are passed over. A ledger of an older version
// that cannot tell who else has the games of those that leave is ErrLedger.
func Supersede(ctx context.Context, path, pack string, e Entry, gone []id.Digest) (map[id.Digest]Entered, error) {
	if err := settled(pack); err != nil {
		return nil, fmt.Errorf("note %s: %w", pack, err)
	}
	s, err := openSource(ctx, pack, finished)
	if err != nil {
		return nil, fmt.Errorf("note games: %w", err)
	}
	ids, err := s.counted(ctx)
	if err = errors.Join(err, s.Close()); err != nil {
		return nil, fmt.Errorf("note games of %s: %w", pack, err)
	}
	slices.Sort(ids)
	ids = slices.Compact(ids) // one id may be there in several storage classes
	l, err := openLedger(ctx, path)
	if err != nil {
		return nil, err
	}
	defer l.Close()
	changed, err := l.enter(ctx, e, ids, gone)
	return changed, ofLedger(path, err)
}

// ofLedger says what is wrong with a ledger.
func ofLedger(path string, err error) error {
	switch {
	case err == nil:
		return nil
	case Damaged(err):
		return fmt.Errorf("use %s: %w: %w", path, ErrLedger, err)
	}
	return fmt.Errorf("use %s: %w", path, err)
}

// Remove removes a database of ours that nobody has open.
func Remove(path string) error {
	var errs []error
	for _, p := range []string{path, path + "-wal", path + "-shm"} {
		if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Entered is what a ledger says of a pack.
type Entered struct {
	Seq     uint64
	Repeats int64 // how many of its games an older pack of the ledger has, too
}

// Repeats lists the packs of the ledger at path, which is made if it is missing.
func Repeats(ctx context.Context, path string) (map[id.Digest]Entered, error) {
	c, err := openLedger(ctx, path)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	out, err := c.repeats(ctx)
	return out, ofLedger(path, err)
}

// ledger keeps for each game the pack whose it is (firsts), and the other packs that have it (again), which are few. The number of
// a pack's games (sizes) tells how many are its own. Older versions wrote neither again nor sizes.
type ledger struct{ *conn }

func openLedger(ctx context.Context, path string) (ledger, error) {
	c, err := open(ctx, path, forWriting)
	if err != nil {
		return ledger{}, ofLedger(path, err)
	}
	_, err = c.ExecContext(ctx, `
		CREATE TABLE IF NOT EXISTS packs (n INTEGER PRIMARY KEY, sha256 TEXT NOT NULL UNIQUE, seq INTEGER NOT NULL, repeats INTEGER NOT NULL);
		CREATE TABLE IF NOT EXISTS firsts (game_id TEXT PRIMARY KEY, pack INTEGER NOT NULL) WITHOUT ROWID;
		CREATE TABLE IF NOT EXISTS again (game_id TEXT, pack INTEGER, PRIMARY KEY (game_id, pack)) WITHOUT ROWID;
		CREATE INDEX IF NOT EXISTS again_of_pack ON again (pack);
		CREATE TABLE IF NOT EXISTS sizes (pack INTEGER PRIMARY KEY, games INTEGER NOT NULL)`)
	if err != nil {
		return ledger{}, errors.Join(ofLedger(path, err), c.Close())
	}
	return ledger{c}, nil
}

func (l ledger) repeats(ctx context.Context) (map[id.Digest]Entered, error) {
	rows, err := l.QueryContext(ctx, "SELECT sha256, seq, repeats FROM packs")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := map[id.Digest]Entered{}
	for rows.Next() {
		var d id.Digest
		var e Entered
		if err := rows.Scan(&d, &e.Seq, &e.Repeats); err != nil {
			return nil, err
		}
		out[d] = e
	}
	return out, rows.Err()
}

// enter gives every game to the oldest pack that has it. Whichever way the packs arrive, in the end a pack's repeats are its
// games that are not its own.
func (l ledger) enter(ctx context.Context, e Entry, ids []string, gone []id.Digest) (map[id.Digest]Entered, error) {
	tx, err := l.BeginTx(ctx, nil)
	if err != nil {
		return nil, fmt.Errorf("begin: %w", err)
	}
	defer func() { _ = tx.Rollback() }() // nothing to undo after the commit
	added, err := tx.ExecContext(ctx, "INSERT OR IGNORE INTO packs (sha256, seq, repeats) VALUES (?, ?, 0)", string(e.Digest), int64(e.Seq))
	if err != nil {
		return nil, err
	}
	fresh, err := added.RowsAffected()
	if err != nil {
		return nil, err
	}
	c, err := newChange(ctx, tx)
	if err != nil {
		return nil, err
	}
	defer c.close()
	// Only after the new pack is in, so that it does not get the number of one that leaves.
	for _, d := range gone {
		if d == e.Digest {
			continue
		}
		if err := c.leave(ctx, d); err != nil {
			return nil, err
		}
	}
	if fresh == 1 {
		self, err := added.LastInsertId()
		if err != nil {
			return nil, err
		}
		if err := c.give(ctx, self, e, ids); err != nil {
			return nil, err
		}
	}
	if err := c.bequeath(ctx); err != nil {
		return nil, err
	}
	changed, err := c.count(ctx)
	if err != nil {
		return nil, err
	}
	return changed, tx.Commit()
}
