package state

import (
	"encoding/json"
	"testing"

	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// TestClusterHealthIsToldOnce: the event rides on the entry that crosses the line, and on no other.
func TestClusterHealthIsToldOnce(t *testing.T) {
	t.Parallel()
	tx := txn{s: *emptyState(), m: New()}
	tx.s.meta.Coordinator = "n1"
	set := func(n id.Node, st ring.Status) []event.Draft {
		before := tx.s
		before.share()
		tx.s.share()
		tx.facts = nil
		tx.s.members.put(string(n), memberRow{Member: ring.Member{ID: n, Class: id.Edge, Status: st, Boot: "b"}})
		tx.tellCluster(&before)
		return tx.facts
	}
	for i, step := range []struct {
		node id.Node
		st   ring.Status
		want event.Type
	}{
		{"n1", ring.Alive, ""}, {"n2", ring.Alive, ""}, {"n3", ring.Alive, ""}, {"n4", ring.Alive, ""}, {"n5", ring.Alive, ""},
		{"n5", ring.Failed, ""}, // 4 of 5 is enough
		{"n4", ring.Failed, evUnhealthy},
		{"n3", ring.Failed, ""},
		{"n3", ring.Alive, ""},
		{"n4", ring.Alive, evHealthy},
		{"n5", ring.Left, ""},
	} {
		facts := set(step.node, step.st)
		if step.want == "" && len(facts) != 0 || step.want != "" && (len(facts) != 1 || facts[0].Type != step.want) {
			t.Errorf("step %d: got %v, want %q", i, facts, step.want)
			continue
		}
		for _, f := range facts {
			if _, err := event.Catalogue().Prepare(f, event.ByState); err != nil {
				t.Errorf("step %d: %v", i, err)
			}
			if !json.Valid(f.Payload) {
				t.Errorf("step %d: payload %s", i, f.Payload)
			}
		}
	}
}
