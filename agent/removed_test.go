package agent_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ringagent/ringagent/agent/agenttest"
	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/agent/config"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// TestConfigThatWasTakenAwayWaits: what waits of a config that the ring's settings name no more is offered to nobody, however
// urgent it is. A node that was given it could only hand it back, and would do nothing of that type for a while.
func TestConfigThatWasTakenAwayWaits(t *testing.T) {
	t.Parallel()
	gate := filepath.Join(t.TempDir(), "open")
	two := strings.Replace(gated(t, gate), "configs: [connect4_2p]", "configs: [connect4_2p, other_2p]", 1)
	r := agenttest.Start(t, agenttest.Options{
		Core: 1, Specs: base(),
		Settings: func(s *ring.Settings) { s.Workload, s.Configs = two, []id.Config{"connect4_2p", "other_2p"} },
		Config:   func(_ string, c *config.Config) { c.Slots.CPU = 1 },
	})
	c1 := r.Node("c1").Client()
	add := func(c id.Config, priority int) string {
		t.Helper()
		var row api.WorkRow
		must(t, c1.Post(t.Context(), "/api/v1/work", api.AddWork{
			Type: "selfplay", Config: c, Priority: &priority, Params: map[string]string{"games": "1", "seed": "1", "simulations": "1"},
		}, &row))
		return row.ID
	}
	first := add("connect4_2p", 50)
	r.Until("the first item holds the only slot", func(ctx context.Context) error { return inState(ctx, r, first, ring.WorkRunning) })
	other := add("other_2p", 100)
	var now struct {
		Settings ring.Settings `json:"settings"`
	}
	must(t, c1.Get(t.Context(), "/api/v1/settings", nil, &now))
	now.Settings.Workload, now.Settings.Configs = gated(t, gate), []id.Config{"connect4_2p"}
	must(t, c1.Post(t.Context(), "/api/v1/settings", now.Settings, nil))
	second := add("connect4_2p", 50)
	must(t, os.WriteFile(gate, nil, 0o600))
	r.Until("both items of the other config are done", func(ctx context.Context) error {
		if err := inState(ctx, r, first, ring.WorkDone); err != nil {
			return err
		}
		return inState(ctx, r, second, ring.WorkDone)
	})
	if row, err := workItem(t.Context(), r, other); err != nil || row.State != ring.WorkPending || row.Error != "" {
		t.Errorf("the item of the config that was taken away is %s, %q (%v)", row.State, row.Error, err)
	}
}
