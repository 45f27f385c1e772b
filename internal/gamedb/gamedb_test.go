package gamedb

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"modernc.org/sqlite"
)

func sampleGame(n int) Game {
	at := time.Date(2026, 11, 23, 10, 0, n, 123456000, time.UTC)
	g := Game{ID: fmt.Sprintf("game-%04d", n), Board: "connect4", Players: 2, Seed: int64(n), CreatedAt: at,
		CompletedAt: at.Add(time.Second), Winner: n % 3, Termination: "line", Source: "n1", EngineMode: "puct",
		Metadata: map[string]any{"generation": 3.0}, Initial: json.RawMessage(`{"cells":""}`)}
	for i := range 5 + n%4 {
		g.Moves = append(g.Moves, Move{Number: i, Player: 1 + i%2, Type: "drop", JSON: json.RawMessage(fmt.Sprintf(`{"column":%d}`, i%7)),
			Probs: json.RawMessage(`[0.5,0.5]`), Eval: 0.25})
	}
	g.Moves[0].Eval = math.NaN()
	g.Moves[0].Probs = nil
	return g
}

func writeGames(t *testing.T, path string, games ...Game) {
	t.Helper()
	w, err := Create(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range games {
		if err := w.Add(t.Context(), g); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

func readGames(t *testing.T, path string) []Game {
	t.Helper()
	var out []Game
	if err := Read(t.Context(), path, func(g Game) error { out = append(out, g); return nil }); err != nil {
		t.Fatal(err)
	}
	return out
}

// execSQL runs statements as a stranger would, past every rule of the package.
func execSQL(t *testing.T, path string, statements ...string) {
	t.Helper()
	// As the package does before its first file, which this may be.
	if _, err := sqlite.OFDLocking(true); err != nil && !errors.Is(err, sqlite.ErrOFDLockingUnavailable) {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1) // so that pragmas and transactions hold from one statement to the next
	for _, s := range statements {
		if _, err := db.Exec(s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

func TestGamesSurviveTheWholeWay(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	src, pack, merged := filepath.Join(dir, "job ?#%.db"), filepath.Join(dir, "pack.db"), filepath.Join(dir, "merged.db")
	want := []Game{sampleGame(0), sampleGame(1), sampleGame(2)}
	writeGames(t, src, want...)

	ids, err := Finished(t.Context(), src)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"game-0000", "game-0001", "game-0002"}, ids); diff != "" {
		t.Fatal(diff)
	}
	info, err := Pack(t.Context(), src, pack, ids)
	if err != nil {
		t.Fatal(err)
	}
	if info.Games != 3 || info.Configs["connect4_2p"] != 3 || !info.Last.Equal(want[2].CompletedAt) {
		t.Fatalf("info: %+v", info)
	}
	if st, err := os.Stat(pack); err != nil || st.Size() != info.Bytes {
		t.Fatalf("pack has %v, info says %d (%v)", st, info.Bytes, err)
	}
	if err := Verify(t.Context(), pack); err != nil {
		t.Fatal(err)
	}
	for round, wantResult := range []MergeResult{{Added: 3}, {Present: 3}} {
		res, err := mergeOne(t.Context(), merged, pack, "")
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(wantResult, res); diff != "" {
			t.Fatalf("merge %d: %s", round, diff)
		}
	}
	for _, path := range []string{src, pack, merged} {
		if diff := cmp.Diff(want, readGames(t, path), cmpopts.EquateNaNs()); diff != "" {
			t.Errorf("%s: %s", filepath.Base(path), diff)
		}
	}
	counts, err := Count(t.Context(), merged)
	if err != nil {
		t.Fatal(err)
	}
	if c := counts.Configs["connect4_2p"]; counts.Games != 3 || c.Games != 3 || !c.Last.Equal(want[2].CompletedAt) {
		t.Errorf("counts: %+v", counts)
	}
}

func TestSameGamesMakeTheSameBytes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a.db"), filepath.Join(dir, "b.db")
	writeGames(t, a, sampleGame(1), sampleGame(2), sampleGame(3))
	writeGames(t, b, sampleGame(7), sampleGame(3), sampleGame(2), sampleGame(1))
	ids := []string{"game-0003", "game-0001", "game-0001", "game-0002"}
	var packs [][]byte
	for i, src := range []string{a, b} {
		dst := filepath.Join(dir, fmt.Sprintf("pack%d", i))
		if _, err := Pack(t.Context(), src, dst, ids); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(dst)
		if err != nil {
			t.Fatal(err)
		}
		packs = append(packs, data)
	}
	if !bytes.Equal(packs[0], packs[1]) {
		t.Error("the packs differ")
	}
}

func TestPackLeavesOutWhatIsNoFinishedGame(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	src, dst := filepath.Join(dir, "a.db"), filepath.Join(dir, "pack.db")
	writeGames(t, src, sampleGame(1), sampleGame(2), sampleGame(3), sampleGame(4))
	execSQL(t, src, "UPDATE games SET game_status = 'active' WHERE game_id = 'game-0001'",
		"DELETE FROM game_moves WHERE game_id = 'game-0002'", "UPDATE games SET winner = 9 WHERE game_id = 'game-0003'")
	info, err := Pack(t.Context(), src, dst, []string{"game-0001", "game-0002", "game-0003", "game-0004", "absent"})
	if err != nil {
		t.Fatal(err)
	}
	want := []Rejection{{ID: "absent", Reason: "missing or not finished"}, {ID: "game-0001", Reason: "missing or not finished"},
		{ID: "game-0002", Reason: "no moves"}, {ID: "game-0003", Reason: "winner 9 of 2 players"}}
	if diff := cmp.Diff(want, info.Rejected); diff != "" || info.Games != 1 {
		t.Error(info.Games, diff)
	}
	if _, err := Pack(t.Context(), src, filepath.Join(dir, "none.db"), []string{"absent"}); !errors.Is(err, ErrNoGames) {
		t.Errorf("nothing to pack: %v", err)
	}
	left, _ := filepath.Glob(filepath.Join(dir, ".pack-*"))
	if _, err := os.Stat(filepath.Join(dir, "none.db")); !errors.Is(err, os.ErrNotExist) || len(left) > 0 {
		t.Errorf("left behind: %v %v", err, left)
	}
}

func TestMergeReportsTheSameIDWithOtherContents(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]string{
		"winner":      "UPDATE games SET winner = 2 WHERE game_id = 'game-0001'",
		"a move":      "UPDATE game_moves SET move_json = '{\"column\":6}' WHERE game_id = 'game-0001' AND move_number = 3",
		"a move less": "DELETE FROM game_moves WHERE game_id = 'game-0001' AND move_number = 4",
		"a type":      "UPDATE games SET rng_seed = '1' WHERE game_id = 'game-0001'",
		"new column":  "ALTER TABLE games ADD COLUMN extra DEFAULT 5",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			src, pack, merged := filepath.Join(dir, "a.db"), filepath.Join(dir, "pack.db"), filepath.Join(dir, "merged.db")
			writeGames(t, merged, sampleGame(1))
			writeGames(t, src, sampleGame(1), sampleGame(2))
			execSQL(t, src, change)
			if _, err := Pack(t.Context(), src, pack, []string{"game-0001", "game-0002"}); err != nil {
				t.Fatal(err)
			}
			res, err := mergeOne(t.Context(), merged, pack, "")
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(MergeResult{Added: 1, Conflicts: []string{"game-0001"}}, res); diff != "" {
				t.Fatal(diff)
			}
			if diff := cmp.Diff(sampleGame(1), readGames(t, merged)[0], cmpopts.EquateNaNs()); diff != "" {
				t.Error("the game that was there changed:", diff)
			}
		})
	}
}

