package gamedb

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/ringagent/ringagent/internal/id"
)

// ErrStop may be returned by the function given to Read: no more games are wanted, and Read returns nil.
var ErrStop = errors.New("stop reading")

// Finished lists the ids of the finished games in a file that another process may be writing to, oldest first. A file
// without tables, as a starting job has it, holds none.
func Finished(ctx context.Context, path string) ([]string, error) {
	s, err := openSource(ctx, path, live)
	if err != nil {
		return nil, fmt.Errorf("list finished games: %w", err)
	}
	defer s.Close()
	ids, err := s.finished(ctx)
	if err != nil {
		return nil, fmt.Errorf("list finished games of %s: %w", path, err)
	}
	return ids, nil
}

// finishedCondition is the test for a finished game in SQL, made of the columns there are: the status, and where there is
// none the time of completion. A pack of games without a status has the column, empty.
func finishedCondition(games tableColumns) (string, error) {
	status, completed := slices.Contains(games.cols, "game_status"), slices.Contains(games.cols, "completed_at")
	switch {
	case status && completed:
		return "coalesce(lower(game_status) = 'completed', completed_at IS NOT NULL)", nil
	case status:
		return "lower(game_status) = 'completed'", nil
	case completed:
		return "completed_at IS NOT NULL", nil
	}
	return "", fmt.Errorf("games has neither game_status nor completed_at: %w", ErrUnsafe)
}

// tellsOfEnd says whether finishedCondition needs a column.
func tellsOfEnd(column string) bool { return column == "game_status" || column == "completed_at" }

func (s *source) finished(ctx context.Context) ([]string, error) {
	games, ok := s.parent()
	if !ok {
		return nil, nil
	}
	where, err := finishedCondition(games)
	if err != nil {
		return nil, err
	}
	order := "game_id"
	if slices.Contains(games.cols, "completed_at") {
		order = "completed_at, game_id"
	}
	rows, err := s.tx.QueryContext(ctx, "SELECT CAST(game_id AS TEXT) FROM games WHERE "+where+" ORDER BY "+order)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var ids []string
	for rows.Next() {
		var gameID *string
		if err := rows.Scan(&gameID); err != nil {
			return nil, err
		}
		if gameID != nil { // SQLite lets a primary key be NULL where it was not forbidden; such a row is no game
			ids = append(ids, *gameID)
		}
	}
	return ids, rows.Err()
}

// accounted refuses a file of which more or fewer rows belong to its finished games than were read, by table. An id may be there in
// several storage classes, a key may compare letters without their case, and an index may lack rows: what the text of the
// ids says in the tables themselves must be what was read by key.
func (s *source) accounted(ctx context.Context, read []int) error {
	games, ok := s.parent()
	if !ok {
		return nil
	}
	where, err := finishedCondition(games)
	if err != nil {
		return err
	}
	for i, t := range s.tables {
		var n int
		err := s.tx.QueryRowContext(ctx, "SELECT count(*) FROM "+quote(t.name)+" NOT INDEXED WHERE CAST(game_id AS TEXT) COLLATE BINARY IN "+
			"(SELECT CAST(game_id AS TEXT) FROM games NOT INDEXED WHERE "+where+")").Scan(&n)
		if err != nil {
			return fmt.Errorf("count rows of %s: %w", t.name, err)
		}
		if n != read[i] {
			return fmt.Errorf("finished games have %d rows in %s, and %d can be read: %w", n, t.name, read[i], ErrUnsafe)
		}
	}
	return nil
}

// Read calls fn with every finished game of one snapshot of the file, oldest first. An error of fn ends the reading and is
// returned, except ErrStop. Games that cannot be understood are skipped, as Merge would refuse them. The snapshot is held
// until Read returns, so fn should not dawdle on a live file.
func Read(ctx context.Context, path string, fn func(Game) error) error {
	s, err := openSource(ctx, path, live)
	if err != nil {
		return fmt.Errorf("read games: %w", err)
	}
	defer s.Close()
	if err := s.read(ctx, fn); err != nil && !errors.Is(err, ErrStop) {
		return fmt.Errorf("read games of %s: %w", path, err)
	}
	return nil
}

func (s *source) read(ctx context.Context, fn func(Game) error) error {
	ids, err := s.finished(ctx)
	if err != nil {
		return err
	}
	l, err := newLoader(ctx, s.tx, s.tables, "")
	if err != nil {
		return err
	}
	defer l.Close()
	l.expect(ids)
	for _, gameID := range ids {
		r, err := l.load(ctx, gameID)
		if ofOneGame(err) {
			continue
		}
		if err != nil {
			return err
		}
		if r.fault() != "" {
			continue
		}
		g, err := r.game()
		if err != nil {
			continue
		}
		if err := fn(g); err != nil {
			return err
		}
	}
	return nil
}

