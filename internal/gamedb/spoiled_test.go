package gamedb

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// spoil overwrites the page of the file at path in which the mark lies.
func spoil(t *testing.T, path, mark string) {
	t.Helper()
	execSQL(t, path, "PRAGMA wal_checkpoint(TRUNCATE)", "PRAGMA journal_mode = DELETE")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(b, []byte(mark))
	if at < 0 {
		t.Fatalf("%q is not in the file", mark)
	}
	page := at / 4096 * 4096
	copy(b[page:], bytes.Repeat([]byte{0xff}, 64))
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// bulky is a game that fills pages of its own.
func bulky(n int) Game {
	g := sampleGame(n)
	for i := range g.Moves {
		g.Moves[i].JSON = json.RawMessage(fmt.Sprintf(`{"of":"%s","fill":"%s"}`, g.ID, strings.Repeat("x", 3000)))
	}
	return g
}

// A damaged page takes the games that lie in it, and no others; they are not told to be unusable, since somebody may yet
// save them.
func TestDamagedPageCostsOnlyItsGames(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	src, dst := filepath.Join(dir, "a.db"), filepath.Join(dir, "pack.db")
	var ids []string
	var games []Game
	for n := range 8 {
		games = append(games, bulky(n))
		ids = append(ids, games[n].ID)
	}
	writeGames(t, src, games...)
	spoil(t, src, `"of":"game-0005"`)
	if found, err := Finished(t.Context(), src); err != nil || len(found) != len(ids) {
		t.Fatalf("finished: %v %v; the damage was to be in the moves", found, err)
	}
	info, err := Pack(t.Context(), src, dst, ids)
	if err != nil {
		t.Fatal(err)
	}
	if len(info.Rejected) != 0 || len(info.Damaged) == 0 || len(info.Damaged) > 3 || info.Games != len(ids)-len(info.Damaged) {
		t.Errorf("%+v", info)
	}
	if err := Verify(t.Context(), dst); err != nil {
		t.Error("the pack itself:", err)
	}
	if got := readGames(t, dst); len(got) != info.Games {
		t.Errorf("%d games in the pack, want %d", len(got), info.Games)
	}
}

// One game that is too large, or whose rows fit no table of ours, is refused alone, whole, and for a reason; the others are
// packed and merged.
func TestOneImpossibleGameIsRefusedAlone(t *testing.T) {
	t.Parallel()
	for name, statements := range map[string][]string{
		"too many rows": {`CREATE TABLE game_choices (game_id, move_number, choice_type)`,
			`WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT 100001)
				INSERT INTO game_choices SELECT 'game-0002', x, 'line' FROM n`},
		"one key twice": {`CREATE TABLE game_choices (game_id, move_number, choice_type)`,
			`INSERT INTO game_choices VALUES ('game-0002', 1, 'line'), ('game-0002', 1, 'line')`},
		"key is absent": {`CREATE TABLE game_choices (game_id, move_number, choice_type)`,
			`INSERT INTO game_choices VALUES ('game-0002', 1, NULL)`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			src, pack, merged := filepath.Join(dir, "a.db"), filepath.Join(dir, "pack.db"), filepath.Join(dir, "merged.db")
			writeGames(t, src, sampleGame(1), sampleGame(2), sampleGame(3))
			execSQL(t, src, append(statements, "PRAGMA wal_checkpoint(TRUNCATE)", "PRAGMA journal_mode = DELETE")...)
			want := []Game{sampleGame(1), sampleGame(3)}
			same := func(path string) {
				t.Helper()
				if diff := cmp.Diff(want, readGames(t, path), cmpopts.EquateNaNs()); diff != "" {
					t.Error(diff)
				}
			}
			info, err := Pack(t.Context(), src, pack, []string{"game-0001", "game-0002", "game-0003"})
			if err != nil || info.Games != 2 || len(info.Damaged) != 0 || len(info.Rejected) != 1 || info.Rejected[0].ID != "game-0002" {
				t.Fatalf("pack: %+v %v", info, err)
			}
			same(pack)
			res, err := mergeOne(t.Context(), merged, src, "")
			if err != nil || res.Added != 2 || len(res.Rejected) != 1 || res.Rejected[0].ID != "game-0002" {
				t.Fatalf("merge: %+v %v", res, err)
			}
			same(merged)
		})
	}
}
