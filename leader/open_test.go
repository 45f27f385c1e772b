package leader_test

import (
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/ringagent/ringagent/leader/leadertest"
)

// A node that is open elects itself where it is the only voter. It must not place anything before Run: whoever takes the
// records may not be there yet.
func TestNothingIsProposedBeforeRun(t *testing.T) {
	t.Parallel()
	var hold chan struct{}
	wait := func(*leadertest.Member) {
		if hold != nil {
			<-hold
		}
	}
	bubble(t, leadertest.Options{Core: 1, Voters: 1, BeforeRun: wait}, func(t *testing.T, r *leadertest.Ring) {
		m := r.Members[0]
		before := m.Node.View().LogHead().Seq
		r.Stop(m)
		hold = make(chan struct{})
		r.Start(m)
		r.Wait(20*time.Second, "the only voter to elect itself", func() bool { return m.Node.Raft().State() == raft.Leader })
		time.Sleep(5 * time.Second)
		if head := m.Node.View().LogHead().Seq; head > before || m.Node.Coordinates() {
			t.Errorf("before Run the log reaches to %d, not %d; coordinates: %v", head, before, m.Node.Coordinates())
		}
		close(hold)
		r.Wait(20*time.Second, "the node to coordinate", func() bool { return m.Node.Coordinates() && m.Node.View().LogHead().Seq > before })
	})
}
