package gamedb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// packOf packs games and changes the pack as a stranger would.
func packOf(t *testing.T, path string, numbers []int, statements ...string) string {
	t.Helper()
	src := filepath.Join(t.TempDir(), "src.db")
	var ids []string
	var games []Game
	for _, n := range numbers {
		games = append(games, sampleGame(n))
		ids = append(ids, sampleGame(n).ID)
	}
	writeGames(t, src, games...)
	if _, err := Pack(t.Context(), src, path, ids); err != nil {
		t.Fatal(err)
	}
	execSQL(t, path, statements...)
	return path
}

// joinPacks joins packs in a directory of its own and sees to it that nothing else stays there.
func joinPacks(t *testing.T, packs ...string) (dst string, info PackInfo) {
	t.Helper()
	dst = filepath.Join(t.TempDir(), "joined.db")
	info, err := Join(t.Context(), dst, packs)
	if err != nil {
		t.Fatal(err)
	}
	onlyFile(t, dst)
	return dst, info
}

func onlyFile(t *testing.T, path string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 || entries[0].Name() != filepath.Base(path) {
		t.Errorf("left beside %s: %v %v", filepath.Base(path), entries, err)
	}
}

func TestJoinHasEveryGameOnceInAnyOrder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	const note = "UPDATE games SET quality_score = %s WHERE game_id = 'game-0002'"
	packs := []string{
		packOf(t, filepath.Join(dir, "a"), []int{1, 2}, fmt.Sprintf(note, "0.5"),
			"CREATE TABLE game_choices (game_id TEXT, move_number INTEGER, choice_type TEXT, extra BLOB)",
			"INSERT INTO game_choices VALUES ('game-0001', 1, 'line', x'00ff')"),
		packOf(t, filepath.Join(dir, "b"), []int{2, 3}, fmt.Sprintf(note, "0.25"), "ALTER TABLE games ADD COLUMN zeta",
			"UPDATE games SET zeta = 7 WHERE game_id = 'game-0003'", "ALTER TABLE game_moves ADD COLUMN omega"),
		packOf(t, filepath.Join(dir, "c"), []int{4, 2, 6}, "ALTER TABLE games ADD COLUMN alpha", "ALTER TABLE game_moves ADD COLUMN beta",
			"UPDATE games SET alpha = 'x' || char(0) || 'y', board_type = 'hex8' WHERE game_id = 'game-0004'",
			"UPDATE game_moves SET beta = 9e999, move_json = char(0) || 'm' WHERE game_id = 'game-0004' AND move_number = 2",
			"UPDATE games SET game_status = 'active' WHERE game_id = 'game-0006'"),
	}
	var first []byte
	for _, order := range permutations(len(packs)) {
		var in []string
		for _, k := range order {
			in = append(in, packs[k])
		}
		dst, info := joinPacks(t, append(in, in[0])...)
		b, err := os.ReadFile(dst)
		if err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = b
		}
		if !bytes.Equal(first, b) {
			t.Errorf("order %v makes other bytes", order)
		}
		want := []string{"game-0001", "game-0002", "game-0003", "game-0004"}
		if diff := cmp.Diff(want, info.IDs); diff != "" || info.Games != 4 || info.Bytes != int64(len(b)) ||
			info.Configs["connect4_2p"] != 3 || info.Configs["hex8_2p"] != 1 || !info.Last.Equal(sampleGame(4).CompletedAt) {
			t.Errorf("%+v: %s", info, diff)
		}
		if err := Verify(t.Context(), dst); err != nil {
			t.Error(err)
		}
		if counts, err := Count(t.Context(), dst); err != nil || counts.Games != 4 {
			t.Errorf("%+v %v", counts, err)
		}
		for _, p := range packs {
			if err := Holds(t.Context(), dst, p); err != nil {
				t.Error(err)
			}
		}
		got := readGames(t, dst)
		if diff := cmp.Diff([]Game{sampleGame(1), sampleGame(2), sampleGame(3)}, got[:3], cmpopts.EquateNaNs()); diff != "" {
			t.Error(diff)
		}
		if err := Holds(t.Context(), packs[0], dst); !errors.Is(err, ErrNotHeld) {
			t.Errorf("a part holds the whole: %v", err)
		}
	}
}

