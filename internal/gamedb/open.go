package gamedb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// access says how a file is opened.
type access int

const (
	forWriting access = iota // ours: made if missing, write-ahead log
	forPacking               // ours: a new file, written in one transaction
	live                     // anybody's: read-only beside its writer
	finished                 // anybody's: read-only, and nobody writes to it any more
	mending                  // anybody's: SQLite takes back what a writer that died has left half written; nothing else is changed
)

// conn is one connection; the pool behind it never opens a second one.
type conn struct {
	pool *sql.DB
	*sql.Conn
}

func (c *conn) Close() error {
	return errors.Join(c.Conn.Close(), c.pool.Close())
}

// transact is BEGIN and COMMIT by hand: a sql.Tx would compile every statement anew, a fifth of the cost of a game.
func (c *conn) transact(ctx context.Context, do func() error) error {
	if _, err := c.ExecContext(ctx, "BEGIN IMMEDIATE"); err != nil {
		_, _ = c.ExecContext(context.WithoutCancel(ctx), "ROLLBACK") // it may have begun just before the context ended
		return fmt.Errorf("begin: %w", err)
	}
	err := do()
	// From here on the context must not interrupt: half a transaction would stay open on the connection.
	ctx = context.WithoutCancel(ctx)
	if err == nil {
		if _, err = c.ExecContext(ctx, "COMMIT"); err == nil {
			return nil
		}
		err = fmt.Errorf("commit: %w", err)
	}
	_, undo := c.ExecContext(ctx, "ROLLBACK")
	if undo != nil && strings.Contains(undo.Error(), "no transaction is active") {
		undo = nil // SQLite has rolled back by itself, as it does on a full disk
	}
	return errors.Join(err, undo)
}

// busyMillis is how long a statement waits for another process's lock. A merge of a large pack holds the lock for seconds.
const busyMillis = 15_000

// liveBusyMillis is how long a reader waits for the writer of a file that is not in WAL mode. One that keeps it locked, as a
// process does that commits once at its end, is read later: those who read other files must not wait for it each time.
const liveBusyMillis = 500

