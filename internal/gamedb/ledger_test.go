package gamedb

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ringagent/ringagent/internal/id"
)

// In whatever order packs arrive, and however often, what is left of them after their repeats is the number of distinct games.
func TestLedgerCountsEveryGameOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	src := filepath.Join(dir, "src.db")
	writeGames(t, src, sampleGame(1), sampleGame(2), sampleGame(3), sampleGame(4))
	var entries []Entry
	paths, games := map[id.Digest]string{}, map[id.Digest]int{}
	for i, ids := range [][]int{{1, 2}, {2, 3}, {2}, {1, 2, 3, 4}} {
		var names []string
		for _, n := range ids {
			names = append(names, sampleGame(n).ID)
		}
		pack := filepath.Join(dir, fmt.Sprintf("pack-%d.db", i))
		if _, err := Pack(t.Context(), src, pack, names); err != nil {
			t.Fatal(err)
		}
		e := Entry{Seq: uint64(7 + i/2), Digest: id.DigestOf([]byte{byte(i)})} // two were announced together, twice
		entries, paths[e.Digest], games[e.Digest] = append(entries, e), pack, len(ids)
	}
	sorted := slices.SortedFunc(slices.Values(entries), Entry.compare)
	for i, order := range permutations(4) {
		path := filepath.Join(dir, fmt.Sprintf("%d.ledger", i))
		told := map[id.Digest]Entered{}
		for n, k := range slices.Concat(order, order) {
			e := entries[k]
			changed, err := Enter(t.Context(), path, paths[e.Digest], e)
			if err != nil {
				t.Fatal(err)
			}
			maps.Copy(told, changed)
			got, err := Repeats(t.Context(), path)
			if diff := cmp.Diff(got, told); err != nil || diff != "" {
				t.Fatal(err, diff)
			}
			left := 0
			for d, x := range got {
				left += games[d] - int(x.Repeats)
			}
			want := distinct(t, paths, entries, order[:min(n+1, 4)])
			if left != want || got[e.Digest].Seq != e.Seq || got[sorted[0].Digest].Repeats != 0 {
				t.Fatalf("order %v, after %d: %d games, want %d: %v", order, n+1, left, want, got)
			}
		}
	}
}

func distinct(t *testing.T, paths map[id.Digest]string, entries []Entry, some []int) int {
	t.Helper()
	all := map[string]bool{}
	for _, k := range some {
		ids, err := Finished(t.Context(), paths[entries[k].Digest])
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range ids {
			all[i] = true
		}
	}
	return len(all)
}

func permutations(n int) [][]int {
	if n == 0 {
		return [][]int{nil}
	}
	var out [][]int
	for _, p := range permutations(n - 1) {
		for i := range n {
			out = append(out, slices.Insert(slices.Clone(p), i, n-1))
		}
	}
	return out
}

// A damaged ledger is told from a damaged pack, and can be made anew.
func TestDamagedLedger(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	pack, path := filepath.Join(dir, "pack.db"), filepath.Join(dir, "c.ledger")
	src := filepath.Join(dir, "src.db")
	writeGames(t, src, sampleGame(1))
	if _, err := Pack(t.Context(), src, pack, []string{sampleGame(1).ID}); err != nil {
		t.Fatal(err)
	}
	bad := filepath.Join(dir, "bad.db")
	for _, p := range []string{bad, path} {
		if err := os.WriteFile(p, slices.Repeat([]byte("no database "), 1000), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	e := Entry{Seq: 1, Digest: id.DigestOf([]byte("e"))}
	if _, err := Enter(t.Context(), path, pack, e); !errors.Is(err, ErrLedger) {
		t.Errorf("enter: %v", err)
	}
	if _, err := Repeats(t.Context(), path); !errors.Is(err, ErrLedger) {
		t.Errorf("repeats: %v", err)
	}
	if err := Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := Enter(t.Context(), path, bad, e); !Damaged(err) || errors.Is(err, ErrLedger) {
		t.Errorf("enter a damaged pack: %v", err)
	}
	if _, err := Enter(t.Context(), path, pack, e); err != nil {
		t.Error(err)
	}
}

// A pack counts its games of a known config only, and no others may be subtracted from it.
func TestLedgerEntersWhatCounts(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	told := map[id.Digest]Entered{}
	for i, n := range []int{2, 3} {
		src := filepath.Join(dir, fmt.Sprintf("%d.db", i))
		writeGames(t, src, sampleGame(1), sampleGame(n))
		execSQL(t, src, "UPDATE games SET board_type = 'no board at all' WHERE game_id = 'game-0001'")
		changed, err := Enter(t.Context(), filepath.Join(dir, "ledger"), src, Entry{Seq: uint64(i + 1), Digest: id.DigestOf([]byte{byte(i)})})
		if err != nil {
			t.Fatal(err)
		}
		maps.Copy(told, changed)
	}
	for d, e := range told {
		if e.Repeats != 0 {
			t.Errorf("%s: %d repeats, and the only common game does not count", d.Short(), e.Repeats)
		}
	}
}