// Of a game of which the packs tell different things later, the fuller copy stays, and its children with it.
func TestJoinKeepsTheFullerNotes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a := packOf(t, filepath.Join(dir, "a"), []int{1}, "UPDATE games SET quality_score = 9")
	b := packOf(t, filepath.Join(dir, "b"), []int{1}, "UPDATE games SET quality_score = 1, parity_status = 'passed'")
	for _, packs := range [][]string{{a, b}, {b, a}} {
		dst, _ := joinPacks(t, packs...)
		execSQL(t, dst, "CREATE TABLE must (x CHECK (x = 1))",
			"INSERT INTO must SELECT count(*) FROM games WHERE quality_score = 1 AND parity_status = 'passed'")
		if diff := cmp.Diff([]Game{sampleGame(1)}, readGames(t, dst), cmpopts.EquateNaNs()); diff != "" {
			t.Error(diff)
		}
	}
}

// One pack joined alone is the same file again: nobody may delete the one for the other.
func TestJoinOfOnePackIsThatPack(t *testing.T) {
	t.Parallel()
	pack := packOf(t, filepath.Join(t.TempDir(), "a"), []int{1, 2})
	dst, _ := joinPacks(t, pack)
	a, err1 := os.ReadFile(pack)
	b, err2 := os.ReadFile(dst)
	if err := errors.Join(err1, err2); err != nil || !bytes.Equal(a, b) {
		t.Error("other bytes", err)
	}
	if err := Holds(t.Context(), pack, pack); !errors.Is(err, ErrNotHeld) {
		t.Errorf("a pack is held by itself: %v", err)
	}
}

// oddTables are tables of a stranger, whose ids have the given declarations.
func oddTables(parent, child string) string {
	return "CREATE TABLE games (game_id " + parent + ", board_type, num_players INTEGER, completed_at TEXT, winner INTEGER);" +
		"CREATE TABLE game_moves (game_id " + child + ", move_number INTEGER, player INTEGER, move_json);" +
		"CREATE TABLE game_choices (game_id " + child + ", move_number, choice_type, player)"
}

// oddGame is a game with one move and one choice.
func oddGame(id, completed string) string {
	return fmt.Sprintf("INSERT INTO games VALUES (%[1]s, 'connect4', 2, %[2]s, 1); INSERT INTO game_moves VALUES (%[1]s, 1, 1, '{}');"+
		"INSERT INTO game_choices VALUES (%[1]s, 1, 'line', 1)", id, completed)
}

func oddPack(t *testing.T, path string, statements ...string) string {
	t.Helper()
	execSQL(t, path, statements...)
	return path
}

const ended = "'2026-11-23T10:00:00Z'"

