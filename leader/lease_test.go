package leader_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/leader"
	"github.com/ringagent/ringagent/leader/leadertest"
	"github.com/ringagent/ringagent/leader/state"
)

func singletons(names ...string) []leader.Singleton {
	var out []leader.Singleton
	for _, n := range names {
		out = append(out, leader.Singleton{Name: n})
	}
	return out
}

// holders are the members that hold a daemon now, by their own reckoning.
func holders(r *leadertest.Ring, daemon string) []*leadertest.Member {
	var out []*leadertest.Member
	for _, m := range r.Members {
		if _, _, ok := m.Node.Holder().Held(daemon); ok {
			out = append(out, m)
		}
	}
	return out
}

func allHeld(r *leadertest.Ring, but *leadertest.Member, names ...string) func() bool {
	return func() bool {
		for _, n := range names {
			h := holders(r, n)
			if len(h) != 1 || h[0] == but {
				return false
			}
		}
		return true
	}
}

func TestSingletonsMoveOnlyWithTheirNode(t *testing.T) {
	t.Parallel()
	names := []string{"A", "B", "C", "D", "E", "F"}
	bubble(t, leadertest.Options{Core: 3, Voters: 3, Singletons: singletons(names...)}, func(t *testing.T, r *leadertest.Ring) {
		r.Wait(20*time.Second, "three voters", voters(r, 3))
		took := r.Wait(10*time.Second, "every singleton held", allHeld(r, nil, names...))
		t.Logf("all held after %s more", took)
		before := make(map[string]ring.Assignment)
		for _, n := range names {
			before[n], _ = r.Coordinator().Node.View().Assignment(n)
		}
		dead := r.Coordinator()
		r.Kill(dead)
		took = r.Wait(12*time.Second, "every singleton held on a live node", allHeld(r, dead, names...))
		t.Logf("all held again %s after the coordinator was killed", took)
		for _, n := range names {
			a, _ := r.Coordinator().Node.View().Assignment(n)
			if before[n].Node == dead.ID && a.Epoch <= before[n].Epoch {
				t.Errorf("%s of the dead node is under epoch %d, was %d", n, a.Epoch, before[n].Epoch)
			}
			if before[n].Node != dead.ID && a.Epoch != before[n].Epoch {
				t.Errorf("%s moved though its node lived", n)
			}
		}
	})
}

func TestNewBootGivesItsAssignmentsUp(t *testing.T) {
	t.Parallel()
	if twoBootsUnderOneEpoch(t, nil) {
		t.Error("two boots under one epoch")
	}
}

// The broken variant: a state that leaves a node's assignments to its new boot.
func TestTwoBootsUnderOneEpochAreSeen(t *testing.T) {
	t.Parallel()
	keep := func(_ *leadertest.Member, c *leader.Config) { leader.KeepOverBoots(c) }
	if !twoBootsUnderOneEpoch(t, keep) {
		t.Error("assignments were kept over a new boot, and nobody noticed: the test proves nothing")
	}
}

// twoBootsUnderOneEpoch kills and restarts a holder, and waits until its new boot holds what the old one held. It says
// whether it does so under the same epoch.
func twoBootsUnderOneEpoch(t *testing.T, change func(*leadertest.Member, *leader.Config)) (same bool) {
	bubble(t, leadertest.Options{Core: 3, Voters: 3, Singletons: singletons("A", "B", "C"), Config: change}, func(t *testing.T, r *leadertest.Ring) {
		r.Wait(20*time.Second, "three voters", voters(r, 3))
		r.Wait(10*time.Second, "held", allHeld(r, nil, "A", "B", "C"))
		m := holders(r, "B")[0]
		if m == r.Coordinator() {
			m = holders(r, "C")[0]
		}
		daemon := m.Node.Holder().Leases()[0].Daemon
		old, _ := r.Coordinator().Node.View().Assignment(daemon)
		r.Kill(m)
		r.Start(m)
		r.Wait(10*time.Second, "held by the new boot", func() bool {
			f, _, ok := m.Node.Holder().Held(daemon)
			a, _ := r.Coordinator().Node.View().Assignment(daemon)
			if ok && f.Epoch == old.Epoch {
				same = true
				return true
			}
			return ok && a.Boot == m.Boot && a.Epoch > old.Epoch
		})
	})
	return same
}

