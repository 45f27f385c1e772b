package gamedb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// oneByOne loads games as if nothing had been expected.
func oneByOne(t *testing.T, s *source, ids []string) map[string]string {
	return loaded(t, s, ids, func(*loader) {})
}

func loaded(t *testing.T, s *source, ids []string, prepare func(*loader)) map[string]string {
	t.Helper()
	where, err := finishedCondition(s.tables[0])
	if err != nil {
		t.Fatal(err)
	}
	l, err := newLoader(t.Context(), s.tx, s.tables, where)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	prepare(l)
	out := map[string]string{}
	for _, gameID := range ids {
		r, err := l.load(t.Context(), gameID)
		out[gameID] = fmt.Sprintf("%v %v %v", r.done, err, rowsIn(r))
	}
	return out
}

func rowsIn(r record) (out []string) {
	for _, p := range r.parts {
		out = append(out, fmt.Sprintf("%s %q", p.name, p.rows))
	}
	return out
}

// Games that are read together are what they are when they are read one by one, whatever a file has as ids and however its columns
// compare them.
func TestReadTogetherAsOneByOne(t *testing.T) {
	t.Parallel()
	values := []string{"'a'", "'A'", "'a '", "'5'", "5", "x'35'", "5.0", "'05'", "'5.0'", "x'61'", "'b'", "'c'", "-7", "'-7'", "7", "x'ff'"}
	asked := []string{"a", "A", "a ", "5", "05", "5.0", "b", "c", "-7", "7", "\xff", "nobody"}
	columns := []string{"", "TEXT", "INTEGER", "REAL", "BLOB", "COLLATE NOCASE", "TEXT COLLATE RTRIM"}
	for seed := range uint64(24) {
		random := rand.New(rand.NewPCG(seed, 1))
		one := func(of []string) string { return of[random.IntN(len(of))] }
		var statements []string
		statements = append(statements, oddTables(one(columns), one(columns)))
		for range 1 + random.IntN(8) {
			statements = append(statements, oddGame(one(values), []string{"NULL", ended}[random.IntN(2)]))
		}
		if seed%4 == 0 { // more moves than are read together
			statements = append(statements, fmt.Sprintf("WITH RECURSIVE n(x) AS (SELECT 2 UNION ALL SELECT x + 1 FROM n LIMIT %d) "+
				"INSERT INTO game_moves SELECT 'a', x, 1, '{}' FROM n", aheadRows))
		}
		s, err := openSource(t.Context(), oddPack(t, filepath.Join(t.TempDir(), "odd.db"), statements...), finished)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		ids := slices.Clone(asked)
		random.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
		want := oneByOne(t, s, ids)
		for _, ahead := range []int{mostAhead, 5, 2, 1} {
			got := loaded(t, s, ids, func(l *loader) { l.expect(ids); l.ahead = ahead })
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("seed %d, %d together, %s: %.2000s", seed, ahead, statements[0], diff)
			}
		}
		some := slices.DeleteFunc(slices.Clone(ids), func(string) bool { return random.IntN(2) == 0 })
		got := loaded(t, s, some, func(l *loader) { l.expect(ids); l.ahead = 4 })
		for _, gameID := range some {
			if got[gameID] != want[gameID] {
				t.Errorf("seed %d, some left out: %.500s, want %.500s", seed, got[gameID], want[gameID])
			}
		}
	}
}

