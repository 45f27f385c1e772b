package leader_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/leader"
	"github.com/ringagent/ringagent/leader/leadertest"
	"github.com/ringagent/ringagent/leader/state"
)

func TestTransportKeepsPreVote(t *testing.T) {
	t.Parallel()
	bubble(t, leadertest.Options{Core: 1, Voters: 1}, func(t *testing.T, r *leadertest.Ring) {
		if !r.Members[0].Node.PreVote() {
			t.Fatal("the library sees no pre-vote")
		}
	})
}

func TestLostVoterIsReplaced(t *testing.T) {
	t.Parallel()
	bubble(t, leadertest.Options{Core: 6, Timing: ring.TimingLAN}, func(t *testing.T, r *leadertest.Ring) {
		r.Wait(time.Minute, "five voters", voters(r, 5))
		var spare, gone *leadertest.Member
		for _, m := range r.Members {
			if !has(r.Coordinator().Node.Stats().Voters, m.ID) {
				spare = m
			} else if m != r.Coordinator() {
				gone = m
			}
		}
		r.Kill(gone)
		took := r.Wait(time.Minute, "the sixth to vote and failure tolerance 2", func() bool {
			c := r.Coordinator()
			if c == nil {
				return false
			}
			s := c.Node.Stats()
			if len(s.Voters) < 5 {
				t.Fatalf("%d voters", len(s.Voters))
			}
			return has(s.Voters, spare.ID) && !has(s.Voters, gone.ID) && s.FailureTolerance == 2
		})
		t.Logf("replaced after %s", took)
	})
}

func has(list []id.Node, n id.Node) bool {
	for _, x := range list {
		if x == n {
			return true
		}
	}
	return false
}

func withBrake(name string, b *leadertest.Brake) func(*leadertest.Member, *leader.Config) {
	return func(m *leadertest.Member, c *leader.Config) {
		if m.Name == name {
			c.Faults.WrapStore = b.Wrap
			c.Faults.Canary = b.Write
		}
	}
}

func TestStalledDiskEndsTheCoordinatorship(t *testing.T) {
	t.Parallel()
	brake := &leadertest.Brake{}
	bubble(t, leadertest.Options{Core: 3, Voters: 3, Config: withBrake("n1", brake)}, func(t *testing.T, r *leadertest.Ring) {
		r.Wait(20*time.Second, "three voters", voters(r, 3))
		c := r.Coordinator()
		if c.Name != "n1" {
			t.Fatalf("%s coordinates", c.Name)
		}
		brake.Stop()
		defer brake.Go()
		took := r.Wait(15*time.Second, "another coordinator", func() bool {
			o := r.Coordinator(c)
			return o != nil && !c.Node.Coordinates()
		})
		t.Logf("another coordinator %s after the disk began to hang", took)
		if _, err := r.Coordinator().Node.Propose(t.Context(), token("after")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Second)
		if c.Node.Coordinates() {
			t.Fatal("a node with a hanging disk was elected")
		}
		brake.Go()
		r.Wait(30*time.Second, "the node to follow again", func() bool {
			_, ok := c.Node.View().Token("after")
			return ok && !c.Node.DiskBad()
		})
	})
}

