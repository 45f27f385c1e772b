package agent_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ringagent/ringagent/agent"
	"github.com/ringagent/ringagent/agent/agenttest"
	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// counting is a daemon that says how many games are unsynced; below zero it does not know.
type counting struct{ games *atomic.Int64 }

func (c counting) Run(ctx context.Context) error { <-ctx.Done(); return nil }

func (c counting) Unsynced(context.Context) (map[id.Config]int64, error) {
	n := c.games.Load()
	if n < 0 {
		return nil, errors.New("not now")
	}
	return map[id.Config]int64{"connect4_2p": n}, nil
}

// The node that is asked counts its unsynced games at that moment, others hear of them soon after with the age of the
// reading, and games adds them up by config. Unknown is shown as such.
func TestUnsyncedIsCountedWhenAsked(t *testing.T) {
	t.Parallel()
	var games atomic.Int64
	spec := everywhere("TEST_COUNTER", nil)
	spec.New = func(kit.Env) (kit.Daemon, error) { return counting{&games}, nil }
	r := agenttest.Start(t, agenttest.Options{Core: 2, Edge: 1, Specs: base(spec)})
	shown := func(ctx context.Context, at *agenttest.Node, of string) (*int64, error) {
		var out api.Members
		if err := at.Client().Get(ctx, "/api/v1/members", nil, &out); err != nil {
			return nil, err
		}
		for _, m := range out.Members {
			if m.Name == of {
				if m.UnsyncedGames != nil && m.LastSeenSeconds == nil {
					t.Errorf("%s shows a reading of %s without its age", at.Name, of)
				}
				return m.UnsyncedGames, nil
			}
		}
		return nil, fmt.Errorf("no member %s", of)
	}
	settle := func(n int64) {
		t.Helper()
		games.Store(n)
		for _, at := range r.Nodes() {
			r.Until(at.Name+" knows of all nodes", func(ctx context.Context) error {
				for _, of := range r.Nodes() {
					if u, err := shown(ctx, at, of.Name); err != nil || (u == nil) != (n < 0) || u != nil && *u != n {
						return fmt.Errorf("%s of %s: %v %v", at.Name, of.Name, u, err)
					}
				}
				var out api.Games
				if err := at.Client().Get(ctx, "/api/v1/games", nil, &out); err != nil {
					return err
				}
				if n < 0 && len(out.Configs) == 0 { // nobody has named a config
					return nil
				}
				if u := out.Configs[0].Unsynced; (u == nil) != (n < 0) || u != nil && *u != n*int64(len(r.Nodes())) {
					return fmt.Errorf("games at %s: %+v", at.Name, out)
				}
				return nil
			})
		}
	}
	settle(7)
	for i := range int64(20) {
		games.Store(i)
		for _, n := range r.Nodes() {
			if u, err := shown(t.Context(), n, n.Name); err != nil || u == nil || *u != i {
				t.Fatalf("%s of itself: %v %v, want %d at once", n.Name, u, err, i)
			}
		}
	}
	settle(-1)
}

// hanging is a daemon whose count does not come while it hangs.
type hanging struct {
	counting
	hangs *atomic.Bool
}

func (h hanging) Unsynced(ctx context.Context) (map[id.Config]int64, error) {
	if h.hangs.Load() {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return h.counting.Unsynced(ctx)
}

// A node is alive and says nothing of its games any more. Its last reading is shown with its age, then it is too old to be
// one: what the ring has unsynced is unknown, not what it was, until the node speaks again.
func TestOldReadingOfUnsyncedIsUnknown(t *testing.T) {
	t.Parallel()
	var games atomic.Int64
	var hangs, never atomic.Bool
	games.Store(5)
	spec := everywhere("TEST_COUNTER", nil)
	spec.New = func(env kit.Env) (kit.Daemon, error) {
		if env.Self.Name == "e1" {
			return hanging{counting{&games}, &hangs}, nil
		}
		return hanging{counting{&games}, &never}, nil
	}
	r := agenttest.Start(t, agenttest.Options{Core: 1, Edge: 1, Specs: base(spec), Agent: func(_ string, o *agent.Options) {
		o.Faults.UnsyncedAge = 5 * time.Second // not thirty, which a test would have to sit out
	}})
	c1 := r.Node("c1")
	shown := func(want *int64) {
		t.Helper()
		r.Until("the reading", func(ctx context.Context) error {
			var ms api.Members
			if err := c1.Client().Get(ctx, "/api/v1/members", nil, &ms); err != nil {
				return err
			}
			for _, m := range ms.Members {
				if m.Status != string(ring.Alive) {
					t.Fatalf("%s is %s: a node that answers about everything else is alive", m.Name, m.Status)
				}
				if m.Name == "e1" && (m.UnsyncedGames == nil) != (want == nil) {
					return fmt.Errorf("members show a reading: %t", m.UnsyncedGames != nil)
				}
			}
			var out api.Games
			if err := c1.Client().Get(ctx, "/api/v1/games", nil, &out); err != nil {
				return err
			}
			if len(out.Configs) != 1 {
				return fmt.Errorf("configs %+v", out.Configs)
			}
			if u := out.Configs[0].Unsynced; (u == nil) != (want == nil) || u != nil && *u != *want {
				return fmt.Errorf("games show a sum: %t", u != nil)
			}
			return nil
		})
	}
	both := int64(10)
	shown(&both)
	hangs.Store(true)
	shown(nil)
	hangs.Store(false)
	shown(&both)
}