// loaderOf reads a file until the test ends.
func loaderOf(t *testing.T, path string) *loader {
	t.Helper()
	s, err := openSource(context.Background(), path, live) // the test's own context ends before its cleanups
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	l, err := newLoader(context.Background(), s.tx, s.tables, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

// Large games are not kept in memory by the dozen.
func TestLargeGamesAreReadOneByOne(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "large.db")
	var games []Game
	var ids []string
	for n := range 8 {
		g := bulky(n)
		for range 6 {
			more := slices.Clone(g.Moves)
			for i := range more {
				more[i].Number = len(g.Moves) + i
			}
			g.Moves = append(g.Moves, more...)
		}
		games, ids = append(games, g), append(ids, g.ID)
	}
	writeGames(t, path, games...)
	l := loaderOf(t, path)
	l.expect(ids)
	for i, gameID := range ids {
		r, err := l.load(t.Context(), gameID)
		if err != nil {
			t.Fatal(err)
		}
		if moves, _ := r.find("game_moves"); len(moves) != len(games[i].Moves) {
			t.Errorf("%s has %d moves, want %d", gameID, len(moves), len(games[i].Moves))
		}
		size := 0
		for _, kept := range l.ready {
			for _, p := range kept.parts {
				for _, row := range p.rows {
					for _, v := range row {
						size += len(text(v))
					}
				}
			}
		}
		if size > aheadBytes {
			t.Fatalf("%d bytes are kept", size)
		}
	}
	if l.ahead == mostAhead {
		t.Error("all were read together: the games are too small for this test")
	}
}

// A pack that cannot be taken in costs the next ones nothing.
func TestMergerGoesOnAfterABadPack(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var wide []string
	for i := range 120 { // more than a table may have, with ours
		wide = append(wide, fmt.Sprintf("ALTER TABLE games ADD COLUMN c%d DEFAULT 1", i))
	}
	one, next := packOf(t, filepath.Join(dir, "one"), []int{1}), packOf(t, filepath.Join(dir, "next"), []int{2, 3})
	twice := packOf(t, filepath.Join(dir, "twice"), []int{4, 5}, "CREATE TABLE game_choices (game_id, move_number, choice_type)",
		"INSERT INTO game_choices VALUES ('game-0004', 1, 'line'), ('game-0004', 1, 'line')")
	bad := packOf(t, filepath.Join(dir, "bad"), []int{6}, wide...)
	m, err := OpenMerger(t.Context(), filepath.Join(dir, "merged"))
	if err != nil {
		t.Fatal(err)
	}
	merge := func(pack string, want int) {
		t.Helper()
		if res, err := m.Merge(t.Context(), pack, "connect4_2p"); err != nil || res.Added != want {
			t.Errorf("%s: %+v %v, want %d", filepath.Base(pack), res, err, want)
		}
	}
	merge(one, 1)
	if res, err := m.Merge(t.Context(), bad, "connect4_2p"); !errors.Is(err, ErrUnsafe) || res.Added != 0 {
		t.Errorf("a pack with too many columns: %+v %v", res, err)
	}
	merge(twice, 1)
	merge(next, 2)
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, g := range readGames(t, filepath.Join(dir, "merged")) {
		got = append(got, g.ID)
	}
	if diff := cmp.Diff([]string{"game-0001", "game-0002", "game-0003", "game-0005"}, got); diff != "" {
		t.Error(diff)
	}
}

// Only what speaks of games is looked for among them one by one. After any other error the transaction may have ended, as it has on a
// full disk, and nothing more is read or written in it.
func TestLoadingEndsWithItsTransaction(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a.db")
	writeGames(t, path, sampleGame(1), sampleGame(2))
	l := loaderOf(t, path)
	l.expect([]string{"game-0001", "game-0002"})
	if err := l.many[1].Close(); err != nil { // an error that is neither the file's nor a game's
		t.Fatal(err)
	}
	if r, err := l.load(t.Context(), "game-0001"); err == nil || Damaged(err) {
		t.Errorf("%v, %v", r, err)
	}
}

// A column that has no value in a pack has none in the database either, whatever that declares for want of one.
func TestMergeLeavesNothingToDefaults(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	merged := filepath.Join(dir, "merged")
	execSQL(t, merged, "CREATE TABLE games (game_id TEXT PRIMARY KEY, board_type, num_players, game_status DEFAULT 'active', time_control_type DEFAULT 'none', completed_at)",
		"CREATE TABLE game_choices (game_id, move_number, choice_type, player DEFAULT 1)")
	pack := packOf(t, filepath.Join(dir, "pack"), []int{1}, "UPDATE games SET game_status = NULL",
		"CREATE TABLE game_choices (game_id, move_number, choice_type, player, ai_reasoning)", "INSERT INTO game_choices VALUES ('game-0001', 1, 'line', NULL, NULL)")
	for _, want := range []MergeResult{{Added: 1}, {Present: 1}} {
		res, err := mergeOne(t.Context(), merged, pack, "")
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, res); diff != "" {
			t.Error(diff)
		}
	}
	if err := Holds(t.Context(), merged, pack); err != nil {
		t.Error(err)
	}
}