func TestAnnotationsAreNoConflict(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	src, pack, merged := filepath.Join(dir, "a.db"), filepath.Join(dir, "pack.db"), filepath.Join(dir, "merged.db")
	writeGames(t, src, sampleGame(1))
	writeGames(t, merged, sampleGame(1))
	execSQL(t, src, "UPDATE games SET quality_score = 0.5, parity_status = 'passed'")
	if _, err := Pack(t.Context(), src, pack, []string{"game-0001"}); err != nil {
		t.Fatal(err)
	}
	res, err := mergeOne(t.Context(), merged, pack, "")
	if diff := cmp.Diff(MergeResult{Present: 1}, res); diff != "" || err != nil {
		t.Error(diff, err)
	}
}

func TestOtherVariantsOfTheSchema(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	old, pack, merged := filepath.Join(dir, "old.db"), filepath.Join(dir, "pack.db"), filepath.Join(dir, "merged.db")
	execSQL(t, old,
		`CREATE TABLE games (game_id TEXT PRIMARY KEY, board_type TEXT, num_players INTEGER, completed_at TIMESTAMP, Flavour BOOLEAN)`,
		`CREATE TABLE game_moves (game_id TEXT, move_number INTEGER, player INTEGER, from_x INTEGER, to_x REAL)`,
		`CREATE TABLE game_choices (game_id TEXT, move_number INTEGER, choice_type TEXT, player INTEGER)`,
		`INSERT INTO games VALUES ('g', 'hex8', 2, '2026-01-02 03:04:05.5', 1), ('open', 'hex8', 2, NULL, 0)`,
		`INSERT INTO game_moves VALUES ('g', 1, 1, 7, 1), ('open', 1, 1, 7, 1)`,
		`INSERT INTO game_choices VALUES ('g', 1, 'line', 2)`)
	info, err := Pack(t.Context(), old, pack, []string{"g", "open"})
	if err != nil || info.Games != 1 || len(info.Rejected) != 1 {
		t.Fatalf("%+v %v", info, err)
	}
	writeGames(t, merged, sampleGame(1))
	for _, want := range []MergeResult{{Added: 1}, {Present: 1}} {
		if res, err := mergeOne(t.Context(), merged, pack, ""); err != nil || !cmp.Equal(want, res) {
			t.Fatalf("%+v %v", res, err)
		}
	}
	// Also straight from the old file, whose declared types differ from ours.
	if res, err := mergeOne(t.Context(), merged, old, ""); err != nil || !cmp.Equal(MergeResult{Present: 1}, res) {
		t.Fatalf("%+v %v", res, err)
	}
	db, err := sql.Open("sqlite", merged)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var kept string
	err = db.QueryRow(`SELECT typeof(from_x) || from_x || typeof(to_x) || flavour || completed_at || choice_type FROM games
		JOIN game_moves USING (game_id) JOIN game_choices USING (game_id) WHERE game_id = 'g'`).Scan(&kept)
	if err != nil || kept != "integer7real12026-01-02 03:04:05.5line" {
		t.Errorf("kept %q %v", kept, err)
	}
	games := readGames(t, merged)
	if len(games) != 2 || games[0].ID != "g" || games[0].CompletedAt.Nanosecond() != 5e8 {
		t.Errorf("%+v", games)
	}
}

