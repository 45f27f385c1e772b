package mesh_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/mesh"
	"github.com/ringagent/ringagent/mesh/meshtest"
)

// bubble runs f with a ring of cores in a synctest bubble, all of them joined.
func bubble(t *testing.T, cores int, f func(t *testing.T, r *ring)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRing(t, meshtest.New(uint64(cores)))
		defer r.stop()
		r.found()
		for range cores - 1 {
			r.join(id.Core)
		}
		r.whole(10 * time.Second)
		f(t, r)
	})
}

func TestKilledNodeIsSuspectedThenFailed(t *testing.T) {
	bubble(t, 5, func(t *testing.T, r *ring) {
		victim := r.nodes[3]
		changed := r.nodes[0].mesh.Changes()
		victim.stop()
		began := time.Now()
		eventually(t, 6*time.Second, func() error {
			for _, n := range r.nodes[:3] {
				if n.status(victim) == mesh.Suspect {
					return nil
				}
			}
			return fmt.Errorf("nobody suspects %s", victim.name)
		})
		for _, n := range append(r.nodes[:3:3], r.nodes[4]) {
			// A probe of each of four peers, a second each, and the shortest suspicion of four seconds; with spare.
			n.sees(victim, 15*time.Second-time.Since(began), mesh.Failed)
		}
		t.Logf("failed everywhere after %s", time.Since(began))
		select {
		case <-changed:
		default:
			t.Error("no change was announced")
		}
		// The same identity with a new boot is a full member again by itself.
		old := victim.boot
		victim.start()
		r.whole(10 * time.Second)
		for _, m := range r.nodes[0].mesh.Members() {
			if m.ID == victim.id && (m.Boot != victim.boot || m.Boot == old || m.Name != victim.name || m.Address != victim.addr) {
				t.Errorf("came back as %+v", m)
			}
		}
	})
}

func TestLeavingNodeHasLeft(t *testing.T) {
	bubble(t, 4, func(t *testing.T, r *ring) {
		gone := r.nodes[2]
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		must(t, gone.mesh.Leave(ctx))
		gone.stop()
		if err := gone.mesh.Leave(ctx); err == nil { // and no panic
			t.Error("it left once more after its end")
		}
		for _, n := range []*node{r.nodes[0], r.nodes[1], r.nodes[3]} {
			n.sees(gone, 5*time.Second, mesh.Left)
		}
		pass(time.Minute)
		for _, n := range []*node{r.nodes[0], r.nodes[1], r.nodes[3]} {
			n.sees(gone, time.Second, mesh.Left)
		}
		gone.start()
		r.whole(20 * time.Second)
	})
}