func open(ctx context.Context, path string, how access) (*conn, error) {
	// Asking again for what is in effect is allowed at any time, so no state of our own is needed. Elsewhere than on Linux
	// there is nothing to turn on, and the rule in the package comment carries the weight alone.
	if _, err := sqlite.OFDLocking(true); err != nil && !errors.Is(err, sqlite.ErrOFDLockingUnavailable) {
		return nil, fmt.Errorf("turn on per-file locks: %w", err)
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("resolve %s: %w", path, err)
	}
	foreign := how == live || how == finished || how == mending
	if foreign {
		info, err := os.Stat(abs)
		if err != nil {
			return nil, fmt.Errorf("find game database: %w", err)
		}
		if !info.Mode().IsRegular() {
			return nil, fmt.Errorf("%s is no regular file: %w", path, fs.ErrInvalid)
		}
		if err := ordinaryBeside(abs); err != nil {
			return nil, fmt.Errorf("open %s: %w", path, err)
		}
	}
	connector, err := sqlite.NewConnector(dsn(abs, how))
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	pool := sql.OpenDB(connector)
	pool.SetMaxOpenConns(1)
	one, err := pool.Conn(ctx)
	if err != nil {
		_ = pool.Close()
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	c := &conn{pool: pool, Conn: one}
	if foreign {
		if err := limit(c.Conn); err != nil {
			_ = c.Close()
			return nil, fmt.Errorf("limit %s: %w", path, err)
		}
	}
	return c, nil
}

// ordinaryBeside refuses what is no file where SQLite keeps its own files: it would wait in the opening of a pipe for a writer,
// and no context ends that.
func ordinaryBeside(abs string) error {
	for _, suffix := range []string{"-wal", "-shm", "-journal"} {
		if info, err := os.Lstat(abs + suffix); err == nil && !info.Mode().IsRegular() {
			return fmt.Errorf("%s beside it is no regular file: %w", filepath.Base(abs)+suffix, ErrUnsafe)
		}
	}
	return nil
}

func dsn(abs string, how access) string {
	q := url.Values{"_defensive": {"1"}}
	pragma := func(p string) { q.Add("_pragma", p) }
	wait := busyMillis
	if how == live || how == mending {
		wait = liveBusyMillis
	}
	pragma(fmt.Sprintf("busy_timeout(%d)", wait))
	switch how {
	case forWriting:
		q.Set("_txlock", "immediate")
		pragma("foreign_keys(1)")
		pragma("journal_mode(WAL)")
		pragma("synchronous(NORMAL)")
	case forPacking:
		q.Set("_txlock", "immediate")
		pragma("foreign_keys(1)")
		pragma("journal_mode(MEMORY)")
		pragma("synchronous(FULL)")
	case live, finished, mending:
		q.Set("mode", "ro")
		switch how {
		case finished:
			q.Set("immutable", "1")
		case mending:
			q.Set("mode", "rw")
		}
		pragma("trusted_schema(0)")
		pragma("cell_size_check(1)")
		pragma("query_only(1)")
		pragma("ignore_check_constraints(1)")
		pragma("mmap_size(0)")
	}
	u := url.URL{Scheme: "file", Path: abs, RawQuery: q.Encode()}
	return u.String()
}

// limit narrows what a file's contents may ask of this connection. It must run before the schema is first read.
func limit(c *sql.Conn) error {
	for _, l := range []struct{ id, most int }{
		{sqlite3.SQLITE_LIMIT_LENGTH, maxGameBytes},
		{sqlite3.SQLITE_LIMIT_SQL_LENGTH, 256 << 10},
		{sqlite3.SQLITE_LIMIT_COLUMN, 256},
		{sqlite3.SQLITE_LIMIT_EXPR_DEPTH, 100},
		{sqlite3.SQLITE_LIMIT_COMPOUND_SELECT, 8},
		{sqlite3.SQLITE_LIMIT_VDBE_OP, 100_000},
		{sqlite3.SQLITE_LIMIT_ATTACHED, 0},
		{sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 256},
		{sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH, 1},
	} {
		if _, err := sqlite.Limit(c, l.id, l.most); err != nil {
			return err
		}
	}
	return nil
}

// source is a foreign file within one read transaction: everything read from it belongs to one snapshot.
type source struct {
	conn   *conn
	tx     *sql.Tx
	tables []tableColumns // the tables of the layout that the file has
}

type tableColumns struct {
	table
	cols  []string
	empty []string // others that it has, without any value; see narrow
}

func (s *source) Close() error {
	err := s.tx.Rollback()
	if errors.Is(err, sql.ErrTxDone) {
		err = nil // the context ended it
	}
	return errors.Join(err, s.conn.Close())
}

// openSource opens a foreign file. Where its writer has died within a transaction and left a rollback journal, a connection that
// may not write can read nothing: then SQLite is let do what it does for the next writer. It tells such a journal from a living
// writer's by its locks.
func openSource(ctx context.Context, path string, how access) (*source, error) {
	s, err := begin(ctx, path, how)
	var e *sqlite.Error
	if how != live || !errors.As(err, &e) || e.Code() != sqlite3.SQLITE_READONLY_ROLLBACK {
		return s, err
	}
	c, err := open(ctx, path, mending)
	if err != nil {
		return nil, fmt.Errorf("roll back %s: %w", path, err)
	}
	var tables int
	err = c.QueryRowContext(ctx, "SELECT count(*) FROM sqlite_schema").Scan(&tables)
	if err = errors.Join(err, c.Close()); err != nil {
		return nil, fmt.Errorf("roll back %s: %w", path, err)
	}
	return begin(ctx, path, how)
}

func begin(ctx context.Context, path string, how access) (*source, error) {
	c, err := open(ctx, path, how)
	if err != nil {
		return nil, err
	}
	tx, err := c.BeginTx(ctx, nil)
	if err != nil {
		_ = c.Close()
		return nil, fmt.Errorf("begin reading %s: %w", path, err)
	}
	s := &source{conn: c, tx: tx}
	if err := s.inspect(ctx); err != nil {
		_ = s.Close()
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return s, nil
}

// inspect checks that what is called games is a table and learns which columns there are.
func (s *source) inspect(ctx context.Context) error {
	if _, err := schemaVersion(ctx, s.tx); err != nil {
		return err
	}
	if err := s.onlyTables(ctx); err != nil {
		return err
	}
	have, err := columns(ctx, s.tx)
	if err != nil {
		return err
	}
	s.tables = tablesOf(have)
	for _, t := range s.tables {
		for _, k := range t.key {
			if !slices.Contains(t.cols, k) {
				return fmt.Errorf("table %s lacks its key column %s: %w", t.name, k, ErrUnsafe)
			}
		}
		// Of a job's own file as of a pack: what nobody would take is not to be packed.
		if n := len(t.strange()); n > maxStrange {
			return fmt.Errorf("table %s has %d columns of its own, more than %d: %w", t.name, n, maxStrange, ErrUnsafe)
		}
	}
	if len(s.tables) > 0 && !s.tables[0].isParent() {
		return fmt.Errorf("there is no table games: %w", ErrUnsafe)
	}
	return nil
}

// onlyTables refuses a file in which something else than a table has the name of one of the layout.
func (s *source) onlyTables(ctx context.Context) error {
	rows, err := s.tx.QueryContext(ctx, `SELECT lower(name), type, coalesce(substr(sql, 1, 40), '') FROM sqlite_schema
		WHERE lower(name) IN (`+layoutNames()+`) AND type IN ('table', 'view')`)
	if err != nil {
		return fmt.Errorf("read schema: %w", err)
	}
	defer rows.Close()
	seen := map[string]bool{}
	for rows.Next() {
		var name, kind, create string
		if err := rows.Scan(&name, &kind, &create); err != nil {
			return fmt.Errorf("read schema: %w", err)
		}
		if kind != "table" || isVirtual(create) || seen[name] {
			return fmt.Errorf("%s is no ordinary table: %w", name, ErrUnsafe)
		}
		seen[name] = true
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read schema: %w", err)
	}
	return nil
}

// narrow forgets the columns in which a file that is read whole has no value at all, which are most of the layout: to a game they are
// as good as absent, and reading and writing them is half the cost of a small one.
func (s *source) narrow(ctx context.Context) error {
	for i, t := range s.tables {
		counts, into := make([]int64, len(t.cols)), make([]any, len(t.cols))
		expr := make([]string, len(t.cols))
		for j, c := range t.cols {
			expr[j], into[j] = "count("+quote(c)+")", &counts[j]
		}
		err := s.tx.QueryRowContext(ctx, "SELECT "+strings.Join(expr, ", ")+" FROM "+quote(t.name)+" NOT INDEXED").Scan(into...)
		switch {
		case err != nil && Damaged(err) && ctx.Err() == nil:
			continue // which of the games it is, reading them will tell
		case err != nil:
			return fmt.Errorf("count values of %s: %w", t.name, err)
		}
		s.tables[i].cols = nil
		for j, c := range t.cols {
			// Columns that are not of the layout are kept, so that a pack does not depend on what else its file has.
			if counts[j] > 0 || slices.Contains(t.key, c) || !slices.Contains(t.columns, c) || tellsOfEnd(c) {
				s.tables[i].cols = append(s.tables[i].cols, c)
			} else {
				s.tables[i].empty = append(s.tables[i].empty, c)
			}
		}
	}
	return nil
}

// narrowFor narrows where so many games are most of the file.
func (s *source) narrowFor(ctx context.Context, games int) error {
	if _, ok := s.parent(); !ok {
		return nil
	}
	var all int
	err := s.tx.QueryRowContext(ctx, "SELECT count(*) FROM games").Scan(&all)
	switch {
	case err != nil && Damaged(err) && ctx.Err() == nil, err == nil && all > 2*games:
		return nil
	case err != nil:
		return fmt.Errorf("count games: %w", err)
	}
	return s.narrow(ctx)
}

// parent is false for a file in which nobody has made the tables yet, which a starting job looks like.
func (s *source) parent() (tableColumns, bool) {
	if len(s.tables) == 0 {
		return tableColumns{}, false
	}
	return s.tables[0], true
}
