package leader_test

import (
	"sync"
	"testing"
	"time"

	"github.com/ringagent/ringagent/leader/leadertest"
	"github.com/ringagent/ringagent/leader/state"
)

// A voter that comes back is sent what it missed at once, however long it was away.
func TestReturningVoterIsFedAtOnce(t *testing.T) {
	t.Parallel()
	for _, away := range []time.Duration{3 * time.Second, 12 * time.Second, time.Minute, 10 * time.Minute} {
		t.Run(away.String(), func(t *testing.T) {
			t.Parallel()
			bubble(t, leadertest.Options{Core: 3, Voters: 3}, func(t *testing.T, r *leadertest.Ring) {
				r.Wait(20*time.Second, "three voters", voters(r, 3))
				c, gone := r.Coordinator(), r.Members[0]
				for _, m := range r.Members {
					if m != c {
						gone = m
					}
				}
				r.Kill(gone)
				time.Sleep(away)
				if _, err := c.Node.Propose(t.Context(), state.Command{Kind: state.KindDaemonSwitch, Body: state.SwitchDaemon{Daemon: "X", Off: true}}); err != nil {
					t.Fatal(err)
				}
				r.Start(gone)
				t.Logf("fed after %s", r.Wait(time.Second, "the voter's copy", func() bool { return gone.Node.View().DaemonOff("X") }))
			})
		})
	}
}

// Calls to a voter that is gone are kept back; neither a transfer of the office, nor its loss, nor the end of the node waits
// for them.
func TestNothingWaitsForKeptCalls(t *testing.T) {
	t.Parallel()
	bubble(t, leadertest.Options{Core: 3, Voters: 3}, func(t *testing.T, r *leadertest.Ring) {
		r.Wait(20*time.Second, "three voters", voters(r, 3))
		c := r.Coordinator()
		var gone, left *leadertest.Member
		for _, m := range r.Members {
			if m != c {
				gone, left = left, m
			}
		}
		r.Kill(gone)
		time.Sleep(10 * time.Second)
		for range 3 {
			if err := c.Node.Transfer(t.Context(), gone.ID); err == nil {
				t.Fatal("handed over to a voter that is gone")
			}
			if _, err := c.Node.Propose(t.Context(), token("t")); err != nil {
				t.Fatalf("after a transfer that failed: %v", err)
			}
		}
		if err := c.Node.Transfer(t.Context(), ""); err != nil {
			t.Error(err)
		}
		r.Wait(5*time.Second, "the other voter's office", func() bool { return left.Node.Coordinates() })
		time.Sleep(10 * time.Second)
		began := time.Now()
		r.Stop(left)
		if took := time.Since(began); took > time.Second {
			t.Errorf("the end of a coordinator took %s", took)
		}
	})
}

// A voter keeps connections to one that was started again since. None of them costs it an answer when it asks for a vote: each would
// cost an election where these two are all that is left.
func TestFormerConnectionsCostNoVote(t *testing.T) {
	t.Parallel()
	bubble(t, leadertest.Options{Core: 3, Voters: 3}, func(t *testing.T, r *leadertest.Ring) {
		r.Wait(20*time.Second, "three voters", voters(r, 3))
		asks, asked := r.Members[1], r.Members[2]
		r.Net.Hold(asked.ID, asks.ID)
		var group sync.WaitGroup
		for range 4 { // each over a connection of its own, and the library keeps as many as it ever does
			group.Go(func() {
				if err := asks.Node.AskForVote(asked.ID); err != nil {
					t.Error(err)
				}
			})
		}
		time.Sleep(100 * time.Millisecond)
		r.Net.Heal()
		group.Wait()
		r.Kill(asked)
		r.Start(asked)
		r.Wait(5*time.Second, "the voter's return", func() bool { return asked.Node.Freshness().Known })
		if err := asks.Node.AskForVote(asked.ID); err != nil {
			t.Errorf("the voter that was started again has not answered: %v", err)
		}
	})
}