func TestOneWayPartitionHeals(t *testing.T) {
	bubble(t, 5, func(t *testing.T, r *ring) {
		a, b := r.nodes[1], r.nodes[2]
		r.net.Block(a.host, b.host)
		// The others still reach both, so nobody is declared dead for good, and nobody else is drawn in.
		pass(30 * time.Second)
		for _, n := range []*node{r.nodes[0], r.nodes[3], r.nodes[4]} {
			for _, m := range []*node{r.nodes[0], r.nodes[3], r.nodes[4]} {
				n.sees(m, time.Second, mesh.Alive)
			}
			n.sees(a, 10*time.Second, mesh.Alive)
			n.sees(b, 10*time.Second, mesh.Alive)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if err := echo(ctx, a, b); !mesh.IsCode(err, mesh.CodeTimeout, mesh.CodeUnavailable) {
			t.Errorf("a call through a one-way partition gave %v", err)
		}
		must(t, echo(t.Context(), r.nodes[0], a))
		must(t, echo(t.Context(), r.nodes[0], b))
		r.net.Heal()
		r.whole(20 * time.Second)
		eventually(t, 20*time.Second, func() error {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			return echo(ctx, a, b)
		})
	})
}

func TestLongPartitionHeals(t *testing.T) {
	bubble(t, 5, func(t *testing.T, r *ring) {
		left, right := r.nodes[:2], r.nodes[2:]
		r.net.Partition(hosts(left), hosts(right))
		for _, a := range left {
			for _, b := range right {
				a.sees(b, 30*time.Second, mesh.Failed)
				b.sees(a, 30*time.Second, mesh.Failed)
			}
		}
		r.whole(time.Second, left...)
		r.whole(time.Second, right...)
		// memberlist itself gives the dead up after 30 s.
		pass(5 * time.Minute)
		r.net.Heal()
		// The longest pause between two calls of an absent peer, with its jitter.
		r.whole(time.Minute)
	})
}

func TestNewAddressIsNoConflict(t *testing.T) {
	bubble(t, 4, func(t *testing.T, r *ring) {
		moved := r.nodes[2]
		// The address changes under the running agent: its old connections pass nothing any more.
		moved.host.Move("10.0.1.7")
		began := time.Now()
		r.whole(time.Minute)
		eventually(t, 30*time.Second, func() error {
			for _, n := range r.nodes {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				if err := echo(ctx, moved, n); err != nil {
					return err
				}
				if err := echo(ctx, n, moved); err != nil {
					return err
				}
			}
			return nil
		})
		t.Logf("reached both ways at the new address after %s", time.Since(began))
		pass(30 * time.Second)
		r.whole(10 * time.Second)
		// And a restart at yet another address.
		moved.stop()
		moved.host = r.net.Host("10.0.1.8")
		moved.addr = "10.0.1.8:8770"
		moved.start()
		r.whole(20 * time.Second)
		if moved.didRefuse(mesh.CodeDuplicate) {
			t.Error("a node that moved was taken for a double")
		}
	})
}

func TestSecondMachineWithOneIdentityIsRefused(t *testing.T) {
	bubble(t, 4, func(t *testing.T, r *ring) {
		original := r.nodes[2]
		must(t, original.mesh.UpdateMeta(func(m *mesh.Meta) { m.Health = "HEALTHY" }))
		double := &node{ring: r, name: original.name, dir: t.TempDir(), id: original.id}
		double.host = r.net.Host("10.0.9.9")
		double.addr = "10.0.9.9:8770"
		must(t, os.CopyFS(double.dir, os.DirFS(original.dir)))
		double.start()
		defer double.stop()
		eventually(t, 20*time.Second, func() error {
			if double.didRefuse(mesh.CodeDuplicate) {
				return nil
			}
			return fmt.Errorf("the double was not refused")
		})
		pass(time.Minute)
		for _, n := range r.nodes {
			n.sees(original, 10*time.Second, mesh.Alive)
		}
		must(t, echo(t.Context(), r.nodes[0], original))
		must(t, echo(t.Context(), original, r.nodes[0]))
	})
}

func TestWholeRingRestartsFromItsMemory(t *testing.T) {
	bubble(t, 4, func(t *testing.T, r *ring) {
		pass(10 * time.Second) // addresses are saved a little later
		r.stop()
		for _, n := range r.nodes {
			if _, err := os.Stat(filepath.Join(n.dir, mesh.FilePeers)); err != nil {
				t.Error(err)
			}
		}
		// The roster forgets where everybody is: only peers.json tells.
		for _, n := range r.state.Nodes() {
			e, _ := r.state.Lookup(n)
			e.Addresses = nil
			r.state.set(n, e)
		}
		for _, n := range r.nodes {
			n.start()
		}
		r.whole(15 * time.Second)
	})
}

func TestMetaSpreads(t *testing.T) {
	bubble(t, 4, func(t *testing.T, r *ring) {
		must(t, r.nodes[1].mesh.UpdateMeta(func(m *mesh.Meta) { m.Voter, m.HTTP, m.Protocol = true, "10.0.0.2:8770", 3 }))
		eventually(t, 10*time.Second, func() error {
			for _, n := range r.nodes {
				for _, m := range n.mesh.Members() {
					if m.ID == r.nodes[1].id && (!m.Meta.Voter || m.Meta.Protocol != 3 || m.Class != id.Core) {
						return fmt.Errorf("%s has %+v", n.name, m)
					}
				}
			}
			return nil
		})
	})
}

func TestLossyLinksDoNotKill(t *testing.T) {
	bubble(t, 8, func(t *testing.T, r *ring) {
		for i, a := range r.nodes {
			for j, b := range r.nodes {
				if i != j {
					r.net.Delay(a.host, b.host, 40*time.Millisecond)
					r.net.Drop(a.host, b.host, 0.05)
				}
			}
		}
		for range 60 {
			pass(time.Second)
			for _, a := range r.nodes {
				for _, b := range r.nodes {
					if s := a.status(b); s == mesh.Failed {
						t.Fatalf("%s sees %s as %s", a.name, b.name, s)
					}
				}
			}
		}
	})
}

func hosts(nodes []*node) []*meshtest.Host {
	out := make([]*meshtest.Host, len(nodes))
	for i, n := range nodes {
		out[i] = n.host
	}
	return out
}
