package mesh_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/mesh"
	"github.com/ringagent/ringagent/mesh/meshtest"
)

// shortLived is a ring of two cores and an edge whose certificates live 20 s.
func shortLived(t *testing.T, f func(t *testing.T, r *ring)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRing(t, meshtest.New(3))
		r.life = 20 * time.Second
		defer r.stop()
		r.found()
		r.join(id.Core)
		r.join(id.Edge)
		r.whole(10 * time.Second)
		f(t, r)
	})
}

func TestFiveRenewalsUnderTraffic(t *testing.T) {
	shortLived(t, func(t *testing.T, r *ring) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var received atomic.Int64
		for _, a := range r.nodes {
			for _, b := range r.nodes {
				if a == b {
					continue
				}
				s, err := a.mesh.Stream(ctx, b.id, "test.ticks", nil)
				must(t, err)
				go func() {
					n, err := io.Copy(io.Discard, s)
					if ctx.Err() == nil {
						t.Errorf("stream of %s from %s broke after %d: %v", a.name, b.name, n, err)
					}
				}()
			}
		}
		renewals := make(map[*node]int)
		last := make(map[*node]string)
		for began := time.Now(); time.Since(began) < time.Minute; pass(time.Second) {
			for _, a := range r.nodes {
				leaf := a.mesh.Certificate()
				if s := leaf.SerialNumber.String(); s != last[a] {
					last[a] = s
					renewals[a]++
				}
				if time.Now().After(leaf.NotAfter) {
					t.Fatalf("%s runs on an expired certificate", a.name)
				}
				for _, b := range r.nodes {
					must(t, echo(ctx, a, b))
					received.Add(1)
				}
				// New connections are made under the newest certificate all the time; nobody serves this protocol.
				if a != r.nodes[0] {
					if c, err := a.mesh.Dial(ctx, r.nodes[0].id, mesh.RaftProtocol); !mesh.IsCode(err, mesh.CodeUnavailable) {
						t.Fatalf("new connection: %v, %v", c, err)
					}
				}
			}
		}
		for _, n := range r.nodes {
			if renewals[n] < 6 {
				t.Errorf("%s had %d certificates, want the first and five renewals", n.name, renewals[n])
			}
		}
		cancel()
	})
}

func TestRingThatWasOffLongerThanItsCertificatesLive(t *testing.T) {
	shortLived(t, func(t *testing.T, r *ring) {
		pass(6 * time.Second)
		r.stop()
		pass(29 * 24 * time.Hour)
		for _, n := range r.nodes {
			n.start()
		}
		r.whole(30 * time.Second)
		must(t, echo(t.Context(), r.nodes[2], r.nodes[0]))
	})
}

func TestCertificateThatEndedTooLongAgo(t *testing.T) {
	shortLived(t, func(t *testing.T, r *ring) {
		edge := r.nodes[2]
		r.stop()
		pass(31 * 24 * time.Hour)
		for _, n := range r.nodes {
			n.start()
		}
		r.whole(30*time.Second, r.nodes[:2]...)
		if err := edge.mesh.Renew(t.Context()); err == nil {
			t.Error("a certificate that ended 31 days ago was renewed")
		}
		if s := r.nodes[0].status(edge); s == mesh.Alive {
			t.Errorf("it is %s", s)
		}
	})
}

// shutOut checks what must hold within 2 s after a node was revoked: its streams are closed, and its next call is refused
// by every live node.
func shutOut(ctx context.Context, r *ring, revoked *node, revoke func()) error {
	broken := make(chan error, 4*len(r.nodes))
	streams := 0
	for _, n := range r.nodes {
		if n == revoked {
			continue
		}
		for _, ends := range [][2]*node{{n, revoked}, {revoked, n}} {
			s, err := ends[0].mesh.Stream(ctx, ends[1].id, "test.ticks", nil)
			if err != nil {
				return err
			}
			defer s.Close()
			streams++
			go func() {
				_, err := io.Copy(io.Discard, s)
				broken <- err
			}()
		}
	}
	pass(time.Second)
	revoke()
	late := time.After(2 * time.Second)
	for range streams {
		select {
		case <-broken:
		case <-late:
			return errors.New("a stream of the revoked node is still open")
		}
	}
	for _, n := range r.nodes {
		if n == revoked {
			continue
		}
		short, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		if err := echo(short, revoked, n); !mesh.IsCode(err, mesh.CodeRevoked) {
			return fmt.Errorf("%s answered the revoked node with %w", n.name, errOrNil(err))
		}
		if err := echo(short, n, revoked); !mesh.IsCode(err, mesh.CodeRevoked) {
			return fmt.Errorf("%s still calls the revoked node: %w", n.name, errOrNil(err))
		}
		if n.status(revoked) == mesh.Alive {
			return fmt.Errorf("%s lists the revoked node", n.name)
		}
	}
	return nil
}

