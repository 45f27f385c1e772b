package ring_test

import (
	"encoding/json"
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ringagent/ringagent/internal/ring"
)

func again(t testing.TB, d ring.Duration) (out ring.Duration) {
	t.Helper()
	b, err := json.Marshal(d)
	if err == nil {
		err = json.Unmarshal(b, &out)
	}
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// One that is too long is the longest, on every processor.
func TestLongestDurations(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]ring.Duration{
		"1e300": math.MaxInt64, "-1e300": math.MinInt64, "9223372036.854775807": math.MaxInt64, "1.5": ring.Duration(1500 * time.Millisecond),
	} {
		var d ring.Duration
		if err := json.Unmarshal([]byte(text), &d); err != nil || d != want || again(t, d) != want {
			t.Errorf("%s: %d, again %d, %v; want %d", text, d, again(t, d), err, want)
		}
	}
}

func TestDurationsAreTheSameWhenReadAgain(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		d := ring.Duration(rapid.Int64Range(0, int64(30*24*time.Hour/time.Millisecond)).Draw(rt, "milliseconds")) * ring.Duration(time.Millisecond)
		if got := again(t, d); got != d {
			rt.Fatalf("%d becomes %d", d, got)
		}
	})
}
