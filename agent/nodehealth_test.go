package agent_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ringagent/ringagent/agent/agenttest"
	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/daemons"
	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/internal/ring"
)

// sampledHost is a machine of which everything is well but the disk, once it is full.
type sampledHost struct {
	kit.Host
	full *atomic.Bool
}

func (h sampledHost) Sample(context.Context) kit.Sample {
	used, fsync := 40.0, 0.01
	if h.full.Load() {
		used = 99
	}
	return kit.Sample{At: time.Now().UTC(), DiskPercent: &used, FsyncSeconds: &fsync}
}

// A node judges itself, and the others show its verdict with the reasons: the full disk of one node is seen from another,
// is told once, and is over when there is space again. Nobody else is thought ill meanwhile.
func TestFullDiskIsSeenFromAnotherNode(t *testing.T) {
	t.Parallel()
	var full, never atomic.Bool
	monitor, _ := daemons.ByName("NODE_HEALTH_MONITOR")
	whole := monitor.New
	monitor.New = func(env kit.Env) (kit.Daemon, error) {
		disk := &never
		if env.Self.Name == "e1" {
			disk = &full
		}
		env.Host = sampledHost{env.Host, disk}
		return whole(env)
	}
	r := agenttest.Start(t, agenttest.Options{Core: 1, Edge: 1, Specs: base(monitor), Settings: func(s *ring.Settings) {
		s.Daemons = map[string]json.RawMessage{"NODE_HEALTH_MONITOR": json.RawMessage(`{"every":"1s"}`)}
	}})
	shown := func(verdict string, reasons ...string) {
		t.Helper()
		r.Until("e1 shown as "+verdict, func(ctx context.Context) error {
			var ms api.Members
			if err := r.Node("c1").Client().Get(ctx, "/api/v1/members", nil, &ms); err != nil {
				return err
			}
			for _, m := range ms.Members {
				got := "unknown"
				if m.Health != nil {
					got = *m.Health
				}
				switch m.Name {
				case "e1":
					if got != verdict || !slices.Equal(m.HealthReasons, reasons) {
						return fmt.Errorf("e1 is %s for %q", got, m.HealthReasons)
					}
				default:
					if got == "UNHEALTHY" {
						t.Fatalf("%s is %s for %q", m.Name, got, m.HealthReasons)
					}
				}
			}
			return nil
		})
	}
	told := func(unhealthy, recovered int) {
		t.Helper()
		r.Until("the change told", func(ctx context.Context) error {
			for eventType, want := range map[string]int{"NODE_UNHEALTHY": unhealthy, "NODE_RECOVERED": recovered} {
				ls, err := lines(ctx, r.Node("c1"), eventType)
				if err != nil {
					return err
				}
				if len(ls) > want {
					t.Fatalf("%s told %d times, want %d", eventType, len(ls), want)
				}
				if len(ls) < want {
					return fmt.Errorf("%s told %d times, want %d", eventType, len(ls), want)
				}
			}
			return nil
		})
	}
	shown("HEALTHY")
	told(0, 0)
	full.Store(true)
	shown("UNHEALTHY", "disk is 99% full")
	told(1, 0)
	full.Store(false)
	shown("HEALTHY")
	told(1, 1)
}
