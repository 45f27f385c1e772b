package agent_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ringagent/ringagent/agent/agenttest"
	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/eventlog/event"
)

// What is published on one node is handled on every other as often as it was published, in its order, also where the
// publisher did not wait for an answer and asked again under the same key.
func TestPublishedOnceIsHandledOnceElsewhere(t *testing.T) {
	t.Parallel()
	heard := map[string]*book{"c1": {}, "c2": {}, "e1": {}}
	listener := everywhere("TEST_LISTENER", func(ctx context.Context, env kit.Env) error {
		return env.Events.Consume(ctx, kit.Consumer{Types: []event.Type{"OPERATOR_NOTE"}, Handle: func(_ context.Context, r event.Record) error {
			heard[env.Self.Name].add("%s", textOf(r))
			return nil
		}})
	})
	r := agenttest.Start(t, agenttest.Options{Core: 2, Edge: 1, Specs: base(listener)})
	var want []string
	for i := range 20 {
		text := fmt.Sprintf("note-%d", i)
		mustNote(t, r, r.Node("c1"), text)
		mustNote(t, r, r.Node("c1"), text)
		want = append(want, text)
	}
	// Deliveries are in order: behind the last note nothing of the others can come.
	mustNote(t, r, r.Node("c1"), "end")
	want = append(want, "end")
	for name, b := range heard {
		r.Until("the end heard on "+name, func(context.Context) error {
			got := b.list()
			if len(got) == 0 || got[len(got)-1] != "end" {
				return fmt.Errorf("heard %v", got)
			}
			return nil
		})
		if diff := cmp.Diff(want, b.list()); diff != "" {
			t.Errorf("%s heard (-published +heard):\n%s", name, diff)
		}
	}
}
