package gamedb

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// wholeReads bounds what a file may cost whose tables are read whole for each game: its bytes times its games.
const wholeReads = 2 << 30

// affordable refuses a file from elsewhere in which a game is found only by reading a whole table, unless it is small. Of a table with
// a million rows and no key every game would cost a second, and the games of such a file hours.
//
// It asks SQLite how it would read and does not look for keys itself: which index serves depends on how a column compares, and what
// the file says of its own sizes (sqlite_stat1) may keep SQLite from using one.
func (s *source) affordable(ctx context.Context) error {
	for _, t := range s.tables {
		found, err := s.finds(ctx, t)
		if err != nil {
			return err
		}
		if found {
			continue
		}
		var bytes, games int64
		err = s.tx.QueryRowContext(ctx, "SELECT (SELECT page_count FROM pragma_page_count) * (SELECT page_size FROM pragma_page_size), "+
			"(SELECT count(*) FROM games NOT INDEXED)").Scan(&bytes, &games)
		if err != nil {
			return fmt.Errorf("look how large it is: %w", err)
		}
		if games > 0 && bytes > wholeReads/games {
			return fmt.Errorf("table %s has no usable key that begins with game_id, and with %d games in %d bytes that takes too long to read: %w",
				t.name, games, bytes, ErrUnsafe)
		}
		return nil
	}
	return nil
}

// finds says whether SQLite goes straight to the rows of a game, be it one or several together.
func (s *source) finds(ctx context.Context, t tableColumns) (bool, error) {
	for _, which := range []string{ofOne, ofMany} {
		steps, err := s.plan(ctx, t.rowsSQL(which, ""), strings.Count(which, "?"))
		if err != nil {
			return false, fmt.Errorf("look for a key of %s: %w", t.name, err)
		}
		if !slices.ContainsFunc(steps, byGame) || slices.ContainsFunc(steps, func(step string) bool { return strings.HasPrefix(step, "SCAN") }) {
			return false, nil
		}
	}
	return true, nil
}

// byGame says whether a step of a plan looks rows up by their game's id alone. What stands in brackets at its end is SQLite's; an index
// may be called anything.
func byGame(step string) bool {
	step = strings.ToLower(step)
	return strings.HasPrefix(step, "search ") && (strings.HasSuffix(step, " (game_id=?)") || strings.HasSuffix(step, " primary key (rowid=?)"))
}

// plan is how SQLite would run a query with so many values.
func (s *source) plan(ctx context.Context, query string, values int) (steps []string, err error) {
	rows, err := s.tx.QueryContext(ctx, "EXPLAIN QUERY PLAN "+query, make([]any, values)...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var number, parent, unused int
		var step string
		if err := rows.Scan(&number, &parent, &unused, &step); err != nil {
			return nil, err
		}
		steps = append(steps, step)
	}
	return steps, rows.Err()
}
