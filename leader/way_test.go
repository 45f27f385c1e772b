package leader_test

import (
	"context"
	"testing"
	"time"

	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/leader"
	"github.com/ringagent/ringagent/leader/leadertest"
	"github.com/ringagent/ringagent/leader/state"
)

// An edge node that reaches one core node only, not the coordinator, keeps its claims by way of that one.
func TestEdgeThatReachesOneCoreNodeKeepsItsClaims(t *testing.T) {
	t.Parallel()
	bubble(t, leadertest.Options{Core: 3, Edge: 1, Voters: 3}, func(t *testing.T, r *leadertest.Ring) {
		r.Wait(20*time.Second, "three voters", voters(r, 3))
		l, e := r.Coordinator(), r.Members[3]
		if l != r.Members[0] {
			t.Fatalf("%s coordinates", l.Name)
		}
		time.Sleep(5 * time.Second)
		item := ring.WorkItem{Type: "selfplay", Config: "connect4_2p", Key: "k1"}
		if _, err := l.Node.Propose(t.Context(), state.Command{Kind: state.KindEnqueue, Body: state.Enqueue{Items: []ring.WorkItem{item}}}); err != nil {
			t.Fatal(err)
		}
		w, err := e.Node.Claim(t.Context(), leader.ClaimCall{Once: "c1"})
		if err != nil || w == nil {
			t.Fatalf("claim: %v, %v", w, err)
		}
		cut(r, e, l)
		cut(r, e, r.Members[1])
		beat := func(limit time.Duration) ([]string, error) {
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			return e.Node.Heartbeat(ctx, w.Claim.ID)
		}
		r.Wait(20*time.Second, "a way", func() bool {
			_, err := beat(20 * time.Second)
			return err == nil
		})
		for begin := time.Now(); time.Since(begin) < 2*time.Minute; time.Sleep(time.Second) {
			if gone, err := beat(3 * time.Second); err != nil || len(gone) > 0 {
				t.Fatalf("%s after the way was found: %v, %v", time.Since(begin), gone, err)
			}
		}
	})
}