// A holder that cannot reach anybody stops by itself before the coordinator gives its daemon to another.
func TestHolderStopsBeforeItsSuccessorStarts(t *testing.T) {
	t.Parallel()
	bubble(t, leadertest.Options{Core: 3, Voters: 3, Singletons: singletons("A", "B", "C")}, func(t *testing.T, r *leadertest.Ring) {
		r.Wait(20*time.Second, "three voters", voters(r, 3))
		r.Wait(10*time.Second, "held", allHeld(r, nil, "A", "B", "C"))
		var m *leadertest.Member
		for _, x := range r.Members {
			if x != r.Coordinator() && len(x.Node.Holder().Leases()) > 0 {
				m = x
			}
		}
		h := m.Node.Holder().Leases()[0]
		r.Net.Isolate(m.ID, r.IDs()...)
		var stopped time.Time
		took := r.Wait(20*time.Second, "a successor", func() bool {
			n := len(holders(r, h.Daemon))
			if n > 1 {
				t.Fatalf("%d holders of %s at once", n, h.Daemon)
			}
			if stopped.IsZero() && h.Ctx.Err() != nil {
				stopped = time.Now()
			}
			return n == 1 && holders(r, h.Daemon)[0] != m
		})
		if stopped.IsZero() || !time.Now().After(stopped) {
			t.Fatal("the old holder's context lives on")
		}
		t.Logf("stopped %s before the successor, which runs after %s", time.Since(stopped), took)
		// What it tries under the old epoch is refused by the state machine itself.
		r.Net.Heal()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		f := h.Fence()
		_, err := m.Node.Propose(ctx, state.Command{Kind: state.KindNote, Fence: &f, Body: state.PutNote{Key: "k", Value: []byte(`1`)}})
		var no *leader.Refused
		if !errors.As(err, &no) || no.Code != string(state.CodeStale) {
			t.Fatalf("an effect of the old epoch: %v", err)
		}
	})
}

// A node says that it leaves before it stops what it runs, and may be cut off then.
func TestNodeThatLeavesStopsBeforeItsSuccessorsStart(t *testing.T) {
	t.Parallel()
	bubble(t, leadertest.Options{Core: 3, Voters: 3, Singletons: singletons("A", "B", "C")}, func(t *testing.T, r *leadertest.Ring) {
		r.Wait(20*time.Second, "three voters", voters(r, 3))
		r.Wait(10*time.Second, "held", allHeld(r, nil, "A", "B", "C"))
		c := r.Coordinator()
		var m *leadertest.Member
		for _, x := range r.Members {
			if x != c && len(x.Node.Holder().Leases()) > 0 {
				m = x
			}
		}
		h := m.Node.Holder().Leases()[0]
		r.Net.Isolate(m.ID, r.IDs()...)
		if _, err := c.Node.Propose(t.Context(), state.Command{Kind: state.KindStatus, Body: state.SetStatus{Node: m.ID, Boot: m.Boot, Status: ring.Left}}); err != nil {
			t.Fatal(err)
		}
		took := r.Wait(20*time.Second, "a successor", func() bool {
			on := holders(r, h.Daemon)
			if len(on) > 1 {
				t.Fatalf("%d holders of %s at once", len(on), h.Daemon)
			}
			return len(on) == 1 && on[0] != m
		})
		if h.Ctx.Err() == nil {
			t.Fatal("the lease of the node that left lives on")
		}
		t.Logf("the successor runs %s after the node left", took)
	})
}

// Whenever a daemon is switched on again after it was switched off: it runs before long, also when its holder's lease has
// run out since without having been taken from it.
func TestSingletonThatIsWantedAgainRuns(t *testing.T) {
	t.Parallel()
	var off atomic.Bool
	a := leader.Singleton{Name: "A", Enabled: func(ring.Settings) bool { return !off.Load() }}
	bubble(t, leadertest.Options{Core: 1, Voters: 1, Singletons: []leader.Singleton{a}}, func(t *testing.T, r *leadertest.Ring) {
		for pause := 3500 * time.Millisecond; pause < 5500*time.Millisecond; pause += 70 * time.Millisecond {
			r.Wait(10*time.Second, fmt.Sprintf("held, after having been off for %s", pause-70*time.Millisecond), allHeld(r, nil, "A"))
			off.Store(true)
			time.Sleep(pause)
			off.Store(false)
		}
	})
}

