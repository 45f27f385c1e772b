package leader_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/leader"
	"github.com/ringagent/ringagent/leader/leadertest"
	"github.com/ringagent/ringagent/leader/state"
)

// weighed counts the bytes that a node is answered; slow is how long the whole state takes to come.
type weighed struct {
	leader.Caller
	got  *atomic.Int64
	slow time.Duration
}

func (w weighed) CallRaw(ctx context.Context, n id.Node, method string, in []byte) ([]byte, error) {
	b, err := w.Caller.CallRaw(ctx, n, method, in)
	if method != "leader.pull" { // goes on beside
		w.got.Add(int64(len(b)))
	}
	if method == "leader.read" && w.slow > 0 {
		select {
		case <-time.After(w.slow):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
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
			c.Caller = weighed{Caller: c.Caller, got: &got}
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

// The whole state travels zipped, with time for it, to those who can take it so; to confirm that somebody coordinates none of
// it is sent.
func TestWholeStateTravelsZipped(t *testing.T) {
	t.Parallel()
	var got atomic.Int64
	config := func(m *leadertest.Member, c *leader.Config) {
		if m.Name == "n2" {
			c.Caller = weighed{c.Caller, &got, 20 * time.Second}
		}
	}
	bubble(t, leadertest.Options{Core: 1, Edge: 1, Voters: 1, Config: config}, func(t *testing.T, r *leadertest.Ring) {
		core, edge := r.Members[0], r.Members[1]
		r.Wait(20*time.Second, "a coordinator", func() bool { return r.Coordinator() != nil })
		for i := range 20 {
			var list []ring.Artifact
			for j := range 100 {
				list = append(list, ring.Artifact{Digest: id.DigestOf(fmt.Append(nil, i, j)), Kind: ring.KindPack, Config: "connect4_2p", Bytes: 1, Holders: []id.Node{core.ID}})
			}
			if _, err := core.Node.Propose(t.Context(), state.Command{Kind: state.KindArtifacts, Body: state.AddArtifacts{Artifacts: list}}); err != nil {
				t.Fatal(err)
			}
		}
		want := core.Node.View()
		var plain bytes.Buffer
		if err := state.WriteSnapshot(&plain, want); err != nil {
			t.Fatal(err)
		}
		before := got.Load()
		s, err := edge.Node.Read(t.Context())
		if err != nil || s.ArtifactCount() != want.ArtifactCount() {
			t.Fatalf("read: %v", err)
		}
		if n := int(got.Load() - before); n > plain.Len()/2 {
			t.Errorf("%d bytes were sent of a state of %d", n, plain.Len())
		}
		before = got.Load()
		if err := edge.Node.Confirm(t.Context()); err != nil {
			t.Errorf("confirm: %v", err)
		}
		if n := got.Load() - before; n > 512 {
			t.Errorf("confirming cost %d bytes", n)
		}
		// A node of a former version says nothing, and reads no zipped answer.
		b, err := core.Node.Handlers()["leader.read"].Serve(t.Context(), edge.ID, nil)
		if err != nil || len(b) == 0 || b[0] != 0 {
			t.Fatalf("former call: %q, %v", b, err)
		}
		var a struct{ Snapshot []byte }
		if err := json.Unmarshal(b[1:], &a); err != nil {
			t.Fatal(err)
		}
		if s, err := state.ReadSnapshot(bytes.NewReader(a.Snapshot)); err != nil || s.ArtifactCount() != want.ArtifactCount() {
			t.Errorf("former answer: %v", err)
		}
		r.Net.Isolate(core.ID, r.IDs()...)
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		if err := edge.Node.Confirm(ctx); err == nil {
			t.Error("confirmed by nobody")
		}
		r.Net.Heal()
	})
}
