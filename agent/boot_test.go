package agent_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/ringagent/ringagent/agent"
	"github.com/ringagent/ringagent/agent/agenttest"
	"github.com/ringagent/ringagent/internal/id"
)

// A restarted agent is another one: what its former life held comes back, to it or to somebody else, under a new epoch, and
// no epoch is ever seen under two boots.
func TestRestartGivesAssignmentsUp(t *testing.T) {
	t.Parallel()
	var holders attempts
	r := agenttest.Start(t, agenttest.Options{Core: 1, Specs: base(singleton("TEST_HOLDER", holders.run))})
	n := r.Node("c1")
	boots := map[id.Boot]bool{}
	for life := range 3 {
		r.Until("a holder in a new life", func(context.Context) error {
			x, ok := holders.live("")
			if !ok || boots[x.env.Self.Boot] {
				return errors.New("none")
			}
			boots[x.env.Self.Boot] = true
			return nil
		})
		if life < 2 {
			n.Restart(life == 0)
		}
	}
	rows := map[uint64]id.Boot{}
	var last uint64
	r.Until("the assignment in status", func(ctx context.Context) error {
		rs, err := daemonRows(ctx, n)
		if err != nil {
			return err
		}
		row, ok := rs["TEST_HOLDER"]
		if !ok || row.State != "RUNNING" || row.Epoch == nil {
			return fmt.Errorf("row %+v", row)
		}
		last = *row.Epoch
		return nil
	})
	holders.mu.Lock()
	defer holders.mu.Unlock()
	for _, x := range holders.all {
		e := uint64(agent.EpochOf(x.env.Effects))
		if b, twice := rows[e]; twice && b != x.env.Self.Boot {
			t.Errorf("epoch %d was held by boots %s and %s", e, b, x.env.Self.Boot)
		}
		rows[e] = x.env.Self.Boot
	}
	if len(rows) < 3 || rows[last] == "" {
		t.Errorf("epochs %v, the present one %d; want three lives under three epochs", rows, last)
	}
}
