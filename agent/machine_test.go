package agent_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/ringagent/ringagent/agent"
	"github.com/ringagent/ringagent/agent/agenttest"
	"github.com/ringagent/ringagent/agent/config"
	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/internal/ring"
)

// Slots that a reloaded config says are offered from then on, and the ring knows.
func TestReloadChangesSlots(t *testing.T) {
	t.Parallel()
	var conf atomic.Pointer[config.Config]
	envs := make(chan kit.Env, 1)
	r := agenttest.Start(t, agenttest.Options{
		Specs: base(singleton("TEST_LOOKS", func(ctx context.Context, env kit.Env) error {
			select {
			case envs <- env:
			default:
			}
			<-ctx.Done()
			return nil
		})),
		Config: func(_ string, c *config.Config) { copied := *c; conf.Store(&copied) },
		Agent: func(_ string, o *agent.Options) {
			o.Reload = func() (config.Config, error) { return *conf.Load(), nil }
		},
	})
	view := (<-envs).View
	next := *conf.Load()
	next.Slots = ring.Slots{CPU: 3, GPU: 2, DiskMiB: 777}
	conf.Store(&next)
	r.Node("c1").Reload()
	r.Until("the ring knows the new slots", func(context.Context) error {
		for _, m := range view.Near().Fleet.Members() {
			if m.Slots.CPU == 3 && m.Slots.GPU == 2 && m.Slots.DiskMiB == 777 {
				return nil
			}
		}
		return fmt.Errorf("members are %+v", view.Near().Fleet.Members())
	})
}
