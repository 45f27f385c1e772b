package gamedb

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// keyless are tables whose rows of a game can only be found by reading all of them, or with an index that only looks as if it served.
func keyless(t *testing.T, path, key string, games int, statements ...string) string {
	t.Helper()
	execSQL(t, path, append([]string{
		"PRAGMA journal_mode = OFF", "PRAGMA page_size = 65536",
		"CREATE TABLE games (game_id " + key + ", board_type, num_players INTEGER, completed_at TEXT, winner INTEGER, fill)",
		"CREATE TABLE game_moves (game_id TEXT, move_number INTEGER, player INTEGER, move_json, PRIMARY KEY (game_id, move_number))",
		fmt.Sprintf(`WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT %d) INSERT INTO games
			SELECT x, 'connect4', 2, '2026-11-23T10:00:00Z', 1, zeroblob(1500) FROM n`, games),
		"INSERT INTO game_moves SELECT game_id, 1, 1, '{}' FROM games"}, statements...)...)
	return path
}

// A pack in which each game costs a reading of everything is refused before it is merged, however it hides that; a small one is not, and
// neither is a file that a job writes here.
func TestGamesAreFoundByTheirKey(t *testing.T) {
	t.Parallel()
	const many, few = 2000, 500
	for name, c := range map[string]struct {
		key        string
		games      int
		statements []string
		refused    bool
	}{
		"no key":           {"TEXT", many, nil, true},
		"no key, but few":  {"TEXT", few, nil, false},
		"a key":            {"TEXT PRIMARY KEY", many, nil, false},
		"a number":         {"INTEGER PRIMARY KEY", many, nil, false},
		"an index":         {"TEXT", many, []string{"CREATE INDEX i ON games (game_id, board_type)"}, false},
		"compares else":    {"TEXT COLLATE NOCASE", many, []string{"CREATE INDEX i ON games (game_id COLLATE BINARY)"}, true},
		"of some only":     {"TEXT", many, []string{"CREATE INDEX i ON games (game_id) WHERE winner = 2"}, true},
		"another first":    {"TEXT", many, []string{`CREATE INDEX "i (game_id=?)" ON games (board_type, game_id)`}, true},
		"skipped to":       {"TEXT", many, []string{"CREATE INDEX i ON games (fill, game_id)", "ANALYZE", "UPDATE sqlite_stat1 SET stat = '1000000 900000 1'"}, true},
		"says it is small": {"INTEGER PRIMARY KEY", many, []string{"ANALYZE", "DELETE FROM sqlite_stat1", "DROP TABLE IF EXISTS sqlite_stat4", "INSERT INTO sqlite_stat1 VALUES ('games', NULL, '1')"}, true},
		"without rowid": {"TEXT PRIMARY KEY", many, []string{"DROP TABLE game_moves",
			"CREATE TABLE game_moves (game_id TEXT, move_number INTEGER, player INTEGER, move_json, PRIMARY KEY (game_id, move_number)) WITHOUT ROWID",
			"INSERT INTO game_moves SELECT game_id, 1, 1, '{}' FROM games"}, false},
		"moves without key": {"TEXT PRIMARY KEY", many, []string{"CREATE TABLE game_choices (game_id, move_number, choice_type)"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := keyless(t, filepath.Join(t.TempDir(), "a.db"), c.key, c.games, c.statements...)
			err := Verify(t.Context(), path)
			if got := errors.Is(err, ErrUnsafe) && strings.Contains(err.Error(), "no usable key"); got != c.refused || !got && err != nil {
				t.Errorf("verify: %v", err)
			}
			if _, err := mergeOne(t.Context(), path+".merged", path, "chess_2p"); errors.Is(err, ErrUnsafe) != c.refused || !c.refused && err != nil {
				t.Errorf("merge: %v", err)
			}
			if _, err := Pack(t.Context(), path, path+".pack", []string{"1", "2"}); err != nil {
				t.Errorf("pack as a job's file: %v", err)
			}
		})
	}
}

// The files that are written here have their keys.
func TestOwnPacksAreFoundByTheirKey(t *testing.T) {
	t.Parallel()
	pack := packOf(t, filepath.Join(t.TempDir(), "pack"), []int{1, 2})
	s, err := openSource(t.Context(), pack, finished)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, table := range s.tables {
		if found, err := s.finds(t.Context(), table); err != nil || !found {
			t.Errorf("%s: %v %v", table.name, found, err)
		}
	}
}

// A merge ends in time, blames a pack that takes longer for being slow and no more, and leaves the database as it was.
func TestSlowMergeEnds(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	slow, next := packOf(t, filepath.Join(dir, "slow"), []int{1, 2}), packOf(t, filepath.Join(dir, "next"), []int{3})
	m, err := OpenMerger(t.Context(), filepath.Join(dir, "merged"))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if _, err := m.into.mergeWithin(t.Context(), slow, "", time.Nanosecond); !errors.Is(err, ErrSlow) || Damaged(err) {
		t.Errorf("no time at all: %v", err)
	}
	if res, err := m.Merge(t.Context(), next, ""); err != nil || res.Added != 1 {
		t.Errorf("the next pack: %+v %v", res, err)
	}
	if res, err := m.Merge(t.Context(), slow, ""); err != nil || res.Added != 2 {
		t.Errorf("with more time: %+v %v", res, err)
	}
	if short, long := mergeTime(1), mergeTime(32<<20); short < 400*time.Second || long < short+30*time.Second || long > 15*time.Minute {
		t.Errorf("%v and %v", short, long)
	}
}
