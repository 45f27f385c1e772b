package leader_test

import (
	"os"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/leader"
	"github.com/ringagent/ringagent/leader/leadertest"
)

// A voter whose files are gone gives its vote back before it takes part again: it does not know what it has acknowledged.
func TestVoterWithoutItsFilesGivesItsVoteBack(t *testing.T) {
	t.Parallel()
	lost := -1
	config := func(m *leadertest.Member, c *leader.Config) { c.Ran = m.Name == "n3" && lost >= 0 }
	bubble(t, leadertest.Options{Core: 3, Voters: 3, Config: config}, func(t *testing.T, r *leadertest.Ring) {
		r.Wait(20*time.Second, "three voters", voters(r, 3))
		m := r.Members[2]
		if c := r.Coordinator(); c == m {
			r.Wait(20*time.Second, "another coordinator", func() bool {
				_ = m.Node.Transfer(t.Context(), r.Members[0].ID)
				return r.Coordinator() != nil && r.Coordinator() != m
			})
		}
		r.Kill(m)
		if err := os.RemoveAll(m.Dir); err != nil {
			t.Fatal(err)
		}
		lost = 2
		r.Start(m)
		votes := func() bool {
			for _, s := range r.Coordinator().Node.Raft().GetConfiguration().Configuration().Servers {
				if id.Node(s.ID) == m.ID && s.Suffrage == raft.Voter {
					return true
				}
			}
			return false
		}
		r.Wait(5*time.Second, "its vote given back", func() bool { return r.Coordinator() != nil && !votes() })
		r.Wait(time.Minute, "a voter again", func() bool { return r.Coordinator() != nil && votes() && m.Node.View().Index() > 0 })
	})
}
