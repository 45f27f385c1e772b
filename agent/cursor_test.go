package agent_test

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
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
	var starts atomic.Int32
	watcher := singleton("TEST_WATCHER", func(ctx context.Context, env kit.Env) error {
		start := starts.Add(1)
		return env.Events.Consume(ctx, kit.Consumer{Types: []event.Type{"OPERATOR_NOTE"}, Handle: func(_ context.Context, r event.Record) error {
			heard.add("%s/%d %s", env.Self.Name, start, textOf(r))
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
			all := heard.list()
			first, _, _ = strings.Cut(all[len(all)-1], "/")
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
	// At least once, in order: what one start handled is ascending without a hole, and each begins at or before the place
	// where those before it ended.
	byStart := map[string][]int{}
	nodes := map[string]bool{}
	next := 0
	for _, l := range heard.list() {
		var start string
		var n int
		fmt.Sscanf(l, "%s %d", &start, &n)
		if n > next {
			t.Errorf("%s handled %d when %d was next", start, n, next)
		}
		next = max(next, n+1)
		byStart[start] = append(byStart[start], n)
		node, _, _ := strings.Cut(start, "/")
		nodes[node] = true
	}
	if len(nodes) < 2 {
		t.Errorf("handled on %v only: it has not moved", nodes)
	}
	for start, ns := range byStart {
		if !slices.IsSorted(ns) || ns[len(ns)-1]-ns[0] != len(ns)-1 {
			t.Errorf("%s handled out of order or with a hole: %v", start, ns)
		}
	}
}
