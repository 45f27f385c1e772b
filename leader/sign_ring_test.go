package leader_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/ringagent/ringagent/leader"
	"github.com/ringagent/ringagent/leader/leadertest"
)

// What is committed is in the other voters' state a moment later, also where nothing follows it.
func TestLoneEntryReachesFollowersAtOnce(t *testing.T) {
	t.Parallel()
	for _, signed := range []bool{true, false} {
		t.Run(fmt.Sprintf("signed=%v", signed), func(t *testing.T) {
			t.Parallel()
			config := func(_ *leadertest.Member, c *leader.Config) {
				if !signed {
					leader.LeaveSignsOut(c)
				}
			}
			bubble(t, leadertest.Options{Core: 3, Voters: 3, Config: config}, func(t *testing.T, r *leadertest.Ring) {
				r.Wait(20*time.Second, "three voters", voters(r, 3))
				late := 0
				for i := range 10 {
					time.Sleep(time.Second) // what went before is told by now
					began := time.Now()
					if _, err := r.Coordinator().Node.Propose(t.Context(), token(fmt.Sprint("lone", i))); err != nil {
						t.Fatal(err)
					}
					index := r.Coordinator().Node.Raft().AppliedIndex()
					r.Wait(2*time.Second, "the others", func() bool {
						for _, m := range r.Members {
							if m.Node.Raft().AppliedIndex() < index {
								return false
							}
						}
						return true
					})
					took := time.Since(began)
					t.Logf("after %s", took)
					if took > 50*time.Millisecond {
						late++
					}
				}
				if signed && late > 0 || !signed && late == 0 {
					t.Errorf("%d of 10 were late", late)
				}
			})
		})
	}
}
