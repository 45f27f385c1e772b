package agent_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/ringagent/ringagent/agent/agenttest"
)

// An edge node that lost its disk enrols again under its old name. Its numbers begin anew under another origin, so that
// what stands in the log stays there once, and nothing new is taken for something old.
func TestWipedNodeLosesAndDoublesNothing(t *testing.T) {
	t.Parallel()
	r := agenttest.Start(t, agenttest.Options{Core: 1, Edge: 1, Specs: base()})
	c1, e1 := r.Node("c1"), r.Node("e1")
	const each = 8
	for i := range each {
		mustNote(t, r, e1, fmt.Sprintf("before-%d", i))
	}
	e1.Wipe()
	r.Until("enrolled again under the old name", func(ctx context.Context) error {
		e1.Prepare()
		return e1.EnrolWith(ctx, r.Token(e1.Class))
	})
	e1.Start()
	for i := range each {
		mustNote(t, r, e1, fmt.Sprintf("after-%d", i))
	}
	for _, n := range r.Nodes() {
		r.Until("every event once on "+n.Name, func(ctx context.Context) error {
			ls, err := lines(ctx, n, "OPERATOR_NOTE")
			if err != nil {
				return err
			}
			ids := map[string]bool{}
			for _, l := range ls {
				if ids[l.ID] {
					t.Fatalf("%s has event %s twice", n.Name, l.ID)
				}
				ids[l.ID] = true
			}
			if len(ls) > 2*each {
				t.Fatalf("%s has %d notes, want %d", n.Name, len(ls), 2*each)
			}
			if len(ls) != 2*each {
				return fmt.Errorf("%d notes, want %d", len(ls), 2*each)
			}
			return nil
		})
	}
	lost, err := lines(t.Context(), c1, "EVENTS_LOST")
	if err != nil || len(lost) != 0 {
		t.Errorf("losses stated: %+v, %v", lost, err)
	}
}
