package leader_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/ringagent/ringagent/leader/leadertest"
)

// A core node that does not vote was off while the ring was recovered at a voter whose log ended before its own: it comes
// back and follows the new generation, and nothing of what only it had is left there.
func TestLongerLogFollowsTheNewGeneration(t *testing.T) {
	t.Parallel()
	bubble(t, leadertest.Options{Core: 4, Voters: 3}, func(t *testing.T, r *leadertest.Ring) {
		r.Wait(30*time.Second, "three voters", voters(r, 3))
		var spare *leadertest.Member
		for _, m := range r.Members {
			if !isVoter(r, m) {
				spare = m
			}
		}
		settled(t, r, "BEFORE", r.Members...)
		c := r.Coordinator()
		rest := others(r, c, spare)
		survivor, lost := rest[0], []*leadertest.Member{c, rest[1]}
		r.Net.Isolate(survivor.ID, r.IDs()...)
		for i := range 20 {
			settled(t, r, fmt.Sprintf("THEIRS-%d", i), c, rest[1], spare)
		}
		r.Kill(spare)
		for _, m := range lost {
			r.Kill(m)
		}
		r.Net.Heal()
		r.Wait(20*time.Second, "the loss to be noticed", func() bool { return survivor.Node.Stats().Coordinator == nil })
		if _, err := recoverAt(survivor, lost...); err != nil {
			t.Fatal(err)
		}
		settled(t, r, "AFTER", survivor)
		r.Start(spare)
		settled(t, r, "BACK", survivor, spare)
		if _, ok := spare.Node.View().Token("THEIRS-0"); ok || spare.Node.View().Generation() != 1 {
			t.Error("the spare is not in the new generation")
		}
		r.Kill(spare)
		r.Start(spare)
		settled(t, r, "AGAIN", survivor, spare)
	})
}
