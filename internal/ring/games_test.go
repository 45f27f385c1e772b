package ring

import (
	"math"
	"testing"
)

// Whatever nodes say of their packs, no sum of it becomes a negative number.
func TestCountersDoNotWrap(t *testing.T) {
	t.Parallel()
	const most = math.MaxInt64
	for _, c := range []struct{ sum, more, want int64 }{
		{0, 0, 0}, {2, 3, 5}, {most, 1, most}, {most - 1, 1, most}, {4e18, 4e18, 8e18}, {8e18, 4e18, most}, {most, most, most},
		{5, -3, 5}, {5, math.MinInt64, 5},
	} {
		if got := AddGames(c.sum, c.more); got != c.want {
			t.Errorf("%d and %d are %d, want %d", c.sum, c.more, got, c.want)
		}
	}
	for _, c := range []struct{ games, repeats, want int64 }{
		{5, 2, 3}, {2, 5, 0}, {most, math.MinInt64, most}, {math.MinInt64, most, 0}, {-1, 0, 0},
	} {
		a := Artifact{Counters: map[string]int64{CounterGames: c.games, CounterRepeats: c.repeats}}
		if got := a.Games(); got != c.want {
			t.Errorf("%d less %d repeats are %d, want %d", c.games, c.repeats, got, c.want)
		}
	}
}
