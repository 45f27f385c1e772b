package leader_test

import (
	"testing"
	"time"

	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/leader/leadertest"
	"github.com/ringagent/ringagent/leader/state"
)

// A core node of an older version ends at a command that it does not know, at every start: the coordinator lets none into the
// log while there is one, whatever its proposer has seen of the roster.
func TestNewerCommandWaitsForOlderCoreNodes(t *testing.T) {
	t.Parallel()
	bubble(t, leadertest.Options{Core: 3, Voters: 3}, func(t *testing.T, r *leadertest.Ring) {
		r.Wait(20*time.Second, "three voters", voters(r, 3))
		time.Sleep(3 * time.Second)
		newer := state.Command{Kind: state.KindRepeats, Body: state.StateRepeats{}}
		report := func(m *leadertest.Member, version int) {
			t.Helper()
			_, err := m.Node.Propose(t.Context(), state.Command{Kind: state.KindReport, Body: state.Report{
				Member: ring.Member{ID: m.ID, Name: m.Name, Boot: m.Boot, Commands: version}}})
			if err != nil {
				t.Fatal(err)
			}
		}
		for _, m := range r.Members {
			report(m, state.Version)
		}
		report(r.Members[1], 1)
		for _, m := range r.Members {
			if _, err := m.Node.Propose(t.Context(), newer); !refused(err, state.CodeRefused) {
				t.Errorf("%s, while %s is of version 1: %v", m.Name, r.Members[1].Name, err)
			}
		}
		report(r.Members[1], state.Version)
		for _, m := range r.Members {
			if _, err := m.Node.Propose(t.Context(), newer); err != nil {
				t.Errorf("%s, when all know it: %v", m.Name, err)
			}
		}
	})
}
