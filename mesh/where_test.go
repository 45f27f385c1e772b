package mesh_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/mesh"
	"github.com/ringagent/ringagent/mesh/meshtest"
)

// TestNodesThatAdvertiseNothingFindEachOther: all came in through one seed, and each knows only its address. When the seed
// dies, the others must still be a ring.
func TestNodesThatAdvertiseNothingFindEachOther(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRing(t, meshtest.New(9))
		defer r.stop()
		r.tweak = func(c *mesh.Config) { c.Advertise = nil }
		r.found()
		for _, class := range []id.Class{id.Core, id.Core, id.Edge} {
			n := r.join(class)
			e, _ := r.state.Lookup(n.id)
			e.Addresses = nil
			r.state.set(n.id, e)
		}
		r.whole(10 * time.Second)
		pass(20 * time.Second)
		seed, rest := r.nodes[0], r.nodes[1:]
		r.nodes = rest
		seed.stop()
		r.reached(t, 10*time.Second)
		pass(time.Minute)
		r.whole(time.Second)

		// One moves while another is off, and neither finds the other again by what it knew.
		away, moved := rest[2], rest[0]
		away.stop()
		pass(10 * time.Second)
		moved.host.Move("10.0.1.7")
		pass(2 * time.Minute)
		away.host.Move("10.0.1.8")
		away.addr = "10.0.1.8:8770"
		away.start()
		r.whole(2 * time.Minute)
		r.reached(t, time.Minute)
		for _, n := range rest {
			for _, m := range n.mesh.Members() {
				if m.ID != n.id && m.ID != seed.id && m.Address == "" {
					t.Errorf("%s does not know where %s is", n.name, m.ID)
				}
			}
		}
	})
}

// TestWhereKeepsLoopbackToItself: what is reached on loopback is nowhere for another machine.
func TestWhereKeepsLoopbackToItself(t *testing.T) {
	bubble(t, 3, func(t *testing.T, r *ring) {
		asked, about := r.nodes[0], r.nodes[2]
		asked.mesh.AddAddress(about.id, "127.0.0.1:8770")
		asked.mesh.AddAddress(about.id, "localhost:8770")
		var answer struct{ Addresses map[id.Node][]string }
		ask := map[string]any{"nodes": []id.Node{about.id, asked.id, id.NewNode()}}
		must(t, r.nodes[1].mesh.Call(t.Context(), asked.id, "mesh.where", ask, &answer))
		if got := answer.Addresses; len(got) != 1 || len(got[about.id]) != 1 || got[about.id][0] != about.addr {
			t.Errorf("told %v, want %s of %s alone", got, about.addr, about.id)
		}
		r.state.revoke(about.id)
		answer.Addresses = nil
		must(t, r.nodes[1].mesh.Call(t.Context(), asked.id, "mesh.where", ask, &answer))
		if len(answer.Addresses) != 0 {
			t.Errorf("told %v of a revoked node", answer.Addresses)
		}
	})
}
