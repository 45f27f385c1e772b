package state

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// Backwards is forwards from the other end, also beside neighbours and keys that are not there.
func TestTableBackwards(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	table := newTable[int]()
	for i := range 500 {
		table.put(fmt.Sprintf("%s\x00%d", []string{"a", "model", "model2", "z"}[random.IntN(4)], random.IntN(1000)), i)
	}
	table.put("model\x01", 1)
	table.put("model", 1)
	for _, p := range []string{"a\x00", "model\x00", "z\x00", "nothing\x00"} {
		var want, got []string
		for k := range table.all() {
			if strings.HasPrefix(k, p) {
				want = append(want, k)
			}
		}
		slices.Reverse(want)
		for k := range table.back(p) {
			got = append(got, k)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q: %d keys, want %d: %.5q", p, len(got), len(want), got)
		}
		for k := range table.back(p) {
			if k != want[0] {
				t.Errorf("%q: begins with %q", p, k)
			}
			break
		}
	}
}
