package gamedb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/ringagent/ringagent/internal/id"
)

// change is one transaction's work on a ledger.
type change struct {
	tx      *sql.Tx
	more    map[int64]int64   // by pack: by how much its repeats grow
	leaving map[int64]*parted // packs that are no longer in the ledger, by number
	stmts   []*sql.Stmt
	// One statement each: whose a game is, who else has it, and what changes either.
	first, others, put, forget, note, unnote *sql.Stmt
}

// parted is a pack that leaves.
type parted struct {
	own   sql.NullInt64 // games that were its own; unknown of one that an older version entered
	taken int64         // of those, the ones that are another's now
}

func newChange(ctx context.Context, tx *sql.Tx) (*change, error) {
	c := &change{tx: tx, more: map[int64]int64{}, leaving: map[int64]*parted{}}
	for _, s := range []struct {
		into  **sql.Stmt
		query string
	}{
		{&c.first, "SELECT f.pack, p.sha256, p.seq FROM firsts f LEFT JOIN packs p ON p.n = f.pack WHERE f.game_id = ?"},
		{&c.others, "SELECT p.n, p.sha256, p.seq FROM again a JOIN packs p ON p.n = a.pack WHERE a.game_id = ?"},
		{&c.put, "INSERT OR REPLACE INTO firsts (game_id, pack) VALUES (?, ?)"},
		{&c.forget, "DELETE FROM firsts WHERE game_id = ?"},
		{&c.note, "INSERT INTO again (game_id, pack) VALUES (?, ?)"},
		{&c.unnote, "DELETE FROM again WHERE game_id = ? AND pack = ?"},
	} {
		stmt, err := tx.PrepareContext(ctx, s.query)
		if err != nil {
			c.close()
			return nil, err
		}
		*s.into, c.stmts = stmt, append(c.stmts, stmt)
	}
	return c, nil
}

func (c *change) close() {
	for _, s := range c.stmts {
		_ = s.Close() // the transaction's end says what was lost
	}
}

// leave takes a pack out. Its games stay behind until give or bequeath finds whose they are.
func (c *change) leave(ctx context.Context, d id.Digest) error {
	var n int64
	var p parted
	err := c.tx.QueryRowContext(ctx, "SELECT p.n, s.games - p.repeats FROM packs p LEFT JOIN sizes s ON s.pack = p.n WHERE p.sha256 = ?",
		string(d)).Scan(&n, &p.own)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	if len(c.leaving) == 0 {
		if err := c.told(ctx); err != nil {
			return err
		}
	}
	for _, query := range []string{"DELETE FROM packs WHERE n = ?", "DELETE FROM sizes WHERE pack = ?", "DELETE FROM again WHERE pack = ?"} {
		if _, err := c.tx.ExecContext(ctx, query, n); err != nil {
			return err
		}
	}
	c.leaving[n] = &p
	return nil
}

// told refuses a ledger that counts repeats without saying of which games, as older versions did.
func (c *change) told(ctx context.Context) error {
	var missing int64
	err := c.tx.QueryRowContext(ctx, "SELECT coalesce(sum(repeats), 0) - (SELECT count(*) FROM again) FROM packs").Scan(&missing)
	if err == nil && missing != 0 {
		err = fmt.Errorf("of %d repeats it is not known which games they are: %w", missing, ErrLedger)
	}
	return err
}

// give makes the games those of pack self where no older one has them, and notes the packs that turn out to repeat them.
func (c *change) give(ctx context.Context, self int64, e Entry, ids []string) error {
	if _, err := c.tx.ExecContext(ctx, "INSERT OR REPLACE INTO sizes (pack, games) VALUES (?, ?)", self, len(ids)); err != nil {
		return err
	}
	c.more[self] = 0
	for _, gameID := range ids {
		n, first, err := c.owner(ctx, gameID)
		switch {
		case errors.Is(err, sql.ErrNoRows):
		case err != nil:
			return err
		case first.compare(e) < 0:
			if err := c.repeat(ctx, gameID, self); err != nil {
				return err
			}
			continue
		default:
			if err := c.repeat(ctx, gameID, n); err != nil {
				return err
			}
		}
		if _, err := c.put.ExecContext(ctx, gameID, self); err != nil {
			return err
		}
	}
	return nil
}

