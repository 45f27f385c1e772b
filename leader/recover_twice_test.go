package leader_test

import (
	"cmp"
	"slices"
	"testing"
	"time"

	"github.com/ringagent/ringagent/leader/leadertest"
)

// parted tells the voters among members from the others.
func parted(r *leadertest.Ring, members ...*leadertest.Member) (voting, spare []*leadertest.Member) {
	for _, m := range members {
		if isVoter(r, m) {
			voting = append(voting, m)
		} else {
			spare = append(spare, m)
		}
	}
	return voting, spare
}

// recoverNewest ends members for good, and recovers at the one of the rest that has the newest log.
func recoverNewest(t *testing.T, r *leadertest.Ring, lost []*leadertest.Member, rest ...*leadertest.Member) (at *leadertest.Member, generation uint64) {
	t.Helper()
	for _, m := range lost {
		r.Kill(m)
	}
	r.Wait(30*time.Second, "the loss to be noticed", func() bool {
		for _, m := range rest {
			if m.Node.Stats().Coordinator != nil {
				return false
			}
		}
		return true
	})
	at = slices.MaxFunc(rest, func(a, b *leadertest.Member) int {
		return cmp.Compare(a.Node.Raft().LastIndex(), b.Node.Raft().LastIndex())
	})
	generation, err := recoverAt(at, lost...)
	if err != nil {
		t.Fatal(err)
	}
	return at, generation
}

// recoveredOnce is a ring of seven that has lost two of its three voters, was recovered, and has three again.
func recoveredOnce(t *testing.T, r *leadertest.Ring) (voting, spare []*leadertest.Member) {
	t.Helper()
	r.Wait(30*time.Second, "three voters", voters(r, 3))
	settled(t, r, "BEFORE", r.Members...)
	voting, spare = parted(r, r.Members...)
	rest := append(spare, voting[2])
	recoverNewest(t, r, voting[:2], rest...)
	settled(t, r, "FIRST", rest...)
	r.Wait(60*time.Second, "three voters again", voters(r, 3))
	return parted(r, rest...)
}

// A ring is recovered twice. From the first time on nodes of a former generation are refused; a core node that was left over,
// and one that was off for so long that it is a new boot and has no seat any more, follow into the second all the same.
func TestCoreNodesFollowASecondRecovery(t *testing.T) {
	t.Parallel()
	bubble(t, leadertest.Options{Core: 7, Voters: 3}, func(t *testing.T, r *leadertest.Ring) {
		voting, spare := recoveredOnce(t, r)
		off, rest := spare[0], []*leadertest.Member{spare[1], voting[2]}
		r.Kill(off)
		if _, g := recoverNewest(t, r, voting[:2], rest...); g != 2 {
			t.Errorf("generation %d", g)
		}
		settled(t, r, "SECOND", rest...)
		time.Sleep(2 * time.Minute)
		r.Start(off)
		settled(t, r, "BACK", append(rest, off)...)
		r.Wait(60*time.Second, "three voters for the third time", voters(r, 3))
		if g := off.Node.View().Generation(); g != 2 {
			t.Errorf("generation %d", g)
		}
	})
}

// A core node that was cut off during a second recovery, and is then asked to recover as well, hears that there is a
// coordinator, though that one refuses all other words of a former generation.
func TestFormerNodeHearsOfARecovery(t *testing.T) {
	t.Parallel()
	bubble(t, leadertest.Options{Core: 7, Voters: 3}, func(t *testing.T, r *leadertest.Ring) {
		voting, spare := recoveredOnce(t, r)
		cut, rest := spare[0], []*leadertest.Member{spare[1], voting[2]}
		r.Net.Isolate(cut.ID, r.IDs()...)
		at, _ := recoverNewest(t, r, voting[:2], rest...)
		settled(t, r, "SECOND", rest...)
		r.Net.Heal()
		_, err := recoverAt(cut, voting[0], voting[1], at)
		refusedWith(t, err, "coordinates the ring")
		settled(t, r, "BACK", append(rest, cut)...)
	})
}

// A core node sleeps while the ring is recovered by another one, which is then lost, too. Its own recovery, from a state before
// the first, must not begin the same generation again: an edge node would take what comes for what it has.
func TestNoGenerationTwice(t *testing.T) {
	t.Parallel()
	bubble(t, leadertest.Options{Core: 4, Edge: 1, Voters: 3}, func(t *testing.T, r *leadertest.Ring) {
		r.Wait(30*time.Second, "three voters", voters(r, 3))
		settled(t, r, "BEFORE", r.Members[:4]...)
		voting, spare := parted(r, r.Members[:4]...)
		late, edge := spare[0], r.Members[4]
		r.Kill(late)
		first, g := recoverNewest(t, r, voting[:2], voting[2])
		settled(t, r, "FIRST", first)
		r.Wait(30*time.Second, "the edge node to follow", func() bool { return edge.Node.View().Generation() == g })
		r.Kill(first)
		r.Start(late)
		if _, err := recoverAt(late, voting...); err != nil {
			t.Fatal(err)
		}
		settled(t, r, "SECOND", late)
		r.Wait(30*time.Second, "the edge node to follow again", func() bool { return edge.Node.View().Generation() == g+1 })
	})
}
