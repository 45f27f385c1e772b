package leader_test

import (
	"fmt"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/leader"
	"github.com/ringagent/ringagent/leader/leadertest"
	"github.com/ringagent/ringagent/leader/state"
)

// A follower without space hears heartbeats and stores nothing. It must not pass off a copy that stands still as a fresh
// one, neither here nor to the edge nodes that read it.
func TestFollowerThatCannotStoreIsNotFresh(t *testing.T) {
	t.Parallel()
	brake := &leadertest.Brake{}
	// Only the store is full: the probe of the disk does not see it.
	config := func(m *leadertest.Member, c *leader.Config) {
		if m.Name == "n1" {
			c.Faults.WrapStore = brake.Wrap
		}
	}
	bubble(t, leadertest.Options{Core: 3, Edge: 1, Voters: 3, Config: config}, func(t *testing.T, r *leadertest.Ring) {
		full, edge := r.Members[0], r.Members[3]
		r.Wait(20*time.Second, "three voters", voters(r, 3))
		if err := full.Node.Transfer(t.Context(), r.Members[1].ID); err != nil {
			t.Fatal(err)
		}
		r.Wait(10*time.Second, "another coordinator", func() bool { c := r.Coordinator(); return c != nil && c != full })
		r.Wait(10*time.Second, "the edge's copy", func() bool { return time.Since(edge.Node.Freshness().AsOf) < time.Second })
		brake.Fail(syscall.ENOSPC)
		broken := time.Now()
		off := func(daemon string) {
			t.Helper()
			if _, err := r.Coordinator().Node.Propose(t.Context(), state.Command{Kind: state.KindDaemonSwitch, Body: state.SwitchDaemon{Daemon: daemon, Off: true}}); err != nil {
				t.Fatal(err)
			}
		}
		off("X")
		took := r.Wait(15*time.Second, "the switch at the edge", func() bool { return edge.Node.View().DaemonOff("X") })
		t.Logf("at the edge after %s", took)
		time.Sleep(time.Minute)
		// It follows without storing anything or, where it missed the first heartbeats of the term and stood for election, is
		// silent: a term waits for space. Neither may say that its copy is fresh.
		if full.Node.View().DaemonOff("X") {
			t.Fatal("the store is not full")
		}
		if f := full.Node.Freshness(); f.AsOf.After(broken.Add(time.Second)) {
			t.Errorf("the copy has stood still for %s and says that it is %s old", time.Since(broken), time.Since(f.AsOf))
		}
		if f := edge.Node.Freshness(); time.Since(f.AsOf) > 30*time.Second {
			t.Errorf("the edge's copy is %s old", time.Since(f.AsOf))
		}
		off("Y")
		r.Wait(5*time.Second, "the next switch at the edge", func() bool { return edge.Node.View().DaemonOff("Y") })
		brake.Fail(nil)
		r.Wait(30*time.Second, "the follower to be fresh again", func() bool {
			return full.Node.View().DaemonOff("Y") && time.Since(full.Node.Freshness().AsOf) < time.Second
		})
	})
}

// At rest nothing but probes of the commit index says that a copy is whole.
func TestCopiesOfAnIdleRingAreFresh(t *testing.T) {
	t.Parallel()
	bubble(t, leadertest.Options{Core: 3, Voters: 3}, func(t *testing.T, r *leadertest.Ring) {
		r.Wait(20*time.Second, "three voters", voters(r, 3))
		time.Sleep(2 * time.Second)
		for range 300 {
			time.Sleep(100 * time.Millisecond)
			for _, m := range r.Members {
				if f := m.Node.Freshness(); !f.Known || time.Since(f.AsOf) > time.Second {
					t.Fatalf("%s: known %v, %s old", m.Name, f.Known, time.Since(f.AsOf))
				}
			}
		}
		last := r.Coordinator()
		r.Kill(last)
		r.Wait(10*time.Second, "another coordinator", func() bool { return r.Coordinator(last) != nil })
		r.Wait(2*time.Second, "fresh copies", func() bool {
			for _, m := range r.Members {
				if m != last && time.Since(m.Node.Freshness().AsOf) > time.Second {
					return false
				}
			}
			return true
		})
	})
}

