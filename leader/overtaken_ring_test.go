package leader_test

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/ringagent/ringagent/leader"
	"github.com/ringagent/ringagent/leader/leadertest"
)

// waits has a follower's snapshot wait for its copy of the event log.
func waits(t *testing.T, f func(t *testing.T, r *leadertest.Ring, gate *lagging, lead, late *leadertest.Member, taken <-chan error)) {
	gate := &lagging{}
	gate.seq.Store(math.MaxUint64)
	o := leadertest.Options{Core: 2, Voters: 1, Config: func(m *leadertest.Member, c *leader.Config) {
		c.Snapshots = leader.Snapshots{Trailing: 1}
		if m.Name == "n2" {
			c.Ports.Replica = gate
		}
	}}
	bubble(t, o, func(t *testing.T, r *leadertest.Ring) {
		lead, late := r.Members[0], r.Members[1]
		b, _ := (&outbox{origin: "00000000000000a1", node: lead.ID, next: 1}).batch(10)
		if _, err := lead.Node.ProposeEvents(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		settled(t, r, "BEFORE", lead, late)
		gate.seq.Store(0)
		taken := make(chan error, 1)
		library := late.Node.Raft()
		go func() { taken <- library.Snapshot().Error() }()
		time.Sleep(time.Second)
		if len(taken) > 0 {
			t.Fatalf("it did not wait: %v", <-taken)
		}
		f(t, r, gate, lead, late, taken)
	})
}

// While a follower's snapshot waits for its copy of the event log a newer one is taken over. The library may go by the older of
// the two for a while; nothing must be lost by that, and the log must have no hole behind it, at which the next start looks.
func TestSnapshotThatIsOvertakenWhileItWaits(t *testing.T) {
	t.Parallel()
	waits(t, func(t *testing.T, r *leadertest.Ring, gate *lagging, lead, late *leadertest.Member, taken <-chan error) {
		r.Net.Isolate(late.ID, lead.ID)
		for i := range 40 {
			settled(t, r, fmt.Sprintf("MEANWHILE-%d", i), lead)
		}
		if err := lead.Node.Raft().Snapshot().Error(); err != nil {
			t.Fatal(err)
		}
		r.Net.Heal()
		r.Wait(9*time.Second, "the snapshot to be taken over", func() bool {
			_, ok := late.Node.View().Token("MEANWHILE-39")
			return ok
		})
		gate.seq.Store(math.MaxUint64)
		_ = <-taken // as the library wishes
		settled(t, r, "AFTER", lead, late)
		r.Kill(late)
		r.Start(late)
		settled(t, r, "AT-LAST", lead, late)
	})
}

// A seat does not wait for a copy of the event log that will not come.
func TestSeatEndsWhileASnapshotWaits(t *testing.T) {
	t.Parallel()
	waits(t, func(t *testing.T, _ *leadertest.Ring, _ *lagging, _, late *leadertest.Member, taken <-chan error) {
		began := time.Now()
		if err := late.Node.Close(); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("it took %s", took)
		}
		if err := <-taken; err == nil {
			t.Error("a snapshot was taken")
		}
	})
}
