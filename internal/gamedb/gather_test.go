package gamedb

import (
	"context"
	"errors"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/ringagent/ringagent/internal/id"
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
		if _, err := mergeOne(t.Context(), merged, pack, ""); err != nil {
			t.Fatal(err)
		}
		packs = append(packs, pack)
	}
	if out, err := Gather(t.Context(), gathered, packs, ""); err != nil || len(out) > 0 {
		t.Fatal(out, err)
	}
	if diff := cmp.Diff(readGames(t, merged), readGames(t, gathered), cmpopts.EquateNaNs()); diff != "" {
		t.Error(diff)
	}
	if out, err := Gather(t.Context(), filepath.Join(dir, "others.db"), packs, "chess_2p"); err != nil || len(out) != 4 {
		t.Fatal(out, err)
	}
	if got := readGames(t, filepath.Join(dir, "others.db")); len(got) > 0 {
		t.Errorf("%d games are of another config", len(got))
	}
	res, err := mergeOne(t.Context(), filepath.Join(dir, "other.db"), packs[0], "chess_2p")
	if err != nil || res.Added != 0 || len(res.Rejected) != 2 || res.Rejected[0].Reason != "its board_type and num_players make connect4_2p, not chess_2p" {
		t.Errorf("%+v, %v", res, err)
	}
	if res, err = mergeOne(t.Context(), filepath.Join(dir, "same.db"), packs[0], "connect4_2p"); err != nil || res.Added != 2 {
		t.Errorf("%+v, %v", res, err)
	}
	if _, err := Gather(t.Context(), gathered, []string{filepath.Join(dir, "none.db")}, ""); err == nil {
		t.Error("a missing pack was gathered")
	}
}

// mergeOne merges one pack into a database that it opens for it alone.
func mergeOne(ctx context.Context, dst, pack string, of id.Config) (MergeResult, error) {
	m, err := OpenMerger(ctx, dst)
	if err != nil {
		return MergeResult{}, err
	}
	res, err := m.Merge(ctx, pack, of)
	return res, errors.Join(err, m.Close())
}
