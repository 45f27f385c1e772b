package agent_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/ringagent/ringagent/agent/agenttest"
	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/internal/id"
)

// The coordinator is killed and comes back: the others elect, and the node is a member again without anybody's help.
func TestCoordinatorIsKilledAndComesBack(t *testing.T) {
	t.Parallel()
	r := agenttest.Start(t, agenttest.Options{Core: 3, Edge: 1})
	lead := r.Coordinator()
	lead.Kill()
	begin := time.Now()
	next := r.Coordinator()
	if next == lead {
		t.Fatalf("%s still coordinates", lead.Name)
	}
	t.Logf("%s coordinates %s after the kill of %s", next.Name, time.Since(begin).Round(10*time.Millisecond), lead.Name)
	lead.Start()
	r.Settled()
}

// Whoever has the very first token may use it at once.
func TestFirstTokenWaitsForTheFounder(t *testing.T) {
	t.Parallel()
	r := agenttest.Prepare(t, agenttest.Options{Core: 2})
	first, second := r.Node("c1"), r.Node("c2")
	first.Enrol()
	first.Start()
	token := r.Token(id.Core) // before anybody has waited for anything
	var ms api.Members
	if err := first.Client().Get(t.Context(), "/api/v1/members", nil, &ms); err != nil {
		t.Fatal(err)
	}
	if len(ms.Members) != 1 || ms.Members[0].Boot == "" {
		t.Errorf("members with the first token: %+v", ms.Members)
	}
	second.Prepare()
	if err := second.EnrolWith(t.Context(), token); err != nil {
		t.Fatalf("enrol: %v", err)
	}
	second.Start()
	r.Until("both see each other", func(ctx context.Context) error {
		for _, n := range r.Nodes() {
			var s api.Status
			if err := n.Client().Get(ctx, "/api/v1/status", nil, &s); err != nil {
				return err
			}
			if s.Coordinator == nil || s.Members["alive"] != 2 {
				return fmt.Errorf("%s sees %v", n.Name, s.Members)
			}
		}
		return nil
	})
}
