package gamedb

import (
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// A pool of several files holds what was asked for of each, each game once, and says which could not be taken and why.
func TestPoolOfSeveralFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a, b, twin := filepath.Join(dir, "a.db"), filepath.Join(dir, "b.db"), filepath.Join(dir, "twin.db")
	writeGames(t, a, sampleGame(1), sampleGame(2), sampleGame(3))
	writeGames(t, b, sampleGame(2), sampleGame(4))
	other := sampleGame(5)
	other.ID = sampleGame(1).ID
	writeGames(t, twin, other)
	path := filepath.Join(dir, "pool.db")
	pool, err := OpenPool(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		src  string
		ids  []string
		want CollectInfo
	}{
		{a, []string{"game-0001", "game-0002", "none"}, CollectInfo{Rejected: []Rejection{{ID: "none", Reason: "missing or not finished"}}}},
		{b, []string{"game-0002", "game-0004"}, CollectInfo{}},
		{twin, []string{"game-0001"}, CollectInfo{Conflicts: []string{"game-0001"}}},
	} {
		got, err := pool.Collect(t.Context(), c.src, c.ids)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: %s", filepath.Base(c.src), diff)
		}
	}
	if _, err := pool.Collect(t.Context(), filepath.Join(dir, "missing.db"), []string{"x"}); err == nil {
		t.Error("a missing file was collected")
	}
	if err := pool.Close(); err != nil {
		t.Fatal(err)
	}
	want := filepath.Join(dir, "want.db")
	writeGames(t, want, sampleGame(1), sampleGame(2), sampleGame(4))
	if diff := cmp.Diff(readGames(t, want), readGames(t, path), cmpopts.EquateNaNs()); diff != "" {
		t.Error(diff)
	}
}
