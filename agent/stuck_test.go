package agent_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ringagent/ringagent/agent/agenttest"
	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/daemons"
	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/ring"
)

// A daemon that runs and does nothing any more is cancelled and told of, and the supervisor starts it anew. The daemons
// beside it, and the same daemon on another node, go on as if nothing had been.
func TestStuckDaemonIsStartedAnew(t *testing.T) {
	t.Parallel()
	var starts, restarted book
	// works makes progress all the time; stuck, only at first.
	works := func(ctx context.Context, env kit.Env, stuck bool) error {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for n := 0; ; n++ {
			if !stuck || n < 3 {
				env.Progress()
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return nil
			}
		}
	}
	patient := everywhere("TEST_STUCK", func(ctx context.Context, env kit.Env) error {
		starts.add("%s", env.Self.Name)
		if env.Self.Name != "e1" {
			return works(ctx, env, false)
		}
		first := len(restarted.list()) == 0
		restarted.add("start")
		return works(ctx, env, first)
	})
	patient.Deadline = 3 * time.Second
	sibling := everywhere("TEST_SIBLING", func(ctx context.Context, env kit.Env) error {
		starts.add("sibling %s", env.Self.Name)
		return works(ctx, env, false)
	})
	watchdog, _ := daemons.ByName("DAEMON_WATCHDOG")
	r := agenttest.Start(t, agenttest.Options{Core: 1, Edge: 1, Specs: base(watchdog, patient, sibling), Settings: func(s *ring.Settings) {
		s.Daemons = map[string]json.RawMessage{"DAEMON_WATCHDOG": json.RawMessage(`{"every":"1s"}`)}
	}})
	r.Until("the stuck daemon started anew", func(ctx context.Context) error {
		rows, err := daemonRows(ctx, r.Node("e1"))
		if err != nil {
			return err
		}
		row := rows["TEST_STUCK"]
		if row.Restarts == 0 || row.State != "RUNNING" || row.LastProgressSeconds == nil {
			return fmt.Errorf("%s after %d restarts: %s", row.State, row.Restarts, row.LastError)
		}
		if !strings.Contains(row.LastError, "no progress for") {
			t.Fatalf("it was started anew for another reason: %q", row.LastError)
		}
		return nil
	})
	r.Until("the other node to hear of it", func(ctx context.Context) error {
		ls, err := lines(ctx, r.Node("c1"), "DAEMON_STATUS_CHANGED")
		if err != nil {
			return err
		}
		for _, l := range ls {
			var p event.DaemonStatus
			if err := json.Unmarshal(l.Payload, &p); err != nil {
				return err
			}
			if p.State == "STUCK" && p.Daemon == "TEST_STUCK" && strings.Contains(p.Reason, "no progress for") && l.Daemon == "DAEMON_WATCHDOG" {
				return nil
			}
		}
		return errors.New("not told")
	})
	figures, err := metricsOf(t.Context(), r.Node("e1"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`ringagent_daemon_restarts{daemon="TEST_STUCK"} 1`, `ringagent_daemon_restarts{daemon="TEST_SIBLING"} 0`, `ringagent_daemon_progress_age_seconds{daemon="TEST_SIBLING"} `} {
		if !strings.Contains(figures, "\n"+want) {
			t.Errorf("the metrics of e1 lack %s", want)
		}
	}
	var all []api.DaemonRow
	for _, n := range r.Nodes() {
		rows, err := daemonRows(t.Context(), n)
		if err != nil {
			t.Fatal(err)
		}
		for name, row := range rows {
			if name == "TEST_STUCK" && n.Name == "e1" {
				continue
			}
			all = append(all, row)
		}
	}
	for _, row := range all {
		if row.State != "RUNNING" || row.Restarts != 0 {
			t.Errorf("%s on %s: %s after %d restarts, %s", row.Name, *row.Node, row.State, row.Restarts, row.LastError)
		}
	}
}