func TestHolderThatSleptDoesNothing(t *testing.T) {
	t.Parallel()
	for name, sleep := range map[string]func(*leadertest.Clock){
		"suspended": func(c *leadertest.Clock) { c.Suspend(10 * time.Second) },
		"frozen":    func(c *leadertest.Clock) { c.Jump(10 * time.Second) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, leadertest.Options{Core: 3, Voters: 3, Singletons: singletons("A", "B", "C")}, func(t *testing.T, r *leadertest.Ring) {
				r.Wait(20*time.Second, "three voters", voters(r, 3))
				r.Wait(10*time.Second, "held", allHeld(r, nil, "A", "B", "C"))
				m := holders(r, "A")[0]
				h := m.Node.Holder().Leases()[0]
				if h.Ctx.Err() != nil {
					t.Fatal("the lease is over already")
				}
				sleep(m.Clock)
				// Not one moment passes: timers have not fired yet, but the clock tells.
				if h.Ctx.Err() == nil {
					t.Error("the context lives on after the sleep")
				}
				if _, _, ok := m.Node.Holder().Held(h.Daemon); ok {
					t.Error("still held after the sleep")
				}
				if n := len(m.Node.Holder().Leases()); n != 0 {
					t.Errorf("%d leases after the sleep", n)
				}
				// It may go on under the same epoch once the coordinator has answered it again.
				r.Wait(10*time.Second, "held again", func() bool {
					f, ctx, ok := m.Node.Holder().Held(h.Daemon)
					return ok && f.Epoch == h.Epoch && ctx.Err() == nil
				})
			})
		})
	}
}

// A coordinator is stopped while answers to its older messages are on their way, deposed, and continued: the answers reach
// it before anything newer does. It must answer no renewal. It does with the library's VerifyLeader, and when answers count
// from when they came.
func TestStoppedCoordinatorAnswersNoRenewal(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(*leader.Config, *atomic.Bool){
		"calls sent later": nil,
		"verify leader":    leader.UseVerifyLeader,
		"late answers":     func(c *leader.Config, _ *atomic.Bool) { leader.CountLateAnswers(c) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if err := renewedAfterStop(t, spoil); spoil == nil && err == nil {
				t.Fatal("a deposed coordinator answered a renewal")
			} else if spoil != nil && err != nil {
				// Seen once under load, and not in 60 runs alone: the library had stepped down before it answered. Why was not traced;
				// what is ready at one moment in its loop is taken in any order.
				if err = renewedAfterStop(t, spoil); err != nil {
					t.Fatalf("the broken variant was not fooled: %v", err)
				}
			}
		})
	}
}

// renewedAfterStop is what a coordinator that was stopped answers to a renewal; nil is a renewal.
func renewedAfterStop(t *testing.T, spoil func(*leader.Config, *atomic.Bool)) (err error) {
	brake, stopped := &leadertest.Brake{}, &atomic.Bool{}
	bubble(t, leadertest.Options{Core: 3, Voters: 3, Config: func(m *leadertest.Member, c *leader.Config) {
		if m.Name == "n1" {
			c.Faults.WrapStore = brake.Wrap
		}
		if spoil != nil {
			spoil(c, stopped)
		}
	}}, func(t *testing.T, r *leadertest.Ring) {
		r.Wait(20*time.Second, "three voters", voters(r, 3))
		c := r.Coordinator()
		if c.Name != "n1" {
			t.Fatalf("%s coordinates", c.Name)
		}
		others := []*leadertest.Member{r.Members[1], r.Members[2]}
		if err := c.Node.RenewHere(t.Context(), r.Members[1].ID, r.Members[1].Boot); err != nil { // all is applied, too
			t.Fatal(err)
		}
		// Stop: its loop stands in a write, nothing leaves it, and what was answered stays on the way.
		for _, o := range others {
			r.Net.Hold(o.ID, c.ID)
			r.Net.Bar(o.ID, c.ID)
		}
		go func() { _, _ = c.Node.Read(t.Context()) }() // has a heartbeat sent to each at once
		time.Sleep(250 * time.Millisecond)              // which arrives and is answered
		for _, o := range others {
			r.Net.Hold(c.ID, o.ID)
		}
		brake.Stop()
		stopped.Store(true)
		go func() { _, _ = c.Node.Propose(t.Context(), token("frozen")) }()
		r.Wait(15*time.Second, "another coordinator", func() bool { return r.Coordinator(c) != nil })
		// Continue: a renewal is there, and the late answers come before anything newer.
		stopped.Store(false)
		got := make(chan error, 1)
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
			defer cancel()
			got <- c.Node.RenewHere(ctx, r.Members[1].ID, r.Members[1].Boot)
		}()
		time.Sleep(600 * time.Millisecond) // a round has begun for it: it waits for company, and for the round before
		r.Net.Release(others[0].ID, c.ID)
		time.Sleep(10 * time.Millisecond)
		brake.Go()
		time.Sleep(60 * time.Millisecond)
		r.Net.Release(others[1].ID, c.ID)
		err = <-got
		for _, o := range others {
			r.Net.Release(c.ID, o.ID)
		}
	})
	return err
}