// A call that was kept while its follower was away says how far the ring was then.
func TestReturnedFollowerIsNotFreshTooSoon(t *testing.T) {
	t.Parallel()
	bubble(t, leadertest.Options{Core: 3, Voters: 3}, func(t *testing.T, r *leadertest.Ring) {
		r.Wait(20*time.Second, "three voters", voters(r, 3))
		time.Sleep(2 * time.Second)
		c, away := r.Coordinator(), r.Members[2]
		if c == away {
			away = r.Members[1]
		}
		r.Net.Isolate(away.ID, r.IDs()...)
		time.Sleep(20 * time.Second) // the call has failed
		for i := range 200 {
			if _, err := c.Node.Propose(t.Context(), token(fmt.Sprint(i))); err != nil {
				t.Fatal(err)
			}
		}
		index := c.Node.Raft().CommitIndex()
		r.Net.Delay(c.ID, away.ID, 20*time.Millisecond)
		healed := time.Now()
		r.Net.Heal()
		for f := away.Node.Freshness(); f.Index < index; f = away.Node.Freshness() {
			if f.AsOf.After(healed) {
				t.Fatalf("%s after its return a copy at %d of %d says that it is as of %s after it", time.Since(healed), f.Index, index, f.AsOf.Sub(healed))
			}
			if time.Since(healed) > 30*time.Second {
				t.Fatalf("at %d of %d after half a minute", f.Index, index)
			}
			time.Sleep(time.Millisecond)
		}
		r.Wait(2*time.Second, "a fresh copy", func() bool { return time.Since(away.Node.Freshness().AsOf) < time.Second })
	})
}

// The library counts entries as applied that still wait for the state machine. A voter that has just started must not pass off the part
// that is through for the ring's state.
func TestHalfReplayedStateIsNotKnown(t *testing.T) {
	t.Parallel()
	var gate atomic.Pointer[chan struct{}]
	config := func(m *leadertest.Member, c *leader.Config) {
		c.Ports.Placed = func([]state.Placed, ring.LogHead) {
			if g := gate.Load(); g != nil && m.Name == "n1" {
				<-*g
			}
		}
	}
	bubble(t, leadertest.Options{Core: 3, Voters: 3, Config: config}, func(t *testing.T, r *leadertest.Ring) {
		late := r.Members[0]
		r.Wait(20*time.Second, "three voters", voters(r, 3))
		if r.Coordinator() == late {
			if err := late.Node.Transfer(t.Context(), r.Members[1].ID); err != nil {
				t.Fatal(err)
			}
		}
		r.Wait(10*time.Second, "another coordinator", func() bool { c := r.Coordinator(); return c != nil && c != late })
		if _, err := r.Coordinator().Node.Propose(t.Context(), state.Command{Kind: state.KindDaemonSwitch, Body: state.SwitchDaemon{Daemon: "X", Off: true}}); err != nil {
			t.Fatal(err)
		}
		r.Kill(late)
		closed := make(chan struct{})
		gate.Store(&closed)
		r.Start(late)
		time.Sleep(5 * time.Second)
		if f := late.Node.Freshness(); f.Known || late.Node.View().DaemonOff("X") {
			t.Errorf("known %v with a state at %d of which the rest still waits", f.Known, f.Index)
		}
		gate.Store(nil)
		close(closed)
		r.Wait(5*time.Second, "the whole state", func() bool { return late.Node.Freshness().Known })
		if !late.Node.View().DaemonOff("X") {
			t.Error("known, and the last command is not in it")
		}
	})
}

// Who has lost the office knows what the ring knew while a quorum still answered, not when the loss was noticed.
func TestLostOfficeIsNoNews(t *testing.T) {
	t.Parallel()
	bubble(t, leadertest.Options{Core: 3, Voters: 3}, func(t *testing.T, r *leadertest.Ring) {
		r.Wait(20*time.Second, "three voters", voters(r, 3))
		last := r.Coordinator()
		time.Sleep(2 * time.Second)
		cut := time.Now()
		r.Net.Isolate(last.ID, r.IDs()...)
		r.Wait(10*time.Second, "the loss of the office", func() bool { return !last.Node.Coordinates() })
		if f := last.Node.Freshness(); !f.Known || f.AsOf.After(cut) || cut.Sub(f.AsOf) > time.Second {
			t.Errorf("known %v, as of %s after the last answer could come", f.Known, f.AsOf.Sub(cut))
		}
		r.Net.Heal()
		r.Wait(10*time.Second, "news", func() bool { return time.Since(last.Node.Freshness().AsOf) < time.Second })
	})
}
