package leader_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/ringagent/ringagent/leader"
	"github.com/ringagent/ringagent/leader/leadertest"
)

// mute has the next entries that are stored make hold be called.
type mute struct {
	leader.Logs
	armed *atomic.Bool
	hold  func()
}

func (m mute) StoreLogs(l []*raft.Log) error {
	if m.armed.CompareAndSwap(true, false) {
		m.hold()
	}
	return m.Logs.StoreLogs(l)
}

// A follower takes over a snapshot, and the answer to the first entries behind it is lost. The coordinator sends the snapshot
// once more, which the library then has for shorter than the log that it has just cleared.
func TestLostAnswerBehindASnapshot(t *testing.T) {
	t.Parallel()
	var armed atomic.Bool
	hold := func() {}
	o := leadertest.Options{Core: 2, Voters: 1, Config: func(m *leadertest.Member, c *leader.Config) {
		c.Snapshots = leader.Snapshots{Trailing: 1}
		if m.Name == "n2" {
			c.Faults.WrapStore = func(l leader.Logs) leader.Logs { return mute{l, &armed, func() { hold() }} }
		}
	}}
	bubble(t, o, func(t *testing.T, r *leadertest.Ring) {
		lead, late := r.Members[0], r.Members[1]
		settled(t, r, "BEFORE", lead, late)
		r.Kill(late)
		for i := range 10 {
			settled(t, r, fmt.Sprintf("MEANWHILE-%d", i), lead)
		}
		if err := lead.Node.Raft().Snapshot().Error(); err != nil {
			t.Fatal(err)
		}
		hold = func() { r.Net.Hold(late.ID, lead.ID) }
		armed.Store(true)
		r.Start(late)
		r.Wait(time.Minute, "an answer to be lost", func() bool { return !armed.Load() })
		time.Sleep(15 * time.Second) // the call is given up
		r.Net.Heal()
		settled(t, r, "AFTER", lead, late)
	})
}
