package gamedb

import (
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"testing"
)

// rowsOfGame gives the sample game with that number so many rows in a table that no key keeps from it.
func rowsOfGame(table, columns string, number, rows int) string {
	return fmt.Sprintf(`WITH RECURSIVE n(x) AS (SELECT 100 UNION ALL SELECT x + 1 FROM n LIMIT %d)
		INSERT INTO %s (%s) SELECT 'game-%04d', x, 1 FROM n`, rows, table, columns, number)
}

// A game has a bound of rows in each table, and one of bytes in memory over all of them: what a row takes there does not depend on how
// small it is in the file.
func TestBoundsOfAGame(t *testing.T) {
	t.Parallel()
	const choices, features = "game_id, move_number, choice_type", "game_id, move_number, player_perspective"
	tables := []string{"CREATE TABLE game_choices (" + choices + ")", "CREATE TABLE game_nnue_features (" + features + ")"}
	var wide []string
	for i := range 60 {
		wide = append(wide, fmt.Sprintf("ALTER TABLE game_choices ADD COLUMN c%d", i))
	}
	for name, c := range map[string]struct {
		statements []string
		refused    bool
	}{
		"in one table":    {[]string{rowsOfGame("game_choices", choices, 1, 90_000)}, false},
		"in two tables":   {[]string{rowsOfGame("game_choices", choices, 1, 90_000), rowsOfGame("game_nnue_features", features, 1, 90_000)}, false},
		"too many":        {[]string{rowsOfGame("game_choices", choices, 1, 100_001)}, true},
		"of many columns": {append(wide, rowsOfGame("game_choices", choices, 1, 75_000)), true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := packOf(t, filepath.Join(t.TempDir(), "a.db"), []int{1}, append(tables[:len(tables):len(tables)], c.statements...)...)
			_, err := loaderOf(t, path).single(t.Context(), "game-0001")
			if errors.Is(err, ErrUnsafe) != c.refused || !c.refused && err != nil {
				t.Error(err)
			}
		})
	}
}

// Rows of many empty columns are not gathered in memory by the gigabyte before they are refused.
func TestWideRowsTakeLittleMemory(t *testing.T) {
	var statements []string
	statements = append(statements, "CREATE TABLE game_choices (game_id, move_number, choice_type)")
	for i := range 60 {
		statements = append(statements, fmt.Sprintf("ALTER TABLE game_choices ADD COLUMN c%d", i))
	}
	statements = append(statements, rowsOfGame("game_choices", "game_id, move_number, choice_type", 1, 99_000))
	path := packOf(t, filepath.Join(t.TempDir(), "a.db"), []int{1}, statements...)
	l := loaderOf(t, path)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := l.single(t.Context(), "game-0001")
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; !errors.Is(err, ErrUnsafe) || used > 2*maxGameBytes {
		t.Errorf("%d MiB were taken: %v", used>>20, err)
	}
}

// A game with as many moves as can be written can be read.
func TestLongestGameIsRead(t *testing.T) {
	t.Parallel()
	g := sampleGame(1)
	for len(g.Moves) < maxRows+1 {
		m := g.Moves[1]
		m.Number, m.JSON, m.Probs = len(g.Moves), nil, nil
		g.Moves = append(g.Moves, m)
	}
	if g.check() == nil {
		t.Error("one move more is taken")
	}
	g.Moves = g.Moves[:maxRows]
	path := filepath.Join(t.TempDir(), "a.db")
	writeGames(t, path, g)
	if got := readGames(t, path); len(got) != 1 || len(got[0].Moves) != maxRows {
		t.Errorf("%d games", len(got))
	}
}
