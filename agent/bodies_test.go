package agent_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/ringagent/ringagent/agent/agenttest"
	"github.com/ringagent/ringagent/daemons"
	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/deploy/workloads"
	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// bodiesChecks are named checks of a ring, one per daemon and more for the parts that serve others. Each must hold in a ring
// of real daemons, and fail in one whose daemons have lost their bodies. P2P_BACKEND's own is TestMovedSiteComesBackByItsSeeds.
type bodyCheck struct {
	name string
	ok   func(ctx context.Context, r *agenttest.Ring, heard *book) error
}

func bodyChecks() []bodyCheck {
	var out []bodyCheck
	for _, s := range daemons.All() {
		if s.AliasOf != "" {
			continue
		}
		out = append(out, bodyCheck{"progress of " + s.Name, func(ctx context.Context, r *agenttest.Ring, _ *book) error {
			for _, n := range r.Nodes() {
				rows, err := daemonRows(ctx, n)
				if err != nil {
					return err
				}
				if row := rows[s.Name]; row.State == "RUNNING" && row.LastProgressSeconds != nil {
					return nil
				}
			}
			return errors.New("it runs nowhere with progress")
		}})
	}
	return append(out,
		bodyCheck{"EVENT_ROUTER delivers", func(_ context.Context, _ *agenttest.Ring, heard *book) error {
			if len(heard.list()) == 0 {
				return errors.New("nothing delivered")
			}
			return nil
		}},
		bodyCheck{"CROSS_PROCESS_POLLER takes an event", func(ctx context.Context, r *agenttest.Ring, _ *book) error {
			_, err := note(ctx, r.Node("c1"), "hello", false)
			return err
		}},
		bodyCheck{"HEALTH_SERVER answers a probe", func(ctx context.Context, r *agenttest.Ring, _ *book) error {
			return probe(ctx, r.Node("c1"))
		}},
	)
}

func TestEveryBodyIsMissed(t *testing.T) {
	t.Parallel()
	t.Run("whole", func(t *testing.T) {
		t.Parallel()
		r, heard := bodyRing(t, func(s kit.Spec) kit.Spec { return s })
		for _, c := range bodyChecks() {
			r.Until(c.name, func(ctx context.Context) error { return c.ok(ctx, r, heard) })
		}
	})
	t.Run("idle", func(t *testing.T) {
		t.Parallel()
		r, heard := bodyRing(t, func(s kit.Spec) kit.Spec {
			if s.AliasOf == "" {
				s.New = idleBody
			}
			return s
		})
		// Idle bodies are RUNNING: only then do the checks say something.
		r.Until("idle bodies to run", func(ctx context.Context) error {
			rows, err := daemonRows(ctx, r.Node("c1"))
			if err == nil && (rows["EVENT_ROUTER"].State != "RUNNING" || rows["AUTO_PROMOTION"].State != "RUNNING") {
				err = fmt.Errorf("%s, %s", rows["EVENT_ROUTER"].State, rows["AUTO_PROMOTION"].State)
			}
			return err
		})
		for _, c := range bodyChecks() {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			if err := c.ok(ctx, r, heard); err == nil {
				t.Errorf("%s: holds without the body", c.name)
			}
			cancel()
		}
	})
}

// A site gets other addresses while all is off, and each node remembers where the others were. The edge node finds them by the seeds
// of its config, which P2P_BACKEND alone calls: without its body the node stays alone.
func TestMovedSiteComesBackByItsSeeds(t *testing.T) {
	t.Parallel()
	for name, idle := range map[string]bool{"whole": false, "broken: P2P_BACKEND without its body": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			specs := base()
			for i, s := range specs {
				if s.Name == "P2P_BACKEND" && idle {
					specs[i].New = idleBody
				}
			}
			calls := &callBook{by: "e1"}
			r := agenttest.Start(t, agenttest.Options{Edge: 1, Specs: specs, Agent: calls.watch})
			c1, e1 := r.Node("c1"), r.Node("e1")
			e1.Stop()
			c1.Stop()
			former := c1.Address
			for i, n := range r.Nodes() {
				ip := fmt.Sprintf("127.0.8.%d", i+1)
				n.Host, n.Address = r.Net.Host(ip), ip+":8770"
			}
			c1.Start()
			e1.Start()
			if !idle {
				r.Settled()
				mustNote(t, r, e1, "here")
				return
			}
			calls.until(r, former, 60)
			if n := calls.calls(c1.Address); n > 0 {
				t.Errorf("%d calls of the seed without the body: the test shows nothing", n)
			}
		})
	}
}

func idleBody(kit.Env) (kit.Daemon, error) {
	return kit.Run(func(ctx context.Context) error {
		<-ctx.Done()
		return nil
	}), nil
}

// bodyRing is a ring with the whole registry and a workload, and with a subscriber to hear the ring's own events.
func bodyRing(t *testing.T, change func(kit.Spec) kit.Spec) (*agenttest.Ring, *book) {
	heard := &book{}
	var specs []kit.Spec
	for _, s := range daemons.All() {
		specs = append(specs, change(s))
	}
	specs = append(specs, everywhere("TEST_EAR", func(ctx context.Context, env kit.Env) error {
		return env.Events.Consume(ctx, kit.Consumer{Types: []event.Type{"LEADER_ELECTED", "HOST_ONLINE", "OPERATOR_NOTE"},
			Handle: func(_ context.Context, r event.Record) error {
				heard.add("%s", r.Type)
				return nil
			}})
	}))
	return agenttest.Start(t, agenttest.Options{Core: 1, Edge: 1, Specs: specs, Settings: func(s *ring.Settings) {
		s.Workload, s.Configs, s.Daemons = workloads.Connect4, []id.Config{"connect4_2p"}, daemons.DevOverlay()
	}}), heard
}

// probe asks a node's port in the clear, from the same machine, as a load balancer would.
func probe(ctx context.Context, n *agenttest.Node) error {
	status, _, err := ask(ctx, n, "/healthz")
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("answered %d", status)
	}
	return err
}

// ask is a question on the ring's own port, as anybody on loopback puts it.
func ask(ctx context.Context, n *agenttest.Node, path string) (status int, body string, err error) {
	c, err := n.Host.Dial(ctx, n.Address)
	if err != nil {
		return 0, "", err
	}
	defer c.Close()
	deadline, _ := ctx.Deadline()
	_ = c.SetDeadline(deadline)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost"+path, nil)
	if err != nil {
		return 0, "", err
	}
	if err := req.Write(c); err != nil {
		return 0, "", err
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}