// What else is in a file changes neither the bytes of a pack nor what is said of games that are not there.
func TestPackKnowsOnlyItsGames(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var packs [][]byte
	for i, more := range [][]string{nil, {"UPDATE games SET mine = 7 WHERE game_id = 'game-0003'"}} {
		src, pack := filepath.Join(dir, fmt.Sprint("src", i)), filepath.Join(dir, fmt.Sprint("pack", i))
		writeGames(t, src, sampleGame(1), sampleGame(2), sampleGame(3))
		execSQL(t, src, append([]string{"ALTER TABLE games ADD COLUMN own", "ALTER TABLE games ADD COLUMN mine"}, more...)...)
		if _, err := Pack(t.Context(), src, pack, []string{"game-0001", "game-0002"}); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(pack)
		if err != nil {
			t.Fatal(err)
		}
		packs = append(packs, b)
	}
	if !bytes.Equal(packs[0], packs[1]) {
		t.Error("the same games make other bytes")
	}
	empty := filepath.Join(dir, "empty")
	writeGames(t, empty)
	if _, err := Pack(t.Context(), empty, filepath.Join(dir, "none"), []string{"game-0001"}); !errors.Is(err, ErrNoGames) {
		t.Error(err)
	}
}

// An id that is there twice is the same game the second time, wherever it stands in the list.
func TestAnIDTwiceIsOneGame(t *testing.T) {
	t.Parallel()
	for _, between := range []int{0, 3, mostAhead - 2, mostAhead - 1, mostAhead} {
		dir := t.TempDir()
		statements := []string{oddTables("", ""), strings.ReplaceAll(oddGame("'5'", ended), "10:00", "09:00")}
		for n := range between {
			statements = append(statements, oddGame(fmt.Sprintf("'g%d'", n), ended))
		}
		statements = append(statements, "INSERT INTO games VALUES (5, 'connect4', 2, '2026-11-23T11:00:00Z', 1)")
		odd := oddPack(t, filepath.Join(dir, "odd"), statements...)
		res, err := mergeOne(t.Context(), filepath.Join(dir, "merged"), odd, "")
		if err != nil || res.Added != between+1 || res.Present != 1 || len(res.Rejected) != 0 {
			t.Errorf("%d between: %+v, %v", between, res, err)
		}
	}
}

// A schema that names a table twice is refused.
func TestATableTwiceIsRefused(t *testing.T) {
	t.Parallel()
	pack := packOf(t, filepath.Join(t.TempDir(), "pack"), []int{1}, "PRAGMA writable_schema = 1",
		"INSERT INTO sqlite_schema SELECT type, 'Games', 'Games', rootpage, replace(sql, 'CREATE TABLE games', 'CREATE TABLE IF NOT EXISTS Games') FROM sqlite_schema WHERE name = 'games' AND type = 'table'")
	if err := Verify(t.Context(), pack); !errors.Is(err, ErrUnsafe) {
		t.Error(err)
	}
	if _, err := mergeOne(t.Context(), filepath.Join(t.TempDir(), "merged"), pack, ""); !errors.Is(err, ErrUnsafe) {
		t.Error(err)
	}
}
