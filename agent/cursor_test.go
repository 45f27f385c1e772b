package agent_test

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"testing"

	"github.com/ringagent/ringagent/agent/agenttest"
	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/eventlog/event"
)

// A durable subscriber of the ring is moved in mid-stream, by the death of its node: its successor goes on where it was
// known to be, so that every event is handled, in order, and none is skipped.
func TestSubscriberMovesWithoutGap(t *testing.T) {
	t.Parallel()
	const total, deathAt = 60, 25
	var heard book
	watcher := singleton("TEST_WATCHER", func(ctx context.Context, env kit.Env) error {
		return env.Events.Consume(ctx, kit.Consumer{Types: []event.Type{"OPERATOR_NOTE"}, Handle: func(_ context.Context, r event.Record) error {
			heard.add("%s %s", env.Self.Name, textOf(r))
			return nil
		}})
	})
	r := agenttest.Start(t, agenttest.Options{Core: 3, Edge: 1, Specs: base(watcher)})
	edge := r.Node("e1")
	r.Until("the subscriber runs", func(ctx context.Context) error {
		if _, err := note(ctx, edge, "0", true); err != nil {
			return err
		}
		if len(heard.list()) == 0 {
			return fmt.Errorf("nothing heard")
		}
		return nil
	})
	var first string
	for i := 1; i <= total; i++ {
		mustNote(t, r, edge, strconv.Itoa(i))
		if i == deathAt {
			fmt.Sscanf(heard.list()[0], "%s", &first)
			r.Node(first).Kill()
		}
	}
	r.Until("everything heard", func(context.Context) error {
		seen := map[string]bool{}
		for _, l := range heard.list() {
			var node, text string
			fmt.Sscanf(l, "%s %s", &node, &text)
			seen[text] = true
		}
		for i := range total + 1 {
			if !seen[strconv.Itoa(i)] {
				return fmt.Errorf("%d was never handled", i)
			}
		}
		return nil
	})
	// At least once, in order: what a node handled is ascending without a hole, and the successor began at or before the
	// place where the first one ended.
	byNode := map[string][]int{}
	for _, l := range heard.list() {
		var node string
		var n int
		fmt.Sscanf(l, "%s %d", &node, &n)
		byNode[node] = append(byNode[node], n)
	}
	if len(byNode) != 2 {
		t.Errorf("handled on %d nodes, want 2: %v", len(byNode), byNode)
	}
	for node, ns := range byNode {
		if !slices.IsSorted(ns) || ns[len(ns)-1]-ns[0] != len(ns)-1 {
			t.Errorf("%s handled out of order or with a hole: %v", node, ns)
		}
	}
}
