package gamedb

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
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
	for seed := range uint64(40) {
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
			got := loaded(t, s, ids, func(l *loader) { l.ahead = ahead; l.expect(ids) })
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("seed %d, %d together, %s: %.2000s", seed, ahead, statements[0], diff)
			}
		}
		some := slices.DeleteFunc(slices.Clone(ids), func(string) bool { return random.IntN(2) == 0 })
		got := loaded(t, s, some, func(l *loader) { l.ahead = 4; l.expect(ids) })
		for _, gameID := range some {
			if got[gameID] != want[gameID] {
				t.Errorf("seed %d, some left out: %.500s, want %.500s", seed, got[gameID], want[gameID])
			}
		}
	}
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
	s, err := openSource(t.Context(), path, live)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	l, err := newLoader(t.Context(), s.tx, s.tables, "")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
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
