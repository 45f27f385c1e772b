package leader

import (
	"testing"
	"time"

	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/leader/state"
)

func TestLeaseOfAClaim(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		asked    time.Duration
		workType string
		timing   ring.Timing
		want     time.Duration
	}{
		{0, state.TypeSelfplay, ring.TimingLAN, time.Minute},
		{time.Minute, state.TypeSelfplay, ring.TimingWAN, time.Minute},
		{time.Minute, state.TypeTrain, ring.TimingWAN, 5 * time.Minute},
		{time.Minute, state.TypeEvaluate, ring.TimingLAN, 5 * time.Minute},
		{0, state.TypeExport, ring.TimingLAN, 5 * time.Minute},
		{10 * time.Minute, state.TypeTrain, ring.TimingLAN, 10 * time.Minute},
		{time.Hour, state.TypeTrain, ring.TimingLAN, 15 * time.Minute},
		{15 * time.Second, state.TypeTrain, ring.TimingDev, 15 * time.Second},
		{time.Second, state.TypeSelfplay, ring.TimingDev, 5 * time.Second},
	} {
		if got := leaseOf(c.asked, c.workType, c.timing); got != c.want {
			t.Errorf("%s asked for %v with timing %s: %v, want %v", c.workType, c.asked, c.timing, got, c.want)
		}
	}
}
