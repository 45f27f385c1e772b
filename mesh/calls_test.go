package mesh_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/mesh"
	"github.com/ringagent/ringagent/mesh/meshtest"
)

func TestClassTable(t *testing.T) {
	bubble(t, 2, func(t *testing.T, r *ring) {
		edge := r.join(id.Edge)
		server := r.nodes[0]
		methods := server.mesh.Methods()
		if len(methods) < 8 {
			t.Fatalf("only %d methods", len(methods))
		}
		callers := map[id.Class]*node{id.Core: r.nodes[1], id.Edge: edge}
		for _, m := range methods {
			for class, caller := range callers {
				ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
				var err error
				if m.Stream {
					s, e := caller.mesh.Stream(ctx, server.id, m.Name, map[string]int{"N": 1})
					if err = e; e == nil {
						_ = s.Close()
					}
				} else {
					_, err = caller.mesh.CallRaw(ctx, server.id, m.Name, []byte("{}"))
				}
				cancel()
				refused := mesh.IsCode(err, mesh.CodeUnauthorised)
				if refused == m.Allowed.Allows(class) {
					t.Errorf("%s called by %s: %v, allowed for %s", m.Name, class, err, m.Allowed)
				}
			}
		}
		for _, name := range []string{"test.unknown", "", "TEST.ECHO", "test.echo/../test.core"} {
			if _, err := callers[id.Core].mesh.CallRaw(t.Context(), server.id, name, nil); !mesh.IsCode(err, mesh.CodeRefused) {
				t.Errorf("unknown method %q: %v", name, err)
			}
		}
		if mesh.ClassSet(0).Allows(id.Core) || mesh.Everybody.Allows("") || mesh.Everybody.Allows("root") {
			t.Error("the table does not deny by default")
		}
	})
}

func TestSlowPeerDoesNotBlockOthers(t *testing.T) {
	bubble(t, 4, func(t *testing.T, r *ring) {
		a, slow := r.nodes[0], r.nodes[3]
		must(t, echo(t.Context(), a, slow))
		r.net.Partition(hosts([]*node{a}), hosts([]*node{slow}))
		hanging := make(chan error, 40)
		for range cap(hanging) {
			go func() {
				ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
				defer cancel()
				_, err := a.mesh.CallRaw(ctx, slow.id, "test.raw", make([]byte, 1<<20))
				hanging <- err
			}()
		}
		began := time.Now()
		for range 100 {
			must(t, echo(t.Context(), a, r.nodes[1]))
			must(t, echo(t.Context(), a, r.nodes[2]))
		}
		if took := time.Since(began); took > 0 {
			t.Errorf("calls to others waited %s", took)
		}
		for range cap(hanging) {
			if err := <-hanging; !mesh.IsCode(err, mesh.CodeTimeout, mesh.CodeUnavailable) {
				t.Errorf("call to the slow peer: %v", err)
			}
		}
		// And the path that died is replaced as soon as there is one again.
		r.net.Heal()
		eventually(t, 15*time.Second, func() error {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			return echo(ctx, a, slow)
		})
	})
}

func TestGenerationTravelsBothWays(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRing(t, meshtest.New(2))
		defer r.stop()
		var generations [2]atomic.Uint64
		next := 0
		r.tweak = func(c *mesh.Config) {
			own := &generations[next]
			next++
			c.Hooks.Generation = own.Load
			c.Hooks.Seen = func(p mesh.Peer, g uint64) error {
				if g < own.Load() {
					return mesh.Errorf(mesh.CodeStaleEpoch, "generation %d of %s is over", g, p.Name)
				}
				return nil
			}
		}
		a, b := r.found(), r.join(id.Core)
		must(t, echo(t.Context(), a, b))
		generations[1].Store(2)
		if err := echo(t.Context(), a, b); !mesh.IsCode(err, mesh.CodeStaleEpoch) {
			t.Errorf("call of an older generation: %v", err)
		}
		if err := echo(t.Context(), b, a); !mesh.IsCode(err, mesh.CodeStaleEpoch) {
			t.Errorf("answer of an older generation: %v", err)
		}
		// What teaches the present generation answers those of a former one.
		b.mesh.Handle("test.learn", mesh.Everybody, func(context.Context, *mesh.Request) (any, error) { return "new", nil }, mesh.Former())
		var answer string
		if err := a.mesh.Call(t.Context(), b.id, "test.learn", nil, &answer); err != nil || answer != "new" {
			t.Errorf("learning of a newer generation: %q, %v", answer, err)
		}
		generations[0].Store(2)
		must(t, echo(t.Context(), a, b))
	})
}

func TestRaftAndBlobConnectionsCarryTheirPeer(t *testing.T) {
	t.Parallel()
	r := newRing(t, nil)
	defer r.stop()
	listening := make(chan string, 4)
	a := r.place("n1")
	f, err := mesh.InitRing(mesh.InitOptions{DataDir: a.dir, NodeName: "n1", RingName: "r"})
	must(t, err)
	a.id = f.Node
	f.Entry.Addresses = []string{a.addr}
	r.state.set(f.Node, f.Entry)
	a.start()
	b := r.join(id.Core)
	_ = b
	b.stop()
	// Listeners are registered between Open and Run.
	b.listen = []string{mesh.RaftProtocol, mesh.BlobProtocol}
	b.heard = listening
	b.start()
	for _, protocol := range b.listen {
		c, err := a.mesh.Dial(t.Context(), b.id, protocol)
		must(t, err)
		if _, err := c.Write([]byte("x")); err != nil {
			t.Error(err)
		}
		if got, want := <-listening, fmt.Sprintf("%s %s core", protocol, a.id); got != want {
			t.Errorf("%q, want %q", got, want)
		}
		if p, ok := mesh.PeerOf(c); !ok || p.Node != b.id || p.Boot != b.boot {
			t.Errorf("peer %+v", p)
		}
		_ = c.Close()
	}
	if _, err := a.mesh.Dial(t.Context(), a.id, mesh.RaftProtocol); err == nil {
		t.Error("a node dialled itself")
	}
	if _, err := a.mesh.Dial(t.Context(), id.NewNode(), mesh.RaftProtocol); !mesh.IsCode(err, mesh.CodeUnavailable) {
		t.Errorf("dial of an unknown node: %v", err)
	}
	if _, err := b.mesh.Dial(t.Context(), a.id, mesh.RaftProtocol); !mesh.IsCode(err, mesh.CodeUnavailable) {
		t.Errorf("dial of a protocol that is not served: %v", err)
	}
}
