package gamedb

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// All packs that cannot be joined with the others are named at once, and one that only contradicts such a pack is not.
func TestJoinNamesEveryUnfitPack(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	const other = "UPDATE game_moves SET move_json = '{}' WHERE game_id = 'game-000%d' AND move_number = 1"
	pack := func(name string, numbers []int, statements ...string) string {
		return packOf(t, filepath.Join(dir, name), numbers, statements...)
	}
	packs := []string{
		pack("a", []int{1, 4}),
		pack("twin", []int{3, 4}, fmt.Sprintf(other, 3), fmt.Sprintf(other, 4)),
		pack("b", []int{2, 3}), // its third game is the twin's with other contents, and the twin is left out
		pack("newer", []int{5}, "UPDATE schema_metadata SET value = '19'"),
		pack("again", []int{4, 6}, fmt.Sprintf(other, 4)),
		pack("c", []int{6}),
	}
	dst := filepath.Join(t.TempDir(), "joined.db")
	_, err := Join(t.Context(), dst, packs)
	var named []string
	for _, u := range Unfit(err) {
		named = append(named, filepath.Base(u.Pack))
	}
	if diff := cmp.Diff([]string{"twin", "newer", "again"}, named); diff != "" {
		t.Errorf("%v: %s", err, diff)
	}
	if _, err := os.Lstat(dst); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it was written all the same: %v", err)
	}
	fit := []string{packs[0], packs[2], packs[5]}
	joined, info := joinPacks(t, fit...)
	if info.Games != 5 {
		t.Errorf("%d games of those that are left", info.Games)
	}
	for _, p := range fit {
		if err := Holds(t.Context(), joined, p); err != nil {
			t.Error(err)
		}
	}
	if Unfit(nil) != nil || Unfit(os.ErrNotExist) != nil {
		t.Error("other errors name packs")
	}
}
