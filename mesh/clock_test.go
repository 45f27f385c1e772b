package mesh_test

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/mesh"
	"github.com/ringagent/ringagent/mesh/meshtest"
)

// timed is a ring of two cores and an edge whose machines' wall clocks can be set.
func timed(t *testing.T, f func(t *testing.T, r *ring)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRing(t, meshtest.New(7))
		defer r.stop()
		r.found()
		r.join(id.Core)
		r.join(id.Edge)
		r.whole(10 * time.Second)
		f(t, r)
	})
}

// reached waits until every node can be dialled by all others.
func (r *ring) reached(t *testing.T, within time.Duration) {
	t.Helper()
	eventually(t, within, func() error {
		pass(time.Second) // one address may dial only so often
		for _, a := range r.nodes {
			for _, b := range r.nodes {
				if a == b {
					continue
				}
				// Nobody serves this protocol: who is told so has been admitted.
				if _, err := a.mesh.Dial(t.Context(), b.id, mesh.RaftProtocol); err == nil || !strings.Contains(err.Error(), "not served") {
					return fmt.Errorf("%s dials %s: %w", a.name, b.name, errOrNil(err))
				}
				if err := echo(t.Context(), a, b); err != nil {
					return fmt.Errorf("%s calls %s: %w", a.name, b.name, err)
				}
			}
		}
		return nil
	})
}

// TestClockIsSetBackAfterTheStart is a machine that takes its hardware clock for another time zone's: the agent starts
// before the clock is set, and signs for itself by it.
func TestClockIsSetBackAfterTheStart(t *testing.T) {
	timed(t, func(t *testing.T, r *ring) {
		founder := r.nodes[0]
		founder.stop()
		founder.set(8 * time.Hour)
		founder.start()
		pass(20 * time.Second)
		founder.set(0)
		r.reached(t, 2*time.Minute)
	})
}

// TestClockIsSetForwardAfterTheStart is one whose hardware clock has lost some time, or all.
func TestClockIsSetForwardAfterTheStart(t *testing.T) {
	timed(t, func(t *testing.T, r *ring) {
		for _, back := range []time.Duration{-10 * time.Hour, -20 * 24 * time.Hour, -30 * 365 * 24 * time.Hour} {
			founder := r.nodes[0]
			founder.stop()
			founder.set(back)
			founder.start()
			pass(20 * time.Second)
			founder.set(0)
			r.reached(t, 2*time.Minute)
		}
	})
}

// TestSignerWithAWrongClock is a core node whose clock jumps while it runs: what it signs for others must not take the
// place of what is good, and where it did all the same, it is mended as soon as the clock is.
func TestSignerWithAWrongClock(t *testing.T) {
	timed(t, func(t *testing.T, r *ring) {
		founder, edge := r.nodes[0], r.nodes[2]
		r.nodes[1].stop()
		good := edge.mesh.Certificate()
		founder.set(8 * time.Hour)
		if err := edge.mesh.Renew(t.Context()); err == nil || edge.mesh.Certificate() != good {
			t.Errorf("certificate from the future: %v, taken: %t", err, edge.mesh.Certificate() != good)
		}
		founder.set(-30 * time.Hour)
		if err := edge.mesh.Renew(t.Context()); err == nil || edge.mesh.Certificate() != good {
			t.Errorf("certificate from the past: %v, taken: %t", err, edge.mesh.Certificate() != good)
		}
		founder.set(0)
		must(t, edge.mesh.Renew(t.Context()))
		// Both clocks are wrong for a while.
		founder.set(8 * time.Hour)
		edge.set(8 * time.Hour)
		must(t, edge.mesh.Renew(t.Context()))
		founder.set(0)
		edge.set(0)
		r.nodes[1].start()
		r.reached(t, 2*time.Minute)
	})
}

// TestOwnClockThatLags is an edge node whose clock has fallen behind since its certificate was signed: what one core node signs may
// be by a clock that is ahead, but two that agree are right.
func TestOwnClockThatLags(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRing(t, meshtest.New(7))
		r.life = 24 * time.Minute
		defer r.stop()
		r.found()
		r.join(id.Core)
		r.join(id.Edge)
		r.whole(10 * time.Second)
		pass(12 * time.Minute) // it has renewed, after 7:30 to 10:30
		edge := r.nodes[2]
		edge.set(-12 * time.Minute)
		good := edge.mesh.Certificate()
		r.nodes[1].stop()
		if err := edge.mesh.Renew(t.Context()); err == nil || edge.mesh.Certificate() != good {
			t.Errorf("renewed by one core node alone: %v", err)
		}
		r.nodes[1].start()
		r.whole(time.Minute)
		eventually(t, time.Minute, func() error { // by two that agree
			pass(time.Second)
			return edge.mesh.Renew(t.Context())
		})
		if edge.mesh.Certificate() == good {
			t.Error("the certificate is still the old one")
		}
		// A while later the only core node is ahead, and of the present certificate less than a quarter is left.
		r.nodes[1].stop()
		edge.set(0)
		must(t, edge.mesh.Renew(t.Context()))
		pass(10 * time.Second) // it may be at it by itself, too
		good = edge.mesh.Certificate()
		edge.set(6 * time.Minute)
		r.nodes[0].set(40 * time.Minute)
		if err := edge.mesh.Renew(t.Context()); err == nil || edge.mesh.Certificate() != good {
			t.Errorf("renewed although there is time: %v", err)
		}
		edge.set(19 * time.Minute)
		if err := edge.mesh.Renew(t.Context()); err != nil || edge.mesh.Certificate() == good {
			t.Errorf("not renewed in the end: %v", err)
		}
	})
}

// counting is a host that counts its dials.
type counting struct {
	mesh.Network
	dials *atomic.Int64
}

func (c counting) Dial(ctx context.Context, address string) (net.Conn, error) {
	c.dials.Add(1)
	return c.Network.Dial(ctx, address)
}

// TestNewCertificatesThatLookOld is a node whose clock is so far ahead that every certificate is past its half when it
// comes: it must not ask for the next one at once, and again.
func TestNewCertificatesThatLookOld(t *testing.T) {
	timed(t, func(t *testing.T, r *ring) {
		var dials atomic.Int64
		edge := r.nodes[2]
		edge.stop()
		r.tweak = func(c *mesh.Config) { c.Network = counting{c.Network, &dials} }
		edge.start()
		pass(time.Minute)
		before := dials.Load()
		edge.set(14 * time.Hour)
		pass(5 * time.Minute)
		if n := dials.Load() - before; n < 4 || n > 20 {
			t.Errorf("%d dials in 5 min, want one every minute or so", n)
		}
		edge.set(0)
		r.reached(t, 2*time.Minute)
	})
}
