package agent_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/ringagent/ringagent/agent/agenttest"
	"github.com/ringagent/ringagent/internal/ring"
)

// A daemon works by the section of the ring settings that is in force: also in a node's first life, which begins before the
// node knows any, and when an operator has changed it or has switched the daemon off by it. What is not its own section
// leaves it alone.
func TestDaemonsFollowTheirSettings(t *testing.T) {
	t.Parallel()
	var seen, beside attempts
	one, other := everywhere("NODE_HEALTH_MONITOR", seen.run), everywhere("DLQ_RETRY", beside.run)
	section := func(every string) json.RawMessage { return json.RawMessage(fmt.Sprintf(`{"every":%q}`, every)) }
	var settings ring.Settings
	r := agenttest.Start(t, agenttest.Options{Core: 1, Edge: 1, Specs: base(one, other), Settings: func(s *ring.Settings) {
		s.Daemons = map[string]json.RawMessage{"NODE_HEALTH_MONITOR": section("7s"), "DLQ_RETRY": section("9s")}
		settings = *s
	}})
	live := func(a *attempts, node, want string) (got attempt) {
		t.Helper()
		r.Until(node+" works by "+want, func(context.Context) error {
			var ok bool
			except := map[string]string{"c1": "e1", "e1": "c1"}[node]
			if got, ok = a.live(except); !ok || got.env.Every.String() != want {
				return fmt.Errorf("period %v", got.env.Every)
			}
			return nil
		})
		return got
	}
	before := map[string]attempt{}
	for _, node := range []string{"c1", "e1"} {
		live(&seen, node, "7s")
		before[node] = live(&beside, node, "9s")
	}
	apply := func(section json.RawMessage) {
		t.Helper()
		settings.Daemons["NODE_HEALTH_MONITOR"] = section
		if err := r.Node("c1").Client().Post(t.Context(), "/api/v1/settings", settings, nil); err != nil {
			t.Fatal(err)
		}
	}
	apply(section("8s"))
	for _, node := range []string{"c1", "e1"} {
		live(&seen, node, "8s")
		if before[node].ctx.Err() != nil {
			t.Errorf("DLQ_RETRY on %s was ended by the settings of another daemon", node)
		}
		rows, err := daemonRows(t.Context(), r.Node(node))
		if err != nil || rows["NODE_HEALTH_MONITOR"].Restarts != 0 {
			t.Errorf("%s: %+v, %v; want no restart counted", node, rows["NODE_HEALTH_MONITOR"], err)
		}
	}
	apply(json.RawMessage(`{"enabled":false}`))
	for _, n := range r.Nodes() {
		r.Until("switched off on "+n.Name, func(ctx context.Context) error {
			rows, err := daemonRows(ctx, n)
			if row := rows["NODE_HEALTH_MONITOR"]; err == nil && (row.State != "STOPPED" || !strings.Contains(strings.Join(row.BlockedOn, ""), "disabled")) {
				err = fmt.Errorf("%s, %v", row.State, row.BlockedOn)
			}
			return err
		})
	}
	apply(section("6s"))
	for _, node := range []string{"c1", "e1"} {
		live(&seen, node, "6s")
	}
}

// A node that starts while the ring is away goes by the settings that it knew last: what is switched off stays so, and what gives
// something up does it by the figures that the ring wants.
func TestSettingsOutliveAStartWithoutTheRing(t *testing.T) {
	t.Parallel()
	var off, on attempts
	r := agenttest.Start(t, agenttest.Options{Core: 1, Edge: 1, Specs: base(everywhere("NODE_HEALTH_MONITOR", off.run), everywhere("DLQ_RETRY", on.run)),
		Settings: func(s *ring.Settings) {
			s.Daemons = map[string]json.RawMessage{"NODE_HEALTH_MONITOR": json.RawMessage(`{"enabled":false}`), "DLQ_RETRY": json.RawMessage(`{"every":"9s"}`)}
		}})
	core, edge := r.Node("c1"), r.Node("e1")
	known := func() (a attempt, err error) {
		a, ok := on.live("c1")
		if !ok || a.env.Every.String() != "9s" {
			err = fmt.Errorf("period %v", a.env.Every)
		}
		return a, err
	}
	r.Until("e1 knows the settings", func(context.Context) error { _, err := known(); return err })
	edge.Stop()
	core.Stop()
	edge.Start()
	r.Until("its daemon has started", func(context.Context) error {
		if _, ok := on.live("c1"); !ok {
			return fmt.Errorf("not yet")
		}
		return nil
	})
	if _, err := known(); err != nil {
		t.Errorf("started without the ring: %v", err)
	}
	r.Until("the other is known to be switched off", func(ctx context.Context) error {
		rows, err := daemonRows(ctx, edge)
		if row := rows["NODE_HEALTH_MONITOR"]; err == nil && row.State != "STOPPED" {
			err = fmt.Errorf("%s, %v", row.State, row.BlockedOn)
		}
		return err
	})
	if a, ok := off.live("c1"); ok {
		t.Errorf("what is switched off runs with %v", a.env.Every)
	}
}
