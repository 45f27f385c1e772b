package leader_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/leader"
	"github.com/ringagent/ringagent/leader/leadertest"
)

// asking counts the questions who coordinates.
type asking struct {
	leader.Caller
	asked *atomic.Int64
}

func (a asking) CallRaw(ctx context.Context, n id.Node, method string, in []byte) ([]byte, error) {
	if method == "leader.who" {
		a.asked.Add(1)
	}
	return a.Caller.CallRaw(ctx, n, method, in)
}

// TestLostNodeLeavesTheOthersAlone: a node that is cut off or shut out asks seldom after a while, however many callers wait
// for a coordinator, and is back soon when one answers.
func TestLostNodeLeavesTheOthersAlone(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	config := func(m *leadertest.Member, c *leader.Config) {
		if m.Name == "n4" {
			c.Caller = asking{c.Caller, &asked}
		}
	}
	bubble(t, leadertest.Options{Core: 3, Edge: 1, Voters: 3, Config: config}, func(t *testing.T, r *leadertest.Ring) {
		edge := r.Members[3]
		r.Wait(20*time.Second, "three voters", voters(r, 3))
		r.Wait(10*time.Second, "the edge's copy", func() bool { return edge.Node.Freshness().Known })
		r.Net.Isolate(edge.ID, r.IDs()...)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		for range 4 {
			go func() {
				for ctx.Err() == nil {
					_, _ = edge.Node.Read(ctx)
				}
			}()
		}
		time.Sleep(time.Minute)
		before := asked.Load()
		time.Sleep(time.Minute)
		if n := asked.Load() - before; n > 3*2*30 {
			t.Errorf("%d questions to three nodes in a minute", n)
		}
		cancel()
		r.Net.Heal()
		r.Wait(3*time.Second, "an answer", func() bool {
			_, err := edge.Node.Read(t.Context())
			return err == nil
		})
	})
}
