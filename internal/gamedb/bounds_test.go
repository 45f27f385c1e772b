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
		"in one table":    {[]string{rowsOfGame("game_choices", choices, 1, 900)}, false},
		"in two tables":   {[]string{rowsOfGame("game_choices", choices, 1, 900), rowsOfGame("game_nnue_features", features, 1, 900)}, false},
		"too many":        {[]string{rowsOfGame("game_choices", choices, 1, 1001)}, true},
		"of many columns": {append(wide, rowsOfGame("game_choices", choices, 1, 750)), true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := packOf(t, filepath.Join(t.TempDir(), "a.db"), []int{1}, append(tables[:len(tables):len(tables)], c.statements...)...)
			l := loaderOf(t, path)
			l.most = bounds{rows: 1000, bytes: 512 << 10}
			_, err := l.single(t.Context(), "game-0001")
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
	statements = append(statements, rowsOfGame("game_choices", "game_id, move_number, choice_type", 1, 9_900))
	path := packOf(t, filepath.Join(t.TempDir(), "a.db"), []int{1}, statements...)
	l := loaderOf(t, path)
	l.most.bytes = 4 << 20
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := l.single(t.Context(), "game-0001")
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; !errors.Is(err, ErrUnsafe) || used > 8<<20 {
		t.Errorf("%d MiB were taken: %v", used>>20, err)
	}
}
