package leader_test

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/leader"
	"github.com/ringagent/ringagent/leader/leadertest"
)

// recoverAt recovers with a limit.
func recoverAt(m *leadertest.Member, lost ...*leadertest.Member) (uint64, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	ids := []id.Node{}
	for _, l := range lost {
		ids = append(ids, l.ID)
	}
	return m.Node.Recover(ctx, ids)
}

func refusedWith(t *testing.T, err error, part string) {
	t.Helper()
	if refused := (*leader.Refused)(nil); !errors.As(err, &refused) || !strings.Contains(refused.Message, part) {
		t.Errorf("got %v, want a refusal that says %q", err, part)
	}
}

// settled waits until a coordinator decides something, and all members named agree on the state.
func settled(t *testing.T, r *leadertest.Ring, mark string, members ...*leadertest.Member) {
	t.Helper()
	r.Wait(30*time.Second, "a decision: "+mark, func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err := members[0].Node.Propose(ctx, token(mark))
		return err == nil
	})
	r.Wait(30*time.Second, "all to have "+mark, func() bool {
		for _, m := range members {
			if _, ok := m.Node.View().Token(mark); !ok {
				return false
			}
		}
		return true
	})
}

func others(r *leadertest.Ring, but ...*leadertest.Member) (out []*leadertest.Member) {
	for _, m := range r.Members {
		found := false
		for _, b := range but {
			found = found || b == m
		}
		if !found && m.Class == id.Core {
			out = append(out, m)
		}
	}
	return out
}

// Two of three voters are gone for good. The third goes on alone with all that was decided, under a new generation; a new
// core node votes with it; a restart finds the same; what was shut out stays so.
func TestRecoverAfterTheLossOfTheMajority(t *testing.T) {
	t.Parallel()
	bubble(t, leadertest.Options{Core: 5, Edge: 1, Voters: 3, Singletons: []leader.Singleton{{Name: "TEST_KEEPER"}}}, func(t *testing.T, r *leadertest.Ring) {
		r.Wait(30*time.Second, "three voters", voters(r, 3))
		// Two core nodes that do not vote: nothing is lost with them.
		var voting, spare []*leadertest.Member
		for _, m := range r.Members[:5] {
			if isVoter(r, m) {
				voting = append(voting, m)
			} else {
				spare = append(spare, m)
			}
		}
		settled(t, r, "BEFORE", voting...)
		keeper := func(m *leadertest.Member) ring.Assignment {
			a, _ := m.Node.View().Assignment("TEST_KEEPER")
			return a
		}
		r.Wait(10*time.Second, "a holder", func() bool { return keeper(voting[2]).Node != "" })
		before := keeper(voting[2]).Epoch
		rest, lost := append(spare, voting[2]), voting[:2]
		if _, err := recoverAt(voting[2], lost...); err == nil {
			t.Fatal("a ring with a coordinator was recovered")
		}
		for _, m := range lost {
			r.Kill(m)
		}
		r.Wait(20*time.Second, "the loss to be noticed", func() bool {
			for _, m := range rest {
				if m.Node.Stats().Coordinator != nil {
					return false
				}
			}
			return true
		})
		// The last entry may have come to one of them only, also to one that does not vote.
		survivor := slices.MaxFunc(rest, func(a, b *leadertest.Member) int {
			return cmp.Compare(a.Node.Raft().LastIndex(), b.Node.Raft().LastIndex())
		})
		_, err := recoverAt(survivor)
		refusedWith(t, err, lost[0].Name)
		_, err = recoverAt(survivor, lost[0])
		refusedWith(t, err, lost[1].Name)
		_, err = recoverAt(survivor, lost[0], lost[1], survivor)
		refusedWith(t, err, "not lost")
		generation, err := recoverAt(survivor, lost...)
		if err != nil || generation != 1 {
			t.Fatalf("generation %d, %v", generation, err)
		}
		settled(t, r, "AFTER", rest...)
		if _, ok := survivor.Node.View().Token("BEFORE"); !ok {
			t.Error("what was decided before is gone")
		}
		r.Wait(30*time.Second, "three voters again", voters(r, 3))
		r.Wait(30*time.Second, "a holder in the new generation", func() bool {
			a := keeper(survivor)
			return a.Node != "" && a.Epoch > before && a.Epoch.Generation() == 1
		})
		for _, m := range lost {
			if !survivor.Node.View().IsRevoked(m.ID) || isVoter(r, m) {
				t.Errorf("%s is not shut out", m.Name)
			}
		}
		for _, m := range rest {
			r.Kill(m)
			r.Start(m)
		}
		settled(t, r, "RESTARTED", rest...)
		edge := r.Members[5]
		r.Wait(30*time.Second, "the edge node to follow", func() bool { return edge.Node.View().Generation() == 1 })
	})
}

