package agent_test

import (
	"context"
	"testing"

	"github.com/ringagent/ringagent/agent/agenttest"
)

// Who publishes while the poller is stopped is told so at once; who publishes while it is about to run, as just after a start
// of the agent, waits for it and is not refused.
func TestPublishWaitsForAPollerThatStarts(t *testing.T) {
	t.Parallel()
	r := agenttest.Start(t, agenttest.Options{Core: 1, Specs: base()})
	c1 := r.Node("c1")
	mustNote(t, r, c1, "runs")
	say := func(verb string) {
		t.Helper()
		if err := c1.Client().Post(t.Context(), "/api/v1/daemons/CROSS_PROCESS_POLLER/"+verb, struct{}{}, nil); err != nil {
			t.Fatal(err)
		}
	}
	say("stop")
	r.Until("publishing to be refused", func(ctx context.Context) error {
		if _, err := note(ctx, c1, "stopped", true); exitOf(err) != 8 {
			return err
		}
		return nil
	})
	for range 5 {
		say("start")
		if _, err := note(t.Context(), c1, "starting", true); err != nil {
			t.Fatalf("refused while the poller starts: %v", err)
		}
		say("restart")
		if _, err := note(t.Context(), c1, "restarting", true); err != nil {
			t.Fatalf("refused while the poller starts anew: %v", err)
		}
	}
}
