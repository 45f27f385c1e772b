package gamedb

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
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
	c, err := openLedger(ctx, path)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	changed, err := c.enter(ctx, e, ids)
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

type ledger struct{ *conn }

func openLedger(ctx context.Context, path string) (ledger, error) {
	c, err := open(ctx, path, forWriting)
	if err != nil {
		return ledger{}, ofLedger(path, err)
	}
	_, err = c.ExecContext(ctx, `
		CREATE TABLE IF NOT EXISTS packs (n INTEGER PRIMARY KEY, sha256 TEXT NOT NULL UNIQUE, seq INTEGER NOT NULL, repeats INTEGER NOT NULL);
		CREATE TABLE IF NOT EXISTS firsts (game_id TEXT PRIMARY KEY, pack INTEGER NOT NULL) WITHOUT ROWID`)
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
func (l ledger) enter(ctx context.Context, e Entry, ids []string) (map[id.Digest]Entered, error) {
	tx, err := l.BeginTx(ctx, nil)
	if err != nil {
		return nil, fmt.Errorf("begin: %w", err)
	}
	defer func() { _ = tx.Rollback() }() // nothing to undo after the commit
	added, err := tx.ExecContext(ctx, "INSERT OR IGNORE INTO packs (sha256, seq, repeats) VALUES (?, ?, 0)", string(e.Digest), int64(e.Seq))
	if err != nil {
		return nil, err
	}
	if n, err := added.RowsAffected(); err != nil || n == 0 {
		return nil, err
	}
	self, err := added.LastInsertId()
	if err != nil {
		return nil, err
	}
	again, err := give(ctx, tx, self, e, ids)
	if err != nil {
		return nil, err
	}
	changed := map[id.Digest]Entered{}
	for n, games := range again {
		var d id.Digest
		var x Entered
		err := tx.QueryRowContext(ctx, "UPDATE packs SET repeats = repeats + ? WHERE n = ? RETURNING sha256, seq, repeats", games, n).
			Scan(&d, &x.Seq, &x.Repeats)
		if err != nil {
			return nil, err
		}
		changed[d] = x
	}
	return changed, tx.Commit()
}

// give makes the games those of pack self where no older one has them, and counts by pack those that turn out not to be its own.
func give(ctx context.Context, tx *sql.Tx, self int64, e Entry, ids []string) (again map[int64]int64, err error) {
	find, err := tx.PrepareContext(ctx, "SELECT p.n, p.sha256, p.seq FROM firsts f JOIN packs p ON p.n = f.pack WHERE f.game_id = ?")
	if err != nil {
		return nil, err
	}
	defer find.Close()
	put, err := tx.PrepareContext(ctx, "INSERT OR REPLACE INTO firsts (game_id, pack) VALUES (?, ?)")
	if err != nil {
		return nil, err
	}
	defer put.Close()
	again = map[int64]int64{self: 0}
	for _, gameID := range ids {
		var n int64
		var first Entry
		switch err := find.QueryRowContext(ctx, gameID).Scan(&n, &first.Digest, &first.Seq); {
		case errors.Is(err, sql.ErrNoRows):
		case err != nil:
			return nil, err
		case n == self: // one id in several storage classes
			continue
		case first.compare(e) < 0:
			again[self]++
			continue
		default:
			again[n]++
		}
		if _, err := put.ExecContext(ctx, gameID, self); err != nil {
			return nil, err
		}
	}
	return again, nil
}
