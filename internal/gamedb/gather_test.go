package gamedb

import (
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestGatherHoldsWhatMergesWouldHold(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	src := filepath.Join(dir, "src.db")
	writeGames(t, src, sampleGame(1), sampleGame(2), sampleGame(3))
	merged, gathered := filepath.Join(dir, "merged.db"), filepath.Join(dir, "gathered.db")
	var packs []string
	for name, ids := range map[string][]string{"a": {"game-0001", "game-0002"}, "b": {"game-0002", "game-0003"}} {
		pack := filepath.Join(dir, name+".db")
		if _, err := Pack(t.Context(), src, pack, ids); err != nil {
			t.Fatal(err)
		}
		if _, err := Merge(t.Context(), merged, pack); err != nil {
			t.Fatal(err)
		}
		packs = append(packs, pack)
	}
	if err := Gather(t.Context(), gathered, packs); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(readGames(t, merged), readGames(t, gathered), cmpopts.EquateNaNs()); diff != "" {
		t.Error(diff)
	}
	if err := Gather(t.Context(), gathered, []string{filepath.Join(dir, "none.db")}); err == nil {
		t.Error("a missing pack was gathered")
	}
}
