package leader_test

import (
	"fmt"
	"math"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/leader"
	"github.com/ringagent/ringagent/leader/leadertest"
)

// cleared has hold be called when entries are removed next.
type cleared struct {
	leader.Logs
	armed *atomic.Bool
	hold  func()
}

func (c cleared) DeleteRange(lo, hi uint64) error {
	if c.armed.CompareAndSwap(true, false) {
		c.hold()
	}
	return c.Logs.DeleteRange(lo, hi)
}

// A node that has taken over a snapshot, and nothing since, answers a recovery with the snapshot's end: not with the end of the log
// that was cleared for it, also where that is of an earlier term or an older snapshot of its own was late.
func TestRecoveryRegardsASnapshotThatWasTakenOver(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name        string
		late, again bool // an older snapshot waits; the coordinator starts again
	}{{name: "as it was"}, {name: "an older one is late", late: true}, {name: "another term", again: true}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			gate := &lagging{}
			gate.seq.Store(math.MaxUint64)
			var armed atomic.Bool
			hold := func() {}
			o := leadertest.Options{Core: 3, Voters: 1, Config: func(m *leadertest.Member, c *leader.Config) {
				c.Snapshots = leader.Snapshots{Trailing: 1}
				if m.Name == "n2" {
					c.Ports.Replica = gate
					c.Faults.WrapStore = func(l leader.Logs) leader.Logs { return cleared{l, &armed, func() { hold() }} }
				}
			}}
			bubble(t, o, func(t *testing.T, r *leadertest.Ring) {
				lead, ahead, behind := r.Members[0], r.Members[1], r.Members[2]
				b, _ := (&outbox{origin: "00000000000000a1", node: lead.ID, next: 1}).batch(10)
				if _, err := lead.Node.ProposeEvents(t.Context(), b); err != nil {
					t.Fatal(err)
				}
				settled(t, r, "BEFORE", r.Members...)
				taken := make(chan error, 1)
				if c.late {
					gate.seq.Store(0)
					library := ahead.Node.Raft()
					go func() { taken <- library.Snapshot().Error() }()
					time.Sleep(time.Second)
				}
				r.Net.Isolate(ahead.ID, lead.ID)
				if c.again {
					r.Kill(lead)
					r.Start(lead)
				}
				for i := range 20 {
					settled(t, r, fmt.Sprintf("MEANWHILE-%d", i), lead, behind)
				}
				r.Net.Isolate(behind.ID, lead.ID)
				for i := range 20 {
					settled(t, r, fmt.Sprintf("LATER-%d", i), lead)
				}
				if err := lead.Node.Raft().Snapshot().Error(); err != nil {
					t.Fatal(err)
				}
				hold = func() { r.Net.Isolate(ahead.ID, lead.ID) }
				armed.Store(true)
				r.Net.Release(ahead.ID, lead.ID)
				r.Net.Release(lead.ID, ahead.ID)
				r.Wait(9*time.Second, "the snapshot to be taken over", func() bool {
					_, ok := ahead.Node.View().Token("LATER-19")
					return ok && !armed.Load()
				})
				r.Kill(lead)
				if c.late {
					gate.seq.Store(math.MaxUint64)
					_ = <-taken // as the library wishes
				}
				time.Sleep(8 * time.Second) // who coordinated is forgotten
				if _, err := behind.Node.Recover(t.Context(), []id.Node{lead.ID}); err == nil {
					t.Error("it was recovered without what another node has")
				}
				if _, err := ahead.Node.Recover(t.Context(), []id.Node{lead.ID}); err != nil {
					t.Error(err)
				}
			})
		})
	}
}
