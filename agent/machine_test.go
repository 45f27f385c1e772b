package agent_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ringagent/ringagent/agent"
	"github.com/ringagent/ringagent/agent/agenttest"
	"github.com/ringagent/ringagent/agent/config"
	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/internal/id"
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

// A node that saw no coordinator for long makes known at once what it has, however much that is.
func TestThousandsOfPacksAreMadeKnown(t *testing.T) {
	t.Parallel()
	envs := make(chan kit.Env, 1)
	agenttest.Start(t, agenttest.Options{
		Specs: base(singleton("TEST_LOOKS", func(ctx context.Context, env kit.Env) error {
			select {
			case envs <- env:
			default:
			}
			<-ctx.Done()
			return nil
		})),
	})
	env := <-envs
	var packs []ring.Artifact
	var digests []id.Digest
	for i := range 3000 {
		d := id.DigestOf([]byte(fmt.Sprint(i)))
		digests = append(digests, d)
		packs = append(packs, ring.Artifact{Digest: d, Kind: ring.KindPack, Config: "connect4_2p", Bytes: 1, Origin: env.Self.ID, Holders: []id.Node{env.Self.ID}, Counters: map[string]int64{"games": 1},
			Created: time.Now().UTC()})
	}
	if err := env.Effects.AddArtifacts(t.Context(), packs...); err != nil {
		t.Fatal(err)
	}
	if err := env.Effects.AddReceipts(t.Context(), digests...); err != nil {
		t.Fatal(err)
	}
	v, err := env.View.Current(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range digests {
		if _, ok := v.Library.Artifact(d); !ok { // its receipt is taken back soon: there are no bytes
			t.Fatalf("%s is not known", d)
		}
	}
}
