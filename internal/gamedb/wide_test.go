package gamedb

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// widePack is a pack of one game that has so many columns of its own in the table of games, each with a value.
func widePack(t *testing.T, dir string, number, columns int, more ...string) string {
	t.Helper()
	var statements []string
	for i := range columns {
		statements = append(statements, fmt.Sprintf("ALTER TABLE games ADD COLUMN own%d_%d DEFAULT 1", number, i))
	}
	return packOf(t, filepath.Join(dir, fmt.Sprint("pack", number)), []int{number}, append(statements, more...)...)
}

func gathered(t *testing.T, packs ...string) (ids []string, out []Rejection) {
	t.Helper()
	dst := filepath.Join(t.TempDir(), "gathered.db")
	out, err := Gather(t.Context(), dst, packs, "")
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range readGames(t, dst) {
		ids = append(ids, g.ID)
	}
	return ids, out
}

// A pack may bring few columns that nobody knows, so that many packs together do not fill the tables of all.
func TestStrangeColumnsOfAPack(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	some, many := widePack(t, dir, 1, maxStrange), widePack(t, dir, 2, maxStrange+1)
	if err := Verify(t.Context(), some); err != nil {
		t.Error(err)
	}
	if err := Verify(t.Context(), many); !errors.Is(err, ErrUnsafe) {
		t.Error(err)
	}
	other := widePack(t, dir, 3, 1)
	if _, err := Join(t.Context(), filepath.Join(dir, "joined"), []string{some, other}); len(Unfit(err)) != 1 || Unfit(err)[0].Pack != other {
		t.Errorf("packs that are too wide together: %v", err)
	}
	joined, _ := joinPacks(t, other, packOf(t, filepath.Join(dir, "plain"), []int{4}))
	if err := Verify(t.Context(), joined); err != nil {
		t.Error(err)
	}
}

// The history of the system that this one replaces has twenty columns beside its key. They are known, and no pack takes their place.
func TestHistoryIsOfTheLayout(t *testing.T) {
	t.Parallel()
	const history = `CREATE TABLE game_history_entries (game_id TEXT NOT NULL, move_number INTEGER NOT NULL, player INTEGER NOT NULL,
		phase_before TEXT NOT NULL, phase_after TEXT NOT NULL, status_before TEXT NOT NULL, status_after TEXT NOT NULL,
		progress_before_json TEXT NOT NULL, progress_after_json TEXT NOT NULL, state_hash_before TEXT, state_hash_after TEXT,
		board_summary_before_json TEXT, board_summary_after_json TEXT, state_before_json TEXT, state_after_json TEXT,
		compressed_states INTEGER DEFAULT 0, available_moves_json TEXT, available_moves_count INTEGER, engine_eval REAL,
		engine_depth INTEGER, fsm_valid INTEGER, fsm_error_code TEXT, PRIMARY KEY (game_id, move_number),
		FOREIGN KEY (game_id) REFERENCES games(game_id) ON DELETE CASCADE)`
	const entry = `INSERT INTO game_history_entries (game_id, move_number, player, phase_before, phase_after, status_before, status_after,
		progress_before_json, progress_after_json, fsm_valid) VALUES ('game-0001', 1, 1, 'a', 'b', 'active', 'active', '{}', '{}', 1)`
	pack := packOf(t, filepath.Join(t.TempDir(), "pack"), []int{1}, history, "CREATE INDEX idx_history_game ON game_history_entries(game_id)", entry)
	if err := Verify(t.Context(), pack); err != nil {
		t.Error(err)
	}
	s, err := openSource(t.Context(), pack, finished)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, table := range s.tables {
		if more := table.strange(); len(more) > 0 {
			t.Errorf("%s: %v", table.name, more)
		}
	}
	joined, _ := joinPacks(t, pack)
	if err := Holds(t.Context(), joined, pack); err != nil {
		t.Error(err)
	}
}

// One pack that cannot be used, for whatever is wrong with it alone or beside the others, is left out of an export by name; all others
// are in it.
func TestGatherLeavesOutABadPack(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	good, last := packOf(t, filepath.Join(dir, "good"), []int{1}), packOf(t, filepath.Join(dir, "last"), []int{2})
	garbage := filepath.Join(dir, "garbage")
	if err := os.WriteFile(garbage, []byte(strings.Repeat("no database ", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string][]string{
		"too wide together": {widePack(t, dir, 6, 60), widePack(t, dir, 7, 60)},
		"newer":             {packOf(t, filepath.Join(dir, "newer"), []int{3}, "UPDATE schema_metadata SET value = '19'")},
		"no database":       {garbage},
		"no key":            {keyless(t, filepath.Join(dir, "keyless"), "TEXT", 2000)},
		"a view":            {packOf(t, filepath.Join(dir, "view"), []int{4}, "DROP TABLE game_players", "CREATE VIEW game_players AS SELECT 1 AS game_id")},
	} {
		ids, out := gathered(t, append(append([]string{good}, bad...), last)...)
		if len(out) != 1 || out[0].Pack != bad[len(bad)-1] || out[0].ID != "" || out[0].Reason == "" {
			t.Errorf("%s: %+v", name, out)
		}
		want := []string{"game-0001", "game-0002"}
		if len(bad) > 1 {
			want = append(want, "game-0006")
		}
		if diff := cmp.Diff(want, ids); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	if _, err := Gather(t.Context(), filepath.Join(dir, "dst"), []string{good, filepath.Join(dir, "none")}, ""); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a pack that is not here: %v", err)
	}
}
