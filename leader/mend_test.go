package leader_test

import (
	"context"
	"testing"
	"time"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/leader/leadertest"
)

// A voter that asks a second time while its removal is under way must not be told that it is done: if the coordinator fails
// now, the removal is taken back.
func TestRemovalIsAcknowledgedOnlyOnceCommitted(t *testing.T) {
	t.Parallel()
	bubble(t, leadertest.Options{Core: 3, Voters: 3}, func(t *testing.T, r *leadertest.Ring) {
		r.Wait(20*time.Second, "three voters", voters(r, 3))
		c := r.Coordinator()
		faulty := r.Members[2]
		for _, m := range r.Members[1:] {
			r.Net.Hold(c.ID, m.ID)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		first := make(chan error, 1)
		go func() {
			_, err := c.Node.RemoveFaultyHere(ctx, faulty.ID)
			first <- err
		}()
		r.Wait(500*time.Millisecond, "the removal to be under way", func() bool {
			for _, s := range c.Node.Raft().GetConfiguration().Configuration().Servers {
				if id.Node(s.ID) == faulty.ID {
					return false
				}
			}
			return true
		})
		if removed, err := c.Node.RemoveFaultyHere(ctx, faulty.ID); removed || err == nil {
			t.Errorf("a removal that nobody else knows of is acknowledged: %v, %v", removed, err)
		}
		if err := <-first; err == nil {
			t.Error("the first request was told that it is done")
		}
		r.Net.Heal()
		r.Wait(20*time.Second, "a coordinator that can remove it", func() bool {
			c := r.Coordinator()
			if c == nil {
				return false
			}
			removed, err := c.Node.RemoveFaultyHere(ctx, faulty.ID)
			return removed && err == nil
		})
	})
}
