package gamedb

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// SQLite keeps in a column what it is given. Whatever a file has as ids, each game that it lists as finished can be packed, and
// its id is text from then on.
func TestIdsThatAreNoText(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	writeGames(t, filepath.Join(dir, "first.db"), sampleGame(1)) // turns the locks on, as always before the first file
	for i, c := range []struct {
		parent, child, one, two string
		want                    []string
	}{
		{"", "", "5", "7", []string{"5", "7"}},
		{"BLOB", "TEXT", "5", "7", []string{"5", "7"}},
		{"INTEGER", "", "5", "7", []string{"5", "7"}},
		{"TEXT", "TEXT", "x'6162'", "x'ff'", []string{"ab", "\xff"}},
		{"", "", "-1", "'01'", []string{"-1", "01"}},
		{"REAL", "REAL", "5", "7", []string{"5.0", "7.0"}},
	} {
		src, pack, merged := filepath.Join(dir, fmt.Sprint(i, ".db")), filepath.Join(dir, fmt.Sprint(i, ".pack")), filepath.Join(dir, fmt.Sprint(i, ".merged"))
		execSQL(t, src,
			"CREATE TABLE games (game_id "+c.parent+" PRIMARY KEY, board_type, num_players INTEGER, completed_at TEXT, winner INTEGER)",
			"CREATE TABLE game_moves (game_id "+c.child+", move_number INTEGER, player INTEGER, move_json TEXT)",
			fmt.Sprintf("INSERT INTO games VALUES (%s, 'connect4', 2, '2026-11-23T10:00:00Z', 1), (%s, 'connect4', 2, '2026-11-23T10:00:01Z', 1)", c.one, c.two),
			fmt.Sprintf("INSERT INTO game_moves VALUES (%[1]s, 1, 1, '{}'), (%[1]s, 2, 2, '{}'), (%[2]s, 1, 1, '{}')", c.one, c.two))
		ids, err := Finished(t.Context(), src)
		if diff := cmp.Diff(c.want, ids); err != nil || diff != "" {
			t.Fatal(i, err, diff)
		}
		info, err := Pack(t.Context(), src, pack, ids)
		if err != nil || info.Games != 2 {
			t.Errorf("%d: packed %+v, %v", i, info, err)
			continue
		}
		if res, err := mergeOne(t.Context(), merged, pack, ""); err != nil || res.Added != 2 {
			t.Errorf("%d: merged %+v, %v", i, res, err)
		}
		for n, g := range readGames(t, merged) {
			if g.ID != c.want[n] || len(g.Moves) != 2-n {
				t.Errorf("%d: game %q with %d moves", i, g.ID, len(g.Moves))
			}
		}
	}
}
