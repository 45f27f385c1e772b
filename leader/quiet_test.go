package leader_test

import (
	"context"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/leader"
	"github.com/ringagent/ringagent/leader/leadertest"
)

// cut ends what goes between two nodes, both ways.
func cut(r *leadertest.Ring, a, b *leadertest.Member) {
	r.Net.Hold(a.ID, b.ID)
	r.Net.Hold(b.ID, a.ID)
}

func holds(m *leadertest.Member, daemon string) bool {
	_, _, ok := m.Node.Holder().Held(daemon)
	return ok
}

// A voter whose link to the coordinator alone is cut renews by way of the third one, but its copy stands still: what it holds goes
// to a node that can decide, not before its lease is over, and it does not count as a voter that is there.
func TestVoterThatRaftDoesNotReachHoldsNothing(t *testing.T) {
	t.Parallel()
	eligible := func(m ring.Member) string {
		if m.Class != id.Core || m.Name == "n1" {
			return "not here"
		}
		return ""
	}
	var late atomic.Bool
	single := leader.Singleton{Name: "AUTO_EXPORT", Eligible: eligible}
	later := leader.Singleton{Name: "AUTO_PROMOTION", Eligible: eligible, Enabled: func(ring.Settings) bool { return late.Load() }}
	bubble(t, leadertest.Options{Core: 3, Voters: 3, Singletons: []leader.Singleton{single, later}}, func(t *testing.T, r *leadertest.Ring) {
		l, c1, c3 := r.Members[0], r.Members[1], r.Members[2]
		r.Wait(20*time.Second, "three voters", voters(r, 3))
		r.Wait(20*time.Second, "the singleton at n2", func() bool { return holds(c1, single.Name) })
		if r.Coordinator() != l {
			t.Fatalf("%s coordinates", r.Coordinator().Name)
		}
		cut(r, l, c1)
		r.Wait(30*time.Second, "the singleton at n3", func() bool {
			if holds(c1, single.Name) && holds(c3, single.Name) {
				t.Fatal("two hold it")
			}
			return holds(c3, single.Name)
		})
		late.Store(true) // n2 has less to do
		r.Wait(20*time.Second, "another singleton at n3", func() bool {
			a, _ := l.Node.View().Assignment(later.Name)
			if a.Node == c1.ID || a.Standby == c1.ID {
				t.Fatalf("given to %s, standby %q", a.Node, a.Standby)
			}
			return holds(c3, later.Name)
		})
		if st := l.Node.Stats(); st.AliveVoters != 2 || st.FailureTolerance != 0 {
			t.Errorf("%d voters alive, tolerance %d", st.AliveVoters, st.FailureTolerance)
		}
		if m, _ := l.Node.View().Member(c1.ID); m.Status != ring.Alive {
			t.Errorf("n2, which is heard, is called %s", m.Status)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if st := c1.Node.AskStats(ctx); st.Coordinator == nil || *st.Coordinator != l.ID || st.FailureTolerance != 0 {
			t.Errorf("n2 says: %+v", st)
		}
		r.Net.Heal()
		r.Wait(20*time.Second, "three voters that are there", func() bool { return l.Node.Stats().AliveVoters == 3 })
	})
}

// A spare that is ready takes the place of a voter that Raft does not reach. That one stays a spare of the ring, since it is heard, and
// is not given a seat and deprived of it again and again.
func TestSpareReplacesVoterThatRaftDoesNotReach(t *testing.T) {
	t.Parallel()
	bubble(t, leadertest.Options{Core: 4, Voters: 3}, func(t *testing.T, r *leadertest.Ring) {
		r.Wait(20*time.Second, "three voters", voters(r, 3))
		l := r.Coordinator()
		var lost *leadertest.Member
		for _, m := range r.Members {
			if m != l && has(l.Node.Stats().Voters, m.ID) {
				lost = m
				break
			}
		}
		time.Sleep(5 * time.Second)
		cut(r, l, lost)
		r.Wait(2*time.Minute, "a spare in its place", func() bool {
			v := l.Node.Stats().Voters
			return l.Node.Coordinates() && len(v) == 3 && !has(v, lost.ID)
		})
		r.Wait(20*time.Second, "its seat without a vote", func() bool { return has(l.Node.Stats().Nonvoters, lost.ID) })
		until := time.Now().Add(3 * ring.TimingDev.Times().VoterDead)
		r.Wait(4*ring.TimingDev.Times().VoterDead, "a while", func() bool {
			if !has(l.Node.Stats().Nonvoters, lost.ID) {
				t.Fatal("its seat is taken from it though it is heard")
			}
			return time.Now().After(until)
		})
		r.Net.Heal()
		r.Wait(20*time.Second, "its copy up to date", func() bool {
			return lost.Node.View().Index() == l.Node.View().Index() && slices.Equal(lost.Node.Stats().Voters, l.Node.Stats().Voters)
		})
	})
}