// The operator was wrong: the majority was only cut off, and went on. When the cable is whole again neither side changes the
// other, and what the recovered side decided stands. The broken variant is a transport that listens to who is shut out.
func TestFormerMajorityChangesNothing(t *testing.T) {
	t.Parallel()
	for name, deaf := range map[string]bool{"as built": false, "variant: who is shut out is heard": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, leadertest.Options{Core: 3, Voters: 3, Config: func(_ *leadertest.Member, c *leader.Config) {
				c.Faults.HearBarred = deaf
			}}, func(t *testing.T, r *leadertest.Ring) {
				r.Wait(30*time.Second, "three voters", voters(r, 3))
				settled(t, r, "BEFORE", r.Members...)
				c := r.Coordinator()
				rest := others(r, c)
				survivor, lost := rest[0], []*leadertest.Member{c, rest[1]}
				r.Net.Isolate(survivor.ID, r.IDs()...)
				r.Wait(20*time.Second, "the cut to be noticed", func() bool { return survivor.Node.Stats().Coordinator == nil })
				settled(t, r, "THEIRS", lost...)
				if _, err := recoverAt(survivor, lost...); err != nil {
					t.Fatal(err)
				}
				settled(t, r, "OURS", survivor)
				r.Net.Heal()
				time.Sleep(2 * time.Minute)
				v := survivor.Node.View()
				_, ours := v.Token("OURS")
				_, theirs := v.Token("THEIRS")
				kept := ours && !theirs && v.Generation() == 1 && survivor.Node.Coordinates() && survivor.Err() == nil
				if kept == deaf {
					t.Errorf("ours %v, theirs %v, generation %d, coordinates %v, ended %v", ours, theirs, v.Generation(), survivor.Node.Coordinates(), survivor.Err())
				}
			})
		})
	}
}

// Of five voters three are lost, and of the two that are left one lags: the other is the one to recover at, and the one that
// lags, or has what nobody committed, follows it.
func TestRecoverIsForTheNewestLog(t *testing.T) {
	t.Parallel()
	bubble(t, leadertest.Options{Core: 5, Voters: 5}, func(t *testing.T, r *leadertest.Ring) {
		r.Wait(60*time.Second, "five voters", voters(r, 5))
		settled(t, r, "BEFORE", r.Members...)
		c := r.Coordinator()
		rest := others(r, c)
		late, newest, lost := rest[0], rest[1], []*leadertest.Member{c, rest[2], rest[3]}
		r.Net.Isolate(late.ID, r.IDs()...)
		settled(t, r, "LATER", newest, c, rest[2], rest[3])
		for _, m := range lost {
			r.Kill(m)
		}
		r.Net.Heal()
		r.Wait(30*time.Second, "nobody to coordinate", func() bool {
			return late.Node.Stats().Coordinator == nil && newest.Node.Stats().Coordinator == nil
		})
		_, err := recoverAt(late, lost...)
		refusedWith(t, err, "newer log")
		_, err = recoverAt(newest, append(lost, late)...)
		refusedWith(t, err, "not lost")
		if _, err := recoverAt(newest, lost...); err != nil {
			t.Fatal(err)
		}
		settled(t, r, "AFTER", newest, late)
		if late.Node.View().Generation() != 1 {
			t.Error("who lagged is in no new generation")
		}
		if _, ok := late.Node.View().Token("LATER"); !ok {
			t.Error("who lagged lacks what was decided")
		}
	})
}

// spiteful fails the next write of a term, or every clearing of entries, when it is told to.
type spiteful struct {
	leader.Logs
	term, cut *atomic.Bool
}

func (s spiteful) SetUint64(k []byte, v uint64) error {
	if s.term.CompareAndSwap(true, false) {
		return syscall.ENOSPC
	}
	return s.Logs.SetUint64(k, v)
}

func (s spiteful) DeleteRange(lo, hi uint64) error {
	if s.cut.Load() {
		return syscall.EIO
	}
	return s.Logs.DeleteRange(lo, hi)
}

