package leader_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/leader"
	"github.com/ringagent/ringagent/leader/leadertest"
	"github.com/ringagent/ringagent/leader/state"
)

func refused(err error, want state.Code) bool {
	var no *leader.Refused
	return errors.As(err, &no) && no.Code == string(want)
}

// What a run says of its end is kept a thousand times over, and told again in events: it is cut.
func TestWordsOfARunAreCut(t *testing.T) {
	t.Parallel()
	bubble(t, leadertest.Options{Core: 1, Edge: 1, Voters: 1}, func(t *testing.T, r *leadertest.Ring) {
		r.Wait(20*time.Second, "a coordinator", func() bool { return r.Coordinator() != nil })
		c, e := r.Coordinator().Node, r.Members[1].Node
		r.Wait(10*time.Second, "the edge node", func() bool { m, _ := c.View().Member(r.Members[1].ID); return m.Live() })
		words := strings.Repeat("é", 50<<10)
		for once, end := range map[string]func(w *ring.WorkItem) (ring.WorkItem, error){
			"finish": func(w *ring.WorkItem) (ring.WorkItem, error) {
				return e.Finish(t.Context(), state.FinishWork{Work: w.ID, Claim: w.Claim.ID, Error: words})
			},
			"release": func(w *ring.WorkItem) (ring.WorkItem, error) {
				return e.Release(t.Context(), state.ReleaseWork{Work: w.ID, Claim: w.Claim.ID, Reason: words[:60_000]})
			},
		} {
			item := ring.WorkItem{Type: "selfplay", Config: "connect4_2p", Key: once}
			if _, err := c.Propose(t.Context(), state.Command{Kind: state.KindEnqueue, Body: state.Enqueue{Items: []ring.WorkItem{item}}}); err != nil {
				t.Fatal(err)
			}
			w, err := e.Claim(t.Context(), leader.ClaimCall{Once: once})
			if err != nil || w == nil {
				t.Fatalf("%s: claim: %v, %v", once, w, err)
			}
			got, err := end(w)
			if err != nil || got.Error == "" || len(got.Error) > 4<<10 || !strings.HasPrefix(words, got.Error) {
				t.Errorf("%s: %d bytes kept, %v", once, len(got.Error), err)
			}
		}
	})
}

func TestOriginIsAnID(t *testing.T) {
	t.Parallel()
	bubble(t, leadertest.Options{Core: 1, Edge: 1, Voters: 1}, func(t *testing.T, r *leadertest.Ring) {
		r.Wait(20*time.Second, "a coordinator", func() bool { return r.Coordinator() != nil })
		for name, o := range map[string]event.Origin{"long": event.Origin(strings.Repeat("a", 65)), "no text": "\xff\xfe"} {
			for _, m := range r.Members {
				b, _ := (&outbox{origin: o, node: m.ID, next: 1}).batch(1)
				if _, err := m.Node.ProposeEvents(t.Context(), b); !refused(err, state.CodeInvalid) {
					t.Errorf("%s of %s: %v", name, m.Name, err)
				}
			}
		}
		b, _ := (&outbox{origin: event.Origin(id.NewNode()), node: r.Members[1].ID, next: 1}).batch(1)
		if _, err := r.Members[1].Node.ProposeEvents(t.Context(), b); err != nil {
			t.Error(err)
		}
	})
}