func TestNewerSchemaIsOpaque(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a.db")
	writeGames(t, path, sampleGame(1))
	execSQL(t, path, "UPDATE schema_metadata SET value = '19' WHERE key = 'schema_version'")
	calls := map[string]func() error{
		"Create":   func() error { _, err := Create(t.Context(), path); return err },
		"Finished": func() error { _, err := Finished(t.Context(), path); return err },
		"Read":     func() error { return Read(t.Context(), path, func(Game) error { return nil }) },
		"Count":    func() error { _, err := Count(t.Context(), path); return err },
		"Pack":     func() error { _, err := Pack(t.Context(), path, path+".pack", []string{"game-0001"}); return err },
		"Merge":    func() error { _, err := mergeOne(t.Context(), path+".merged", path, ""); return err },
		"into":     func() error { return mergeInto(t.Context(), t.TempDir(), path) },
		"Verify":   func() error { return Verify(t.Context(), path) },
	}
	for name, call := range calls {
		if err := call(); !errors.Is(err, ErrNewerSchema) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// mergeInto merges a good file into the given one.
func mergeInto(ctx context.Context, dir, dst string) error {
	good := filepath.Join(dir, "good.db")
	w, err := Create(ctx, good)
	if err != nil {
		return err
	}
	if err := errors.Join(w.Add(ctx, sampleGame(1)), w.Close()); err != nil {
		return err
	}
	_, err = mergeOne(ctx, dst, good, "")
	return err
}

func TestAddRefusesWhatReadersCouldNotUse(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a.db")
	w, err := Create(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*Game){
		"no id":          func(g *Game) { g.ID = "" },
		"no moves":       func(g *Game) { g.Moves = nil },
		"board":          func(g *Game) { g.Board = "Connect Four" },
		"winner":         func(g *Game) { g.Winner = 3 },
		"never finished": func(g *Game) { g.CompletedAt = time.Time{} },
		"order":          func(g *Game) { g.Moves[1].Number = 0 },
		"player":         func(g *Game) { g.Moves[1].Player = 0 },
		"json":           func(g *Game) { g.Moves[1].JSON = json.RawMessage("{") },
		"metadata":       func(g *Game) { g.Metadata = map[string]any{"x": math.NaN()} },
	} {
		g := sampleGame(1)
		spoil(&g)
		if err := w.Add(t.Context(), g); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if err := w.Add(t.Context(), sampleGame(1)); err != nil {
		t.Fatal(err)
	}
	if err := w.Add(t.Context(), sampleGame(1)); err == nil {
		t.Error("the same game twice: accepted")
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if n := len(readGames(t, path)); n != 1 {
		t.Errorf("%d games", n)
	}
}

// An Add that fails in the middle leaves neither rows nor an open transaction.
func TestAddIsAllOrNothing(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a.db")
	w, err := Create(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	execSQL(t, path, `CREATE TRIGGER full BEFORE INSERT ON game_moves WHEN NEW.game_id = 'game-0001' AND NEW.move_number = 3
		BEGIN SELECT raise(ABORT, 'the disk is full'); END`)
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.Add(t.Context(), sampleGame(1)); err == nil {
		t.Error("no error")
	}
	if err := w.Add(cancelled, sampleGame(2)); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if err := w.Add(t.Context(), sampleGame(3)); err != nil {
		t.Error(err)
	}
	games := readGames(t, path)
	if len(games) != 1 || games[0].ID != "game-0003" {
		t.Errorf("%+v", games)
	}
}
