package gamedb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/ringagent/ringagent/internal/id"
)

// PackInfo says what Pack wrote.
type PackInfo struct {
	Games    int
	Bytes    int64
	IDs      []string // sorted
	Configs  map[id.Config]int
	Last     time.Time   // completion of the newest game
	Rejected []Rejection // asked for, but no usable game; none of them is in the pack
	Damaged  []Rejection // asked for, but src is damaged where they lie: somebody may yet save them
}

// ErrNoGames says that none of the games asked for can be packed.
var ErrNoGames = errors.New("no games to pack")

// Pack writes a new SQLite file at dst that holds exactly the named finished games of src, which may be live. All are read
// from one snapshot. Games that are missing, unfinished or unusable come back as Rejected, those that lie in a damaged part
// of the file as Damaged; the others are packed. The same games always make the same bytes (of one version of this program).
// The file appears under its name only when it is complete and on disk; an existing dst is replaced.
func Pack(ctx context.Context, src, dst string, ids []string) (PackInfo, error) {
	s, err := openSource(ctx, src, live)
	if err != nil {
		return PackInfo{}, fmt.Errorf("pack games: %w", err)
	}
	defer s.Close()
	info, err := s.pack(ctx, dst, ids, nil)
	if err != nil {
		return info, fmt.Errorf("pack games of %s: %w", src, err)
	}
	return info, nil
}

// pack writes a pack and publishes it. What check, if there is one, says against the finished file keeps it from appearing.
func (s *source) pack(ctx context.Context, dst string, ids []string, check func(temp string, info PackInfo) error) (PackInfo, error) {
	temp, err := tempName(dst)
	if err != nil {
		return PackInfo{}, err
	}
	defer func() { _ = os.Remove(temp) }() // gone already when all went well
	info, err := s.packInto(ctx, temp, ids)
	if err != nil {
		return info, err
	}
	if check != nil {
		if err := check(temp, info); err != nil {
			return PackInfo{}, err
		}
	}
	if info.Bytes, err = publish(temp, dst); err != nil {
		return PackInfo{}, fmt.Errorf("publish pack %s: %w", dst, err)
	}
	return info, nil
}

// tempName reserves a name beside dst.
func tempName(dst string) (string, error) {
	f, err := os.CreateTemp(filepath.Dir(dst), ".pack-*.tmp")
	if err != nil {
		return "", err
	}
	return f.Name(), f.Close()
}

// publish makes the finished file temp appear as dst. SQLite has let go of it, so opening it here takes nobody's locks.
func publish(temp, dst string) (int64, error) {
	f, err := os.Open(temp)
	if err != nil {
		return 0, err
	}
	info, err := f.Stat()
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return 0, err
	}
	if err := os.Rename(temp, dst); err != nil {
		return 0, err
	}
	dir, err := os.Open(filepath.Dir(dst))
	if err != nil {
		return 0, err
	}
	return info.Size(), errors.Join(dir.Sync(), dir.Close())
}

