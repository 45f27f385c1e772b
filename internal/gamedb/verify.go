package gamedb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// ErrSlow says that a check, or a merge, did not end in time. A disk that stalls and a file that was made to take for ever look alike, so
// it is no verdict on the file: try again.
var ErrSlow = errors.New("game database took too long")

// verifyTime ends the check of a file that was made to take for ever.
const verifyTime = 30 * time.Second

// magic is how every SQLite database begins.
const magic = "SQLite format 3\x00"

// Verify checks a finished file from elsewhere, within 30 s or the context's deadline: that it is a whole SQLite database
// (header, page count, structure by quick_check), that nobody was still writing to it, and that it holds nothing but
// ordinary tables and indexes: no view, trigger, virtual table or computed column, few of them with few columns that are not of the
// layout, and that a game is found without reading all of them. Everything that is wrong with the file is ErrUnsafe or
// ErrNewerSchema; other errors, ErrSlow among them, are this machine's.
func Verify(ctx context.Context, path string) error { return verifyWithin(ctx, path, verifyTime) }

func verifyWithin(ctx context.Context, path string, most time.Duration) error {
	if err := settled(path); err != nil {
		return fmt.Errorf("verify %s: %w", path, err)
	}
	limited, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	err := verify(limited, path)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrUnsafe) || errors.Is(err, ErrNewerSchema):
	case ctx.Err() == nil && limited.Err() != nil:
		err = fmt.Errorf("not done within %v: %w", most, ErrSlow)
	case Damaged(err):
		err = fmt.Errorf("%w: %w", ErrUnsafe, err)
	}
	return fmt.Errorf("verify %s: %w", path, err)
}

// Busy says that another process keeps a file locked for now.
func Busy(err error) bool {
	var e *sqlite.Error
	return errors.As(err, &e) && e.Code()&0xff == sqlite3.SQLITE_BUSY
}

// Damaged tells SQLite's complaints about a file, and ours, from those about this machine, such as too many open files or a
// disk that does not answer. Those say nothing of the file.
func Damaged(err error) bool {
	if errors.Is(err, ErrUnsafe) {
		return true
	}
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return false
	}
	switch e.Code() & 0xff {
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_AUTH,
		sqlite3.SQLITE_FORMAT, sqlite3.SQLITE_MISMATCH:
		return true
	}
	return false
}

// ofOneGame says that a game is too large, or does not fit the tables: whatever file it is in, it cannot be used.
func ofOneGame(err error) bool {
	if errors.Is(err, ErrUnsafe) {
		return true
	}
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return false
	}
	code := e.Code() & 0xff
	return code == sqlite3.SQLITE_CONSTRAINT || code == sqlite3.SQLITE_TOOBIG || code == sqlite3.SQLITE_MISMATCH
}

// settled refuses a file beside which a journal or write-ahead log still holds part of it: the file alone is not the
// database.
func settled(path string) error {
	for _, suffix := range []string{"-wal", "-journal"} {
		info, err := os.Lstat(path + suffix)
		if err == nil && info.Size() > 0 {
			return fmt.Errorf("%s holds part of the database: %w", path+suffix, ErrUnsafe)
		}
	}
	return nil
}

func verify(ctx context.Context, path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if info.Size() == 0 {
		return fmt.Errorf("the file is empty: %w", ErrUnsafe)
	}
	s, err := openSource(ctx, path, finished)
	if err != nil {
		return err
	}
	defer s.Close()
	if err := s.checkSchema(ctx); err != nil {
		return err
	}
	var pages, pageSize int64
	if err := s.tx.QueryRowContext(ctx, "PRAGMA page_count").Scan(&pages); err != nil {
		return err
	}
	if err := s.tx.QueryRowContext(ctx, "PRAGMA page_size").Scan(&pageSize); err != nil {
		return err
	}
	if pages*pageSize != info.Size() {
		return fmt.Errorf("%d pages of %d bytes in a file of %d: %w", pages, pageSize, info.Size(), ErrUnsafe)
	}
	if err := s.affordable(ctx); err != nil {
		return err
	}
	rows, err := s.tx.QueryContext(ctx, "PRAGMA quick_check(5)")
	if err != nil {
		return err
	}
	defer rows.Close()
	var faults []string
	for rows.Next() {
		var line string
		if err := rows.Scan(&line); err != nil {
			return err
		}
		if line != "ok" {
			faults = append(faults, line)
		}
	}
	if err := rows.Err(); err != nil {
		return err
	}
	if len(faults) > 0 {
		return fmt.Errorf("quick_check: %.300s: %w", strings.Join(faults, "; "), ErrUnsafe)
	}
	return nil
}

func isVirtual(create string) bool {
	return strings.HasPrefix(strings.ToUpper(strings.TrimSpace(create)), "CREATE VIRTUAL")
}

func (s *source) checkSchema(ctx context.Context) error {
	if _, ok := s.parent(); !ok {
		return fmt.Errorf("there is no table games: %w", ErrUnsafe)
	}
	rows, err := s.tx.QueryContext(ctx, "SELECT type, name, coalesce(substr(sql, 1, 40), '') FROM sqlite_schema LIMIT ?",
		2*maxTables+1)
	if err != nil {
		return err
	}
	defer rows.Close()
	n := 0
	for rows.Next() {
		var kind, name, create string
		if err := rows.Scan(&kind, &name, &create); err != nil {
			return err
		}
		if (kind != "table" && kind != "index") || isVirtual(create) {
			return fmt.Errorf("it has a %.20s named %.60q: %w", kind, name, ErrUnsafe)
		}
		if n++; n > 2*maxTables {
			return fmt.Errorf("it has more than %d tables and indexes: %w", 2*maxTables, ErrUnsafe)
		}
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return err
	}
	return s.computed(ctx)
}

// computed refuses computed columns in any table: quick_check computes them, row by row, and they may be as slow as their author likes.
// It must come after virtual tables are refused, whose columns are asked of their own code.
func (s *source) computed(ctx context.Context) error {
	var name string
	err := s.tx.QueryRowContext(ctx, `SELECT t.name || '.' || x.name FROM sqlite_schema t, pragma_table_xinfo(t.name) x
		WHERE t.type = 'table' AND x.hidden > 0 LIMIT 1`).Scan(&name)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nil
	case err != nil:
		return err
	}
	return fmt.Errorf("column %.80q is computed: %w", name, ErrUnsafe)
}

// IsDatabase says whether the file at path begins like a SQLite database. It must not be one that somebody writes.
func IsDatabase(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	head := make([]byte, len(magic))
	_, err = io.ReadFull(f, head)
	return err == nil && string(head) == magic
}
