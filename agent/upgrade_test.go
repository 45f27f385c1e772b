package agent_test

import (
	"context"
	"strings"
	"testing"

	"github.com/ringagent/ringagent/agent"
	"github.com/ringagent/ringagent/agent/agenttest"
	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/deploy/workloads"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// A workload that the ring took before its stages had to count what they are for works after an upgrade, while nobody may
// give it to the ring again.
func TestOldWorkloadWorksAfterAnUpgrade(t *testing.T) {
	t.Parallel()
	var s seats
	r := agenttest.Start(t, agenttest.Options{Specs: base(s.spec())})
	n, env := r.Node("c1"), s.at(t, r, "c1")
	var now struct {
		Version  uint64        `json:"version"`
		Settings ring.Settings `json:"settings"`
	}
	if err := n.Client().Get(t.Context(), "/api/v1/settings", nil, &now); err != nil {
		t.Fatal(err)
	}
	old := now.Settings
	old.Workload, old.Configs = strings.Replace(workloads.Connect4, "kind: games, min: {games: 1}", "kind: games, min: {bytes: 1}", 1), []id.Config{"connect4_2p"}
	if err := n.Client().Post(t.Context(), "/api/v1/settings", old, nil); err == nil || !strings.Contains(err.Error(), "does not ask for games") {
		t.Errorf("an operator may give it: %v", err)
	}
	if err := agent.ReplaceSettings(t.Context(), env.Effects, now.Version, old); err != nil {
		t.Fatal(err)
	}
	r.Until("work by the old workload", func(ctx context.Context) error {
		return n.Client().Post(ctx, "/api/v1/work", api.AddWork{Type: "selfplay", Config: "connect4_2p"}, nil)
	})
}