func errOrNil(err error) error {
	if err == nil {
		return errors.New("no error")
	}
	return err
}

// trusting is a roster without revocations: what would be if certificates alone admitted.
type trusting struct{ *state }

func (s trusting) Lookup(n id.Node) (mesh.Entry, bool) {
	e, ok := s.state.Lookup(n)
	e.Revoked = false
	return e, ok
}

func TestRevokedNodeIsShutOut(t *testing.T) {
	run := func(t *testing.T, broken bool) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			r := newRing(t, meshtest.New(5))
			defer r.stop()
			if broken {
				r.tweak = func(c *mesh.Config) { c.Roster = trusting{r.state} }
			}
			r.found()
			r.join(id.Core)
			r.join(id.Edge)
			r.whole(10 * time.Second)
			victim := r.nodes[2]
			err := shutOut(t.Context(), r, victim, func() {
				r.state.revoke(victim.id)
				for _, n := range r.nodes[:2] {
					if !broken {
						n.mesh.Revoke(victim.id)
					}
				}
			})
			if broken {
				if err == nil {
					t.Error("the check does not notice that a revoked node is let in")
				}
				return
			}
			must(t, err)
			// It cannot renew, and after a restart it is still out: nobody takes it, and gossip does not bring it back.
			victim.stop()
			if err := victim.tryStart(); !mesh.IsCode(err, mesh.CodeRevoked) {
				t.Errorf("a node that knows that it was revoked starts: %v", err)
			}
			victim.blind = true
			victim.start()
			pass(time.Minute)
			if err := victim.mesh.Renew(t.Context()); !mesh.IsCode(err, mesh.CodeRevoked) {
				t.Errorf("renewal of a revoked node: %v", err)
			}
			for _, n := range r.nodes[:2] {
				if s := n.status(victim); s != "" {
					t.Errorf("%s lists it as %s", n.name, s)
				}
			}
		})
	}
	t.Run("as built", func(t *testing.T) { run(t, false) })
	t.Run("broken: roster not asked", func(t *testing.T) { run(t, true) })
}

// TestRevocationFoundInTheRoster is the same without being told: the node's roster changed while it was off.
func TestRevocationFoundInTheRoster(t *testing.T) {
	bubble(t, 3, func(t *testing.T, r *ring) {
		victim := r.nodes[2]
		victim.stop()
		r.state.revoke(victim.id)
		victim.blind = true
		victim.start()
		pass(30 * time.Second)
		for _, n := range r.nodes[:2] {
			if err := echo(t.Context(), victim, n); !mesh.IsCode(err, mesh.CodeRevoked) {
				t.Errorf("call of a revoked node: %v", err)
			}
			if n.status(victim) == mesh.Alive {
				t.Errorf("%s lists the revoked node", n.name)
			}
		}
	})
}

func TestCertificateFollowsTheAdvertisedHost(t *testing.T) {
	timed(t, func(t *testing.T, r *ring) {
		edge := r.nodes[2]
		edge.stop()
		r.tweak = func(c *mesh.Config) { c.Advertise = []string{"gpu7.example:8770", edge.addr} }
		edge.start()
		eventually(t, 30*time.Second, func() error {
			return edge.mesh.Certificate().VerifyHostname("gpu7.example")
		})
		serial := edge.mesh.Certificate().SerialNumber
		pass(time.Hour)
		if edge.mesh.Certificate().SerialNumber.Cmp(serial) != 0 {
			t.Error("it was renewed again")
		}
	})
}