func (s *source) packInto(ctx context.Context, temp string, ids []string) (info PackInfo, err error) {
	from, err := s.finder(ctx)
	if err != nil {
		return PackInfo{}, err
	}
	defer from.Close()

	c, err := open(ctx, temp, forPacking)
	if err != nil {
		return PackInfo{}, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	tx, err := c.BeginTx(ctx, nil)
	if err != nil {
		return PackInfo{}, err
	}
	defer func() { _ = tx.Rollback() }() // nothing to undo after the commit
	in, err := newInserter(ctx, tx, s.tables)
	if err != nil {
		return PackInfo{}, err
	}
	info.Configs = make(map[id.Config]int)
	ids = slices.Clone(ids)
	slices.Sort(ids)
	for _, gameID := range slices.Compact(ids) {
		r, reason, err := from.find(ctx, gameID)
		if err == nil && reason == "" {
			err = in.insert(ctx, r)
		}
		switch {
		case err == nil && reason == "":
			info.add(r)
		case err == nil:
			info.Rejected = append(info.Rejected, Rejection{ID: gameID, Reason: reason})
		case ofOneGame(err):
			info.Rejected = append(info.Rejected, Rejection{ID: gameID, Reason: err.Error()})
		case Damaged(err) && ctx.Err() == nil:
			info.Damaged = append(info.Damaged, Rejection{ID: gameID, Reason: err.Error()})
		default:
			return PackInfo{}, err
		}
	}
	if info.Games == 0 {
		return info, ErrNoGames
	}
	return info, tx.Commit()
}

// finder reads single finished games.
type finder struct {
	*loader
	isFinished *sql.Stmt
}

func (s *source) finder(ctx context.Context) (*finder, error) {
	parent, ok := s.parent()
	if !ok {
		return nil, fmt.Errorf("the file has no tables: %w", ErrNoGames)
	}
	where, err := finishedCondition(parent)
	if err != nil {
		return nil, err
	}
	isFinished, err := s.tx.PrepareContext(ctx, "SELECT count(*) FROM games WHERE game_id = ? AND "+where)
	if err != nil {
		return nil, err
	}
	l, err := newLoader(ctx, s.tx, s.tables)
	if err != nil {
		_ = isFinished.Close()
		return nil, err
	}
	return &finder{l, isFinished}, nil
}

func (f *finder) Close() {
	f.loader.Close()
	_ = f.isFinished.Close() // read-only: nothing is lost
}

// find reads one finished game that can be used, or says why it is none.
func (f *finder) find(ctx context.Context, gameID string) (r record, reason string, err error) {
	var n int
	for _, key := range keys(gameID) {
		if err := f.isFinished.QueryRowContext(ctx, key).Scan(&n); err != nil {
			return r, "", fmt.Errorf("find game %.60q: %w", gameID, err)
		}
		if n > 0 {
			break
		}
	}
	if n == 0 {
		return r, "missing or not finished", nil
	}
	if r, err = f.load(ctx, gameID); err != nil {
		return r, "", err
	}
	return r, r.fault(), nil
}

func (p *PackInfo) add(r record) {
	games, value := r.find("games")
	p.Games++
	p.IDs = append(p.IDs, r.id)
	p.Configs[r.config()]++
	if t, err := optionalTime(value(games[0], "completed_at")); err == nil {
		p.Last = later(p.Last, t)
	}
}

// inserter writes records into a file of ours, whose tables it widens to what the records have.
type inserter struct {
	tx    *sql.Tx
	stmts map[string]*sql.Stmt // closed with the transaction
}

func newInserter(ctx context.Context, tx *sql.Tx, tables []tableColumns) (*inserter, error) {
	optional := make(map[string]bool)
	for _, t := range tables {
		optional[t.name] = t.optional
	}
	if err := createSchema(ctx, tx, optional); err != nil {
		return nil, err
	}
	in := &inserter{tx: tx, stmts: make(map[string]*sql.Stmt, len(tables))}
	for _, t := range tables {
		if err := addColumns(ctx, tx, t.name, t.cols); err != nil {
			return nil, err
		}
		stmt, err := tx.PrepareContext(ctx, insertSQL(t.name, t.cols))
		if err != nil {
			return nil, fmt.Errorf("prepare insert into %s: %w", t.name, err)
		}
		in.stmts[t.name] = stmt
	}
	return in, nil
}

// insert writes a game, all its rows or none: after an error the transaction is as it was before.
func (in *inserter) insert(ctx context.Context, r record) error {
	if _, err := in.tx.ExecContext(ctx, "SAVEPOINT game"); err != nil {
		return fmt.Errorf("begin game %.60q: %w", r.id, err)
	}
	err := in.rows(ctx, r)
	if err != nil {
		if _, back := in.tx.ExecContext(ctx, "ROLLBACK TO game"); back != nil {
			// Half a game would stay: the whole transaction must not be committed.
			return fmt.Errorf("%w; take back game %.60q: %w", err, r.id, errors.Join(back, in.tx.Rollback()))
		}
	}
	if _, end := in.tx.ExecContext(ctx, "RELEASE game"); end != nil {
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
