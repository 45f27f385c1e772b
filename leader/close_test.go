package leader_test

import (
	"testing"
	"time"

	"github.com/ringagent/ringagent/leader/leadertest"
)

// A coordinator whose calls to others hang in the network is closed in order: that is not a disk that hangs.
func TestCloseWithCallsUnderWay(t *testing.T) {
	t.Parallel()
	bubble(t, leadertest.Options{Core: 3, Voters: 3}, func(t *testing.T, r *leadertest.Ring) {
		r.Wait(20*time.Second, "three voters", voters(r, 3))
		c := r.Coordinator()
		for _, m := range r.Members {
			if m != c {
				r.Net.Hold(m.ID, c.ID)
				r.Net.Hold(c.ID, m.ID)
			}
		}
		go func() { _, _ = c.Node.Propose(t.Context(), token("x")) }()
		time.Sleep(20 * time.Millisecond) // of synctest's clock: it is under way
		if err := c.Node.Close(); err != nil {
			t.Fatal(err)
		}
	})
}