func TestJoinOfOddIDs(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		statements []string
		want       []string
	}{
		"integers":        {[]string{oddTables("", ""), oddGame("5", ended), oddGame("-7", ended)}, []string{"-7", "5"}},
		"declared so":     {[]string{oddTables("INTEGER PRIMARY KEY", "INTEGER"), oddGame("5", ended)}, []string{"5"}},
		"blobs":           {[]string{oddTables("", "BLOB"), oddGame("x'6162'", ended), oddGame("x'ff'", ended)}, []string{"ab", "\xff"}},
		"reals":           {[]string{oddTables("REAL", "REAL"), oddGame("5", ended)}, []string{"5.0"}},
		"one unfinished":  {[]string{oddTables("", ""), oddGame("5", ended), oddGame("'6'", "NULL")}, []string{"5"}},
		"a row of no id":  {[]string{oddTables("TEXT PRIMARY KEY", ""), oddGame("'a'", ended), oddGame("NULL", ended)}, []string{"a"}},
		"letters by case": {[]string{oddTables("", ""), oddGame("'g'", ended), oddGame("'G'", ended)}, []string{"G", "g"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			odd := oddPack(t, filepath.Join(t.TempDir(), "odd.db"), c.statements...)
			other := packOf(t, filepath.Join(t.TempDir(), "other.db"), []int{1})
			dst, info := joinPacks(t, other, odd)
			if diff := cmp.Diff(append(slices.Clone(c.want), "game-0001"), info.IDs, cmpopts.SortSlices(strings.Compare)); diff != "" {
				t.Error(diff)
			}
			for _, p := range []string{other, odd} {
				if err := Holds(t.Context(), dst, p); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// A pack of which a single row would be lost is refused whole, by its name, and nothing is written.
func TestJoinRefusesAPackThatWouldLoseSomething(t *testing.T) {
	t.Parallel()
	columns := func(name string) (out []string) {
		for i := range 40 {
			out = append(out, fmt.Sprintf("ALTER TABLE games ADD COLUMN %s%d DEFAULT 1", name, i))
		}
		return out
	}
	const collated = `CREATE TABLE game_choices (game_id TEXT %s, move_number, choice_type TEXT %s);
		INSERT INTO game_choices VALUES ('game-0002', 1, 'B'), ('game-0002', 1, 'a')`
	for name, c := range map[string]struct {
		statements []string // on a pack of the games 2 and 3
		want       string
	}{
		"other move":      {[]string{"UPDATE game_moves SET move_json = '{}' WHERE game_id = 'game-0002' AND move_number = 1"}, `"game-0002": `},
		"other class":     {[]string{"UPDATE game_moves SET move_json = CAST(move_json AS BLOB) WHERE game_id = 'game-0002'"}, "other contents"},
		"new child":       {[]string{fmt.Sprintf(collated, "", "")}, "other contents"},
		"no moves":        {[]string{"DELETE FROM game_moves WHERE game_id = 'game-0003'"}, `"game-0003": no moves`},
		"winner":          {[]string{"UPDATE games SET winner = 3 WHERE game_id = 'game-0003'"}, "winner 3 of 2"},
		"board":           {[]string{"UPDATE games SET board_type = 'Go!' WHERE game_id = 'game-0003'"}, "Go!"},
		"completed":       {[]string{"UPDATE games SET completed_at = 'soon' WHERE game_id = 'game-0003'"}, "time of completion"},
		"NUL in an id":    {[]string{"UPDATE games SET game_id = 'a' || char(0) WHERE game_id = 'game-0003'"}, "unusable game id"},
		"long id":         {[]string{"UPDATE games SET game_id = hex(zeroblob(101)) WHERE game_id = 'game-0003'"}, "unusable game id"},
		"key twice":       {[]string{"CREATE TABLE game_choices (game_id, move_number, choice_type)", "INSERT INTO game_choices VALUES ('game-0003', 1, 'x'), ('game-0003', 1.0, 'x')"}, "UNIQUE"},
		"order":           {[]string{fmt.Sprintf(collated, "", "COLLATE NOCASE"), "UPDATE game_choices SET game_id = 'game-0003'"}, `"game-0003" does not come through unchanged`},
		"none finished":   {[]string{"UPDATE games SET game_status = 'active'"}, "no finished game"},
		"newer":           {[]string{"UPDATE schema_metadata SET value = '19'"}, "newer schema"},
		"view":            {[]string{"CREATE VIEW v AS SELECT 1"}, "view"},
		"many columns":    {columns("b"), "80 columns that are not known"},
		"computed column": {[]string{"ALTER TABLE games ADD COLUMN z AS (1)"}, "computed"},
		"an index of other keys": {[]string{"CREATE TABLE game_choices (game_id, move_number, choice_type)", "INSERT INTO game_choices VALUES ('game-0003', 1, 'x')",
			"CREATE INDEX i ON game_choices (choice_type)", "PRAGMA writable_schema = 1",
			"UPDATE sqlite_schema SET sql = 'CREATE INDEX i ON game_choices (game_id)' WHERE name = 'i'"}, "1 rows in game_choices, and 0 can be read"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			var more []string
			if name == "many columns" {
				more = columns("a")
			}
			good := packOf(t, filepath.Join(dir, "good"), []int{1, 2}, more...)
			bad := packOf(t, filepath.Join(dir, "bad"), []int{2, 3}, c.statements...)
			refused(t, []string{good, bad, packOf(t, filepath.Join(dir, "next"), []int{4})}, bad, c.want)
			neverHeld(t, good, bad)
		})
	}
	two := []string{"'5'", "5", "x'35'"}
	for name, statements := range map[string][]string{
		"one id in two classes":   {oddTables("", ""), oddGame(two[0], ended), oddGame(two[1], ended)},
		"text and blob":           {oddTables("", ""), oddGame(two[0], ended), oddGame(two[2], ended)},
		"the other is unfinished": {oddTables("", ""), oddGame(two[0], "NULL"), oddGame(two[1], ended)},
		"real and text":           {oddTables("", ""), oddGame("'5.0'", "NULL"), oddGame("5.0", ended)},
		"child of another class":  {oddTables("", ""), oddGame(two[0], ended), "INSERT INTO game_choices VALUES (5, 2, 'line', 1)"},
		"child in no class known": {oddTables("", ""), oddGame("'5.0'", ended), "INSERT INTO game_choices VALUES (5.0, 2, 'line', 1)"},
		"children by any case":    {oddTables("", "COLLATE NOCASE"), oddGame("'g'", ended), oddGame("'G'", "NULL"), "UPDATE game_choices SET move_number = 2 WHERE rowid = 2; UPDATE game_moves SET move_number = 2 WHERE rowid = 2"},
		"games by any case":       {oddTables("COLLATE NOCASE", ""), oddGame("'g'", ended), oddGame("'G'", ended)},
		"two rows":                {oddTables("", ""), oddGame("'g'", ended), oddGame("'g'", ended)},
		"real":                    {oddTables("", ""), oddGame("5.0", ended)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bad := oddPack(t, filepath.Join(t.TempDir(), "bad"), statements...)
			refused(t, []string{packOf(t, filepath.Join(t.TempDir(), "good"), []int{1}), bad}, bad, "")
			neverHeld(t, bad)
		})
	}
}

// neverHeld wants the last pack not to be held by a database that took of all of them what Merge takes.
func neverHeld(t *testing.T, packs ...string) {
	t.Helper()
	merged := filepath.Join(t.TempDir(), "merged")
	for _, p := range packs {
		if _, err := mergeOne(t.Context(), merged, p, ""); err != nil {
			t.Log("merge:", err)
		}
	}
	if err := Holds(t.Context(), merged, packs[len(packs)-1]); err == nil {
		t.Error("it is held by what is left of it")
	}
}

// refused wants a join to blame the one pack.
func refused(t *testing.T, packs []string, bad, reason string) {
	t.Helper()
	dst := filepath.Join(t.TempDir(), "joined.db")
	if err := os.WriteFile(dst, []byte("older"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Join(t.Context(), dst, packs)
	var u *UnfitError
	if !errors.As(err, &u) || u.Pack != bad || !strings.Contains(u.Reason, reason) {
		t.Errorf("want %s of %s: %v", reason, bad, err)
	}
	if b, err := os.ReadFile(dst); err != nil || string(b) != "older" {
		t.Errorf("it was written all the same: %v", err)
	}
	onlyFile(t, dst)
}

func TestJoinRefusesDamagedPacks(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(path string, b []byte) error{
		"empty":       func(path string, _ []byte) error { return os.WriteFile(path, nil, 0o600) },
		"no database": func(path string, b []byte) error { return os.WriteFile(path, bytes.Repeat([]byte("x"), len(b)), 0o600) },
		"cut":         func(path string, b []byte) error { return os.WriteFile(path, b[:len(b)-4096], 0o600) },
		"a page": func(path string, b []byte) error {
			copy(b[bytes.Index(b, []byte(`{"column"`))/4096*4096:], bytes.Repeat([]byte{0xff}, 64))
			return os.WriteFile(path, b, 0o600)
		},
		"a journal": func(path string, _ []byte) error { return os.WriteFile(path+"-journal", []byte("rest"), 0o600) },
		"a log":     func(path string, _ []byte) error { return os.WriteFile(path+"-wal", []byte("rest"), 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			good, bad := packOf(t, filepath.Join(dir, "good"), []int{1}), packOf(t, filepath.Join(dir, "bad"), []int{1, 2})
			dst, _ := joinPacks(t, good, bad)
			b, err := os.ReadFile(bad)
			if err := errors.Join(err, spoil(bad, b)); err != nil {
				t.Fatal(err)
			}
			refused(t, []string{good, bad}, bad, "")
			if err := Holds(t.Context(), dst, bad); !Damaged(err) || errors.Is(err, ErrNotHeld) {
				t.Errorf("holds: %v", err)
			}
			if err := Holds(t.Context(), bad, good); err == nil {
				t.Error("a damaged file holds a pack")
			}
		})
	}
}

// No pack is blamed for what is this machine's.
func TestJoinBlamesNoPackForTheMachine(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	pack := packOf(t, filepath.Join(dir, "a"), []int{1})
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for name, c := range map[string]struct {
		ctx   context.Context
		dst   string
		packs []string
		want  error
	}{
		"context":    {cancelled, "joined", []string{pack}, context.Canceled},
		"gone":       {t.Context(), "joined", []string{pack, filepath.Join(dir, "b")}, os.ErrNotExist},
		"no folder":  {t.Context(), filepath.Join("none", "joined"), []string{pack}, os.ErrNotExist},
		"no pack":    {t.Context(), "joined", nil, ErrNoGames},
		"in the way": {t.Context(), "folder", []string{pack}, nil},
	} {
		into := t.TempDir()
		if err := os.MkdirAll(filepath.Join(into, "folder", "full"), 0o700); err != nil {
			t.Fatal(err)
		}
		_, err := Join(c.ctx, filepath.Join(into, c.dst), c.packs)
		var u *UnfitError
		if err == nil || errors.As(err, &u) || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if left, _ := os.ReadDir(into); len(left) != 1 {
			t.Errorf("%s: left %v", name, left)
		}
	}
	dst, _ := joinPacks(t, pack)
	if err := Holds(cancelled, dst, pack); !errors.Is(err, context.Canceled) || errors.Is(err, ErrNotHeld) {
		t.Error(err)
	}
	if err := Holds(t.Context(), filepath.Join(dir, "none"), pack); !errors.Is(err, os.ErrNotExist) || errors.Is(err, ErrNotHeld) {
		t.Error(err)
	}
}
