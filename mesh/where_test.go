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
