package gamedb

import (
	"errors"
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

// A pool takes no more columns that nobody knows than a pack may have, and those of games that it does not take leave no trace.
func TestPoolIsNotTooWide(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	one, two, few := widePack(t, dir, 1, 40), widePack(t, dir, 2, 40), widePack(t, dir, 3, maxStrange-40)
	path := filepath.Join(dir, "pool.db")
	pool, err := OpenPool(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range []struct {
		src, game string
		want      error
	}{
		{one, "none", nil}, {two, "game-0002", nil}, {one, "game-0001", ErrTooWide}, {few, "game-0003", nil}, {two, "game-0002", nil},
	} {
		if _, err := pool.Collect(t.Context(), c.src, []string{c.game}); !errors.Is(err, c.want) || Damaged(err) {
			t.Errorf("%d: %v", i, err)
		}
	}
	if err := pool.Close(); err != nil {
		t.Fatal(err)
	}
	info, err := Pack(t.Context(), path, filepath.Join(dir, "packed"), []string{"game-0002", "game-0003"})
	if err != nil || info.Games != 2 {
		t.Errorf("%+v %v", info, err)
	}
}
