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

// weighed counts the bytes that a node is answered.
type weighed struct {
	leader.Caller
	got *atomic.Int64
}

func (w weighed) CallRaw(ctx context.Context, n id.Node, method string, in []byte) ([]byte, error) {
	b, err := w.Caller.CallRaw(ctx, n, method, in)
	if method != "leader.pull" { // goes on beside
		w.got.Add(int64(len(b)))
	}
	return b, err
}

// Every outbox asks for its origin whenever a connection begins; a node without the state must not be sent all of it for
// that, nor told of other nodes' outboxes.
func TestEdgeAsksForItsOriginAlone(t *testing.T) {
	t.Parallel()
	var got atomic.Int64
	config := func(m *leadertest.Member, c *leader.Config) {
		if m.Name == "n2" {
			c.Caller = weighed{c.Caller, &got}
		}
	}
	bubble(t, leadertest.Options{Core: 1, Edge: 2, Voters: 1, Config: config}, func(t *testing.T, r *leadertest.Ring) {
		core, edge, other := r.Members[0], r.Members[1], r.Members[2]
		r.Wait(20*time.Second, "a coordinator", func() bool { return r.Coordinator() != nil })
		o := &outbox{origin: "00000000000000a1", node: edge.ID, next: 1}
		b, hash := o.batch(3)
		if _, known, err := edge.Node.Origin(t.Context(), o.origin); err != nil || known {
			t.Fatalf("before the first event: known %v, %v", known, err)
		}
		if res, err := edge.Node.ProposeEvents(t.Context(), b); err != nil || res.Next != 4 {
			t.Fatalf("propose: %+v, %v", res, err)
		}
		for range 30 {
			if _, err := core.Node.Propose(t.Context(), token(string(id.NewBoot()))); err != nil {
				t.Fatal(err)
			}
		}
		before := got.Load()
		p, known, err := edge.Node.Origin(t.Context(), o.origin)
		if err != nil || !known || p.Last != 3 || p.Hash != hash {
			t.Errorf("at its node: %+v, known %v, %v", p, known, err)
		}
		if n := got.Load() - before; n > 512 {
			t.Errorf("the answer had %d bytes", n)
		}
		if p, known, err := core.Node.Origin(t.Context(), o.origin); err != nil || !known || p.Last != 3 {
			t.Errorf("at a core node: %+v, known %v, %v", p, known, err)
		}
		if p, known, err := other.Node.Origin(t.Context(), o.origin); err != nil || known {
			t.Errorf("at another edge node: %+v, known %v, %v", p, known, err)
		}
	})
}

func TestFewEdgesReadTheWholeStateAtATime(t *testing.T) {
	t.Parallel()
	bubble(t, leadertest.Options{Core: 1, Edge: 1, Voters: 1}, func(t *testing.T, r *leadertest.Ring) {
		core, edge := r.Members[0], r.Members[1]
		r.Wait(20*time.Second, "a coordinator", func() bool { return r.Coordinator() != nil })
		release := core.Node.HoldWholeReads()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		if _, err := edge.Node.Read(ctx); err == nil {
			t.Error("one more was served")
		}
		if _, err := core.Node.Read(t.Context()); err != nil {
			t.Errorf("a core node, which is sent no state: %v", err)
		}
		release()
		if _, err := edge.Node.Read(t.Context()); err != nil {
			t.Errorf("when there is room again: %v", err)
		}
	})
}
