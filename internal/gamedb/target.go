package gamedb

import (
	"context"
	"errors"
	"fmt"
)

// target is a database of ours that takes in the games of many files, one after the other. What it prepares for one it keeps for the
// next, whose tables are mostly the same.
type target struct {
	*conn
	in   *inserter // nil before the first file, and after an error
	have *loader
}

// openScratch makes a file that is read once and then thrown away: nothing of it is brought to disk on purpose.
func openScratch(ctx context.Context, path string) (*target, error) {
	c, err := openForWriting(ctx, path)
	if err != nil {
		return nil, err
	}
	if _, err := c.ExecContext(ctx, "PRAGMA synchronous = OFF"); err != nil {
		return nil, errors.Join(fmt.Errorf("ask for quick commits: %w", err), c.Close())
	}
	return &target{conn: c}, nil
}

func (t *target) Close() error {
	t.forget()
	return t.conn.Close()
}

// forget drops what was prepared: what a transaction that was taken back had made of the tables is no more.
func (t *target) forget() {
	if t.in != nil {
		t.in.Close()
	}
	if t.have != nil {
		t.have.Close()
	}
	t.in, t.have = nil, nil
}

// transact takes in one file's games, all that do inserts or nothing. It calls do a second time where a game of the first could not be
// written.
func (t *target) transact(ctx context.Context, tables []tableColumns, do func() error) error {
	return carefully(func(careful bool) error {
		var inner error
		err := t.conn.transact(ctx, func() error {
			if inner = t.prepare(ctx, tables); inner == nil {
				t.in.careful = careful
				inner = do()
			}
			return inner
		})
		if err != nil {
			t.forget()
		}
		if inner == nil {
			err = ofTarget(err) // of the beginning or the commit
		}
		return err
	})
}

// prepare makes ready for games of these tables.
func (t *target) prepare(ctx context.Context, tables []tableColumns) (err error) {
	if t.in != nil && t.in.fits(tables) {
		return nil
	}
	t.forget()
	if t.in, err = newInserter(ctx, t, tables); err != nil {
		return ofTarget(err)
	}
	// What our own file holds includes child tables that this file does not have.
	have, err := columns(ctx, t)
	if err != nil {
		return ofTarget(err)
	}
	t.have, err = newLoader(ctx, t, tablesOf(have), "")
	return ofTarget(err)
}

// standing says what a target has under the id of a game.
type standing int

const (
	absent  standing = iota
	present          // with the same contents
	differs          // with other contents
)

func (t *target) standing(ctx context.Context, r record) (standing, error) {
	old, err := t.have.load(ctx, r.id)
	if err != nil {
		return absent, ofTarget(err)
	}
	switch rows, _ := old.find("games"); {
	case len(rows) == 0:
		return absent, nil
	case old.sum() == r.sum():
		return present, nil
	}
	return differs, nil
}