// usableTried is how many games are looked at before a file counts as one of which nothing can be used.
const usableTried = 100

// Usable says whether a finished game of one snapshot of the file could be packed. Where there are finished games and none of
// the oldest hundred could, the error says why not and is ErrUnsafe; a file without finished games passes. Count counts
// games that Pack refuses, since it reads no more than the table of games.
func Usable(ctx context.Context, path string) error {
	s, err := openSource(ctx, path, live)
	if err != nil {
		return fmt.Errorf("look for usable games: %w", err)
	}
	defer s.Close()
	if err := s.usable(ctx); err != nil {
		return fmt.Errorf("look for usable games in %s: %w", path, err)
	}
	return nil
}

func (s *source) usable(ctx context.Context) error {
	ids, err := s.finished(ctx)
	if err != nil || len(ids) == 0 {
		return err
	}
	l, err := newLoader(ctx, s.tx, s.tables, "")
	if err != nil {
		return err
	}
	defer l.Close()
	first := ""
	for _, gameID := range ids[:min(len(ids), usableTried)] {
		r, err := l.load(ctx, gameID)
		reason := ""
		switch {
		case err == nil:
			reason = r.fault()
		case ofOneGame(err), Damaged(err) && ctx.Err() == nil: // others may be on good pages
			reason = err.Error()
		default:
			return err
		}
		if reason == "" {
			return nil
		}
		if first == "" {
			first = reason
		}
	}
	return fmt.Errorf("%d finished games, and none can be used, such as %.60q: %s: %w", len(ids), ids[0], first, ErrUnsafe)
}

// Counts says what a file holds.
type Counts struct {
	Games   int // all configs together
	Configs map[id.Config]ConfigCount
}

// ConfigCount counts one config's finished games.
type ConfigCount struct {
	Games int
	Last  time.Time // completion of the newest; zero if no game says
}

// Count counts the finished games of one snapshot of the file by config. Ids are distinct by the table's key. Rows whose
// board and players make no config key are left out.
func Count(ctx context.Context, path string) (Counts, error) { return count(ctx, path, live) }

// CountFinished is Count of a file to which nobody writes any more; it leaves nothing beside it.
func CountFinished(ctx context.Context, path string) (Counts, error) {
	return count(ctx, path, finished)
}

func count(ctx context.Context, path string, m access) (Counts, error) {
	s, err := openSource(ctx, path, m)
	if err != nil {
		return Counts{}, fmt.Errorf("count games: %w", err)
	}
	defer s.Close()
	c, err := s.count(ctx)
	if err != nil {
		return Counts{}, fmt.Errorf("count games of %s: %w", path, err)
	}
	return c, nil
}

// counted lists the ids of the games that Count counts.
func (s *source) counted(ctx context.Context) ([]string, error) {
	games, ok := s.parent()
	if !ok {
		return nil, nil
	}
	where, err := finishedCondition(games)
	if err != nil {
		return nil, err
	}
	rows, err := s.tx.QueryContext(ctx, "SELECT CAST(game_id AS TEXT), board_type, num_players FROM games WHERE "+where)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var ids []string
	for rows.Next() {
		var gameID *string
		var board, players any
		if err := rows.Scan(&gameID, &board, &players); err != nil {
			return nil, err
		}
		if _, err := id.ParseConfig(string(configKey(text(board), integer(players)))); err == nil && gameID != nil {
			ids = append(ids, *gameID)
		}
	}
	return ids, rows.Err()
}

func (s *source) count(ctx context.Context) (Counts, error) {
	out := Counts{Configs: make(map[id.Config]ConfigCount)}
	games, ok := s.parent()
	if !ok {
		return out, nil
	}
	where, err := finishedCondition(games)
	if err != nil {
		return out, err
	}
	last := "NULL"
	if slices.Contains(games.cols, "completed_at") {
		last = "max(completed_at)"
	}
	rows, err := s.tx.QueryContext(ctx, "SELECT board_type, num_players, count(DISTINCT game_id), "+last+
		" FROM games WHERE "+where+" GROUP BY board_type, num_players")
	if err != nil {
		return out, err
	}
	defer rows.Close()
	for rows.Next() {
		var board, players, at any
		var n int
		if err := rows.Scan(&board, &players, &n, &at); err != nil {
			return out, err
		}
		key, err := id.ParseConfig(string(configKey(text(board), integer(players))))
		if err != nil {
			continue
		}
		t, err := optionalTime(at)
		if err != nil {
			return out, fmt.Errorf("newest completed_at of %s: %w", key, err)
		}
		c := out.Configs[key]
		out.Configs[key] = ConfigCount{Games: c.Games + n, Last: later(c.Last, t)}
		out.Games += n
	}
	return out, rows.Err()
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