// A recovery that fails has either changed nothing, and the ring comes back by its lost voters, or is done.
func TestRecoverIsWholeOrNot(t *testing.T) {
	t.Parallel()
	for name, done := range map[string]bool{"before the state is written": false, "before the log is cleared": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var term, cut atomic.Bool
			bubble(t, leadertest.Options{Core: 3, Voters: 3, Config: func(_ *leadertest.Member, c *leader.Config) {
				c.Faults.WrapStore = func(l leader.Logs) leader.Logs { return spiteful{l, &term, &cut} }
			}}, func(t *testing.T, r *leadertest.Ring) {
				r.Wait(30*time.Second, "three voters", voters(r, 3))
				settled(t, r, "BEFORE", r.Members...)
				survivor, lost := r.Members[0], r.Members[1:]
				for _, m := range lost {
					r.Kill(m)
				}
				r.Wait(20*time.Second, "the loss to be noticed", func() bool { return survivor.Node.Stats().Coordinator == nil })
				term.Store(!done)
				cut.Store(done)
				if _, err := recoverAt(survivor, lost...); err == nil {
					t.Fatal("a write failed and nobody says so")
				}
				term.Store(false)
				cut.Store(false)
				if !done {
					r.Wait(20*time.Second, "the node to sit again", func() bool { return survivor.Node.Stats().Term > 0 })
					if g := survivor.Node.View().Generation(); g != 0 {
						t.Fatalf("generation %d", g)
					}
					r.Start(lost[0])
					settled(t, r, "AFTER", survivor, lost[0])
					return
				}
				// The process ends here as well: what is left on the disk must be taken up.
				r.Kill(survivor)
				r.Start(survivor)
				settled(t, r, "AFTER", survivor)
				if g := survivor.Node.View().Generation(); g != 1 {
					t.Errorf("generation %d", g)
				}
				r.Kill(survivor)
				r.Start(survivor)
				settled(t, r, "AGAIN", survivor)
			})
		})
	}
}

// A node whose copy of the event log cannot be written does not throw away the entries that hold the events.
func TestRecoverWaitsForTheCopyOfTheLog(t *testing.T) {
	t.Parallel()
	var behind atomic.Bool
	bubble(t, leadertest.Options{Core: 3, Voters: 3, Config: func(_ *leadertest.Member, c *leader.Config) {
		c.Ports.Replica = copied(func() uint64 {
			if behind.Load() {
				return 0
			}
			return 1 << 60
		})
	}}, func(t *testing.T, r *leadertest.Ring) {
		r.Wait(30*time.Second, "three voters", voters(r, 3))
		settled(t, r, "BEFORE", r.Members...)
		survivor, lost := r.Members[0], r.Members[1:]
		for _, m := range lost {
			r.Kill(m)
		}
		r.Wait(20*time.Second, "the loss to be noticed", func() bool { return survivor.Node.Stats().Coordinator == nil })
		behind.Store(true)
		// Who gives up waiting does not end it: whoever looks meanwhile must hear of it.
		short, cancel := context.WithTimeout(t.Context(), 6*time.Second)
		_, err := survivor.Node.Recover(short, []id.Node{lost[0].ID, lost[1].ID})
		cancel()
		if !errors.Is(err, leader.ErrUnknownOutcome) {
			t.Errorf("given up: %v", err)
		}
		_, err = recoverAt(survivor, lost...)
		refusedWith(t, err, "is under way")
		time.Sleep(time.Minute)
		if _, err := recoverAt(survivor, lost...); err == nil || !strings.Contains(err.Error(), "copy of the event log") {
			t.Errorf("got %v", err)
		}
		behind.Store(false)
		if _, err := recoverAt(survivor, lost...); err != nil {
			t.Error(err)
		}
		settled(t, r, "AFTER", survivor)
	})
}

type copied func() uint64

func (c copied) Durable() uint64 { return c() }

// Two that recover at once would be two rings of one generation.
func TestTwoRecoveriesAtOnce(t *testing.T) {
	t.Parallel()
	bubble(t, leadertest.Options{Core: 5, Voters: 5}, func(t *testing.T, r *leadertest.Ring) {
		r.Wait(60*time.Second, "five voters", voters(r, 5))
		settled(t, r, "BEFORE", r.Members...)
		one, two, lost := r.Members[0], r.Members[1], r.Members[2:]
		for _, m := range lost {
			r.Kill(m)
		}
		r.Wait(30*time.Second, "nobody to coordinate", func() bool {
			return one.Node.Stats().Coordinator == nil && two.Node.Stats().Coordinator == nil
		})
		errs := make(chan error, 2)
		for _, m := range []*leadertest.Member{one, two} {
			go func() {
				_, err := recoverAt(m, lost...)
				errs <- err
			}()
		}
		if a, b := <-errs, <-errs; a == nil && b == nil {
			t.Error("both recovered")
		}
		if r.Coordinator() == nil {
			r.Wait(time.Minute, "one of them to recover", func() bool {
				_, err := recoverAt(one, lost...)
				return err == nil
			})
		}
		settled(t, r, "AFTER", one, two)
	})
}

func isVoter(r *leadertest.Ring, m *leadertest.Member) bool {
	c := r.Coordinator()
	if c == nil {
		return false
	}
	for _, s := range c.Node.Raft().GetConfiguration().Configuration().Servers {
		if id.Node(s.ID) == m.ID {
			return s.Suffrage == raft.Voter
		}
	}
	return false
}