func TestFullDiskHandsOverAndRecovers(t *testing.T) {
	t.Parallel()
	brake := &leadertest.Brake{}
	bubble(t, leadertest.Options{Core: 3, Voters: 3, Config: withBrake("n1", brake)}, func(t *testing.T, r *leadertest.Ring) {
		r.Wait(20*time.Second, "three voters", voters(r, 3))
		c := r.Coordinator()
		brake.Fail(syscall.ENOSPC)
		r.Wait(15*time.Second, "another coordinator", func() bool { return r.Coordinator(c) != nil && !c.Node.Coordinates() })
		if _, err := r.Coordinator(c).Node.Propose(t.Context(), token("after")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(30 * time.Second)
		if err := c.Err(); err != nil {
			t.Fatalf("the node ended: %v", err)
		}
		brake.Fail(nil)
		took := r.Wait(30*time.Second, "the node to follow again", func() bool {
			_, ok := c.Node.View().Token("after")
			return ok && !c.Node.DiskBad()
		})
		t.Logf("back %s after there was space", took)
	})
}

func TestFullDiskOfARingOfOneRecovers(t *testing.T) {
	t.Parallel()
	brake := &leadertest.Brake{}
	bubble(t, leadertest.Options{Core: 1, Voters: 1, Config: withBrake("n1", brake)}, func(t *testing.T, r *leadertest.Ring) {
		brake.Fail(syscall.ENOSPC)
		m := r.Members[0]
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if _, err := m.Node.Propose(ctx, token("during")); err == nil {
			t.Fatal("a command was committed on a full disk")
		}
		time.Sleep(10 * time.Second)
		brake.Fail(nil)
		r.Wait(30*time.Second, "a coordinator", func() bool { return m.Node.Coordinates() })
		if _, err := m.Node.Propose(t.Context(), token("after")); err != nil {
			t.Fatal(err)
		}
	})
}

// flipEntry changes one byte of a marked entry in a member's raft.db, or wherever else beside it the entry is.
func flipEntry(t *testing.T, dir, mark string) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "journal", "*"))
	if err != nil {
		t.Fatal(err)
	}
	hits := 0
	for _, path := range append(paths, filepath.Join(dir, "raft.db")) {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for at := 0; ; {
			i := bytes.Index(b[at:], []byte(mark))
			if i < 0 {
				break
			}
			b[at+i] ^= 1
			at, hits = at+i+1, hits+1
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if hits == 0 {
		t.Fatal("the entry is in no file")
	}
}

func TestVoterWithABadEntryBeginsAnew(t *testing.T) {
	t.Parallel()
	const mark = "MARKEDTOKEN"
	for name, c := range map[string]struct {
		propose func(ctx context.Context, at *leader.Node) error
		there   func(r *leadertest.Ring, m *leadertest.Member) bool
	}{
		"small": {func(ctx context.Context, at *leader.Node) error {
			_, err := at.Propose(ctx, token(mark))
			return err
		}, func(_ *leadertest.Ring, m *leadertest.Member) bool {
			_, ok := m.Node.View().Token(mark)
			return ok
		}},
		"large": {func(ctx context.Context, at *leader.Node) error {
			b := state.EventBatch{Origin: "00000000000000ff", Node: at.Self().Node, First: 1}
			for range 4 {
				b.Drafts = append(b.Drafts, event.AppendDraft(nil, event.Draft{Type: "OPERATOR_NOTE", Node: at.Self().Node,
					Payload: fmt.Appendf(nil, `{"text":"%s%s"}`, mark, strings.Repeat("x", 30<<10))}))
			}
			_, err := at.ProposeEvents(ctx, b)
			return err
		}, func(r *leadertest.Ring, m *leadertest.Member) bool {
			head := m.Node.View().LogHead()
			return head.Seq >= 4 && head == r.Coordinator().Node.View().LogHead()
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, leadertest.Options{Core: 3, Voters: 3}, func(t *testing.T, r *leadertest.Ring) {
				r.Wait(20*time.Second, "three voters", voters(r, 3))
				if err := c.propose(t.Context(), r.Coordinator().Node); err != nil {
					t.Fatal(err)
				}
				time.Sleep(2 * time.Second)
				m := r.Members[2]
				r.Stop(m)
				flipEntry(t, m.Dir, mark)
				r.Start(m)
				without := false
				r.Wait(40*time.Second, "the voter to be removed and to vote again", func() bool {
					c := r.Coordinator()
					if c == nil {
						return false
					}
					v := has(c.Node.Stats().Voters, m.ID)
					without = without || !v
					return without && v
				})
				r.Wait(10*time.Second, "the whole state", func() bool { return c.there(r, m) })
			})
		})
	}
}

func TestVoterWithABadEntryThatCannotBeSparedStops(t *testing.T) {
	t.Parallel()
	bubble(t, leadertest.Options{Core: 3, Voters: 3}, func(t *testing.T, r *leadertest.Ring) {
		r.Wait(20*time.Second, "three voters", voters(r, 3))
		if _, err := r.Coordinator().Node.Propose(t.Context(), token("MARKEDTOKEN")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		r.Kill(r.Members[1])
		r.Stop(r.Members[2])
		flipEntry(t, r.Members[2].Dir, "MARKEDTOKEN")
		r.Start(r.Members[2])
		r.Wait(2*time.Minute, "the node to stop and say why", func() bool { return r.Members[2].Err() != nil })
		if err := r.Members[2].Err(); !errors.Is(err, leader.ErrCorrupt) {
			t.Fatalf("it says %v", err)
		}
		if _, err := os.Stat(filepath.Join(r.Members[2].Dir, "raft.db")); err != nil {
			t.Fatalf("its files: %v", err)
		}
	})
}

// With slow links, as on a machine that has too much to do, two survivors stand at the same moment more often.
func TestFailoverTimes(t *testing.T) {
	t.Parallel()
	for _, delay := range []time.Duration{0, 50 * time.Millisecond} {
		t.Run(delay.String(), func(t *testing.T) {
			t.Parallel()
			var all []time.Duration
			for range 12 {
				bubble(t, leadertest.Options{Core: 3, Voters: 3}, func(t *testing.T, r *leadertest.Ring) {
					r.Wait(20*time.Second, "three voters", voters(r, 3))
					slow(r, delay)
					old := r.Coordinator()
					began := time.Now()
					r.Kill(old)
					r.Wait(8*time.Second, "another coordinator", func() bool { return r.Coordinator(old) != nil })
					if _, err := r.Coordinator(old).Node.Propose(t.Context(), token("x")); err != nil {
						t.Fatal(err)
					}
					all = append(all, time.Since(began))
					slow(r, 0)
					time.Sleep(time.Second) // what is under way arrives
				})
			}
			lo, hi, sum := slices.Min(all), slices.Max(all), time.Duration(0)
			for _, d := range all {
				sum += d
			}
			mean := sum / time.Duration(len(all))
			t.Logf("kill to first committed command over %d kills: %s / %s / %s", len(all), lo, mean, hi)
			// A survivor stands at the latest 3 s after it heard the coordinator last, and the first that has the whole log wins.
			if mean > 3*time.Second || hi > 4*time.Second {
				t.Errorf("mean %s, longest %s: too long", mean, hi)
			}
		})
	}
}

func slow(r *leadertest.Ring, d time.Duration) {
	for _, a := range r.IDs() {
		for _, b := range r.IDs() {
			r.Net.Delay(a, b, d)
		}
	}
}