func (c *change) repeat(ctx context.Context, gameID string, n int64) error {
	c.more[n]++
	_, err := c.note.ExecContext(ctx, gameID, n)
	return err
}

// owner is the pack whose a game is. One that leaves is followed by its heir; sql.ErrNoRows means nobody.
func (c *change) owner(ctx context.Context, gameID string) (n int64, e Entry, err error) {
	var digest sql.NullString
	var seq sql.NullInt64
	if err := c.first.QueryRowContext(ctx, gameID).Scan(&n, &digest, &seq); err != nil {
		return 0, Entry{}, err
	}
	if digest.Valid {
		return n, Entry{Seq: uint64(seq.Int64), Digest: id.Digest(digest.String)}, nil
	}
	if p := c.leaving[n]; p != nil {
		p.taken++
	}
	return c.inherit(ctx, gameID)
}

// inherit makes a game that of the oldest pack that repeats it, or is sql.ErrNoRows.
func (c *change) inherit(ctx context.Context, gameID string) (heir int64, e Entry, err error) {
	rows, err := c.others.QueryContext(ctx, gameID)
	if err != nil {
		return 0, Entry{}, err
	}
	defer rows.Close()
	found := false
	for rows.Next() {
		var n, seq int64
		var digest string
		if err := rows.Scan(&n, &digest, &seq); err != nil {
			return 0, Entry{}, err
		}
		if x := (Entry{Seq: uint64(seq), Digest: id.Digest(digest)}); !found || x.compare(e) < 0 {
			heir, e, found = n, x, true
		}
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return 0, Entry{}, err
	}
	if !found {
		return 0, Entry{}, sql.ErrNoRows
	}
	c.more[heir]--
	if _, err := c.unnote.ExecContext(ctx, gameID, heir); err != nil {
		return 0, Entry{}, err
	}
	_, err = c.put.ExecContext(ctx, gameID, heir)
	return heir, e, err
}

// bequeath finds whose the games are that packs have left behind and give did not meet. Where it is known that there are none, the
// table of all games is not read.
func (c *change) bequeath(ctx context.Context) error {
	none := true
	for _, p := range c.leaving {
		none = none && p.own.Valid && p.own.Int64 == p.taken
	}
	if none {
		return nil
	}
	ids, err := c.left(ctx)
	if err != nil {
		return err
	}
	for _, gameID := range ids {
		_, _, err := c.inherit(ctx, gameID)
		if errors.Is(err, sql.ErrNoRows) {
			_, err = c.forget.ExecContext(ctx, gameID)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// left lists the games whose pack is not in the ledger.
func (c *change) left(ctx context.Context) ([]string, error) {
	rows, err := c.tx.QueryContext(ctx, "SELECT game_id FROM firsts WHERE pack NOT IN (SELECT n FROM packs)")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var ids []string
	for rows.Next() {
		var gameID string
		if err := rows.Scan(&gameID); err != nil {
			return nil, err
		}
		ids = append(ids, gameID)
	}
	return ids, rows.Err()
}

// count brings the packs' repeats up to date and returns those that were looked at.
func (c *change) count(ctx context.Context) (map[id.Digest]Entered, error) {
	changed := map[id.Digest]Entered{}
	for n, more := range c.more {
		var d id.Digest
		var x Entered
		err := c.tx.QueryRowContext(ctx, "UPDATE packs SET repeats = repeats + ? WHERE n = ? RETURNING sha256, seq, repeats", more, n).
			Scan(&d, &x.Seq, &x.Repeats)
		if err != nil {
			return nil, err
		}
		changed[d] = x
	}
	return changed, nil
}
