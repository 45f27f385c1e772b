package gamedb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
)

// inserter writes records into a file of ours, whose tables it widens to what the records have.
type inserter struct {
	session session
	tables  []tableColumns
	stmts   map[string]*sql.Stmt // by table
	careful bool                 // a game that cannot be written leaves nothing behind
}

// errTorn says that half a game may have been written: the transaction must not be committed.
var errTorn = errors.New("game is not written whole")

// carefully runs do, which is one transaction and begins anew each time: first for games that can all be written, which most of a
// small one's cost is saved by, and if one of them cannot, with care.
func carefully(do func(careful bool) error) error {
	err := do(false)
	if errors.Is(err, errTorn) && ofOneGame(err) {
		err = do(true)
	}
	return err
}

func newInserter(ctx context.Context, s session, tables []tableColumns) (*inserter, error) {
	have, err := columns(ctx, s)
	if err != nil {
		return nil, err
	}
	if err := makeRoom(ctx, s, have, tables); err != nil {
		return nil, err
	}
	in := &inserter{session: s, tables: tables, stmts: make(map[string]*sql.Stmt, len(tables))}
	for _, t := range tables {
		stmt, err := s.PrepareContext(ctx, insertSQL(t.name, t.cols, t.empty))
		if err != nil {
			in.Close()
			return nil, fmt.Errorf("prepare insert into %s: %w", t.name, err)
		}
		in.stmts[t.name] = stmt
	}
	return in, nil
}

func (in *inserter) Close() {
	for _, s := range in.stmts {
		_ = s.Close() // the transaction's end says what was lost
	}
}

// fits says whether records of these tables can be written as it is.
func (in *inserter) fits(tables []tableColumns) bool {
	return slices.EqualFunc(in.tables, tables, func(a, b tableColumns) bool {
		return a.name == b.name && slices.Equal(a.cols, b.cols) && slices.Equal(a.empty, b.empty)
	})
}

// insert writes a game, all its rows. After an error that is not errTorn there is none of them.
func (in *inserter) insert(ctx context.Context, r record) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	// A game's rows are few. With a context that may end, the driver starts a goroutine for each.
	ctx = context.WithoutCancel(ctx)
	if !in.careful {
		if err := in.rows(ctx, r); err != nil {
			return fmt.Errorf("%w: %w", errTorn, err)
		}
		return nil
	}
	if _, err := in.session.ExecContext(ctx, "SAVEPOINT game"); err != nil {
		return fmt.Errorf("begin game %.60q: %w", r.id, err)
	}
	err := in.rows(ctx, r)
	if err != nil {
		if _, back := in.session.ExecContext(ctx, "ROLLBACK TO game"); back != nil {
			return fmt.Errorf("%w; take back game %.60q: %w: %w", err, r.id, errTorn, back)
		}
	}
	if _, end := in.session.ExecContext(ctx, "RELEASE game"); end != nil {
		return fmt.Errorf("end game %.60q: %w", r.id, end)
	}
	return err
}

func (in *inserter) rows(ctx context.Context, r record) error {
	for _, p := range r.parts {
		for _, row := range p.rows {
			if _, err := in.stmts[p.name].ExecContext(ctx, row...); err != nil {
				return fmt.Errorf("write %s of game %.60q: %w", p.name, r.id, err)
			}
		}
	}
	return nil
}
