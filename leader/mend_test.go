package leader_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/leader"
	"github.com/ringagent/ringagent/leader/leadertest"
)

// A voter that asks a second time while its removal is under way must not be told that it is done: if the coordinator fails
// now, the removal is taken back.
func TestRemovalIsAcknowledgedOnlyOnceCommitted(t *testing.T) {
	t.Parallel()
	bubble(t, leadertest.Options{Core: 3, Voters: 3}, func(t *testing.T, r *leadertest.Ring) {
		r.Wait(20*time.Second, "three voters", voters(r, 3))
		c := r.Coordinator()
		faulty := r.Members[2]
		for _, m := range r.Members[1:] {
			r.Net.Hold(c.ID, m.ID)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		first := make(chan error, 1)
		go func() {
			_, err := c.Node.RemoveFaultyHere(ctx, faulty.ID)
			first <- err
		}()
		r.Wait(500*time.Millisecond, "the removal to be under way", func() bool {
			for _, s := range c.Node.Raft().GetConfiguration().Configuration().Servers {
				if id.Node(s.ID) == faulty.ID {
					return false
				}
			}
			return true
		})
		if removed, err := c.Node.RemoveFaultyHere(ctx, faulty.ID); removed || err == nil {
			t.Errorf("a removal that nobody else knows of is acknowledged: %v, %v", removed, err)
		}
		if err := <-first; err == nil {
			t.Error("the first request was told that it is done")
		}
		r.Net.Heal()
		r.Wait(20*time.Second, "a coordinator that can remove it", func() bool {
			c := r.Coordinator()
			if c == nil {
				return false
			}
			removed, err := c.Node.RemoveFaultyHere(ctx, faulty.ID)
			return removed && err == nil
		})
	})
}

// young is a store that, while it is held, takes no entry after an index: it stays as it was when the ring was young.
type young struct {
	leader.Logs
	last uint64
	held *atomic.Bool
}

func (y young) StoreLog(l *raft.Log) error { return y.StoreLogs([]*raft.Log{l}) }

func (y young) StoreLogs(logs []*raft.Log) error {
	if y.held.Load() && logs[len(logs)-1].Index > y.last {
		return leadertest.ErrBroken
	}
	return y.Logs.StoreLogs(logs)
}

// A voter whose files were wiped reads the log from its start, in which the ring has one voter: itself. If it is cut off
// then it must not elect itself, neither when its disk was bad and is good again nor after a restart.
func TestWipedVoterDoesNotStandBeforeItHasCaughtUp(t *testing.T) {
	t.Parallel()
	for name, then := range map[string]func(*leadertest.Ring, *leadertest.Member, *leadertest.Brake){
		"cut off": func(r *leadertest.Ring, m *leadertest.Member, _ *leadertest.Brake) { r.Net.Isolate(m.ID, r.IDs()...) },
		"its disk was bad": func(r *leadertest.Ring, m *leadertest.Member, b *leadertest.Brake) {
			b.Fail(syscall.ENOSPC)
			r.Wait(20*time.Second, "the bad disk to be noticed", m.Node.DiskBad)
			b.Fail(nil)
			r.Wait(30*time.Second, "the disk to be good again", func() bool { return !m.Node.DiskBad() })
			r.Net.Isolate(m.ID, r.IDs()...)
		},
		"restarted": func(r *leadertest.Ring, m *leadertest.Member, _ *leadertest.Brake) {
			r.Kill(m)
			r.Net.Isolate(m.ID, r.IDs()...)
			r.Start(m)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const last = 32
			held, canary := &atomic.Bool{}, &leadertest.Brake{}
			bubble(t, leadertest.Options{Core: 3, Voters: 3, Config: func(m *leadertest.Member, c *leader.Config) {
				if m.Name == "n1" {
					c.Faults.WrapStore = func(l leader.Logs) leader.Logs { return young{l, last, held} }
					c.Faults.Canary = canary.Write
				}
			}}, func(t *testing.T, r *leadertest.Ring) {
				m := r.Members[0]
				for i := range last { // before there are others that vote
					if _, err := m.Node.Propose(t.Context(), token(fmt.Sprint("early-", i))); err != nil {
						t.Fatal(err)
					}
				}
				if n := len(m.Node.Stats().Voters); n != 1 {
					t.Fatalf("%d voters already", n)
				}
				r.Wait(20*time.Second, "three voters", voters(r, 3))
				if _, err := m.Node.Propose(t.Context(), token("MARKEDTOKEN")); err != nil {
					t.Fatal(err)
				}
				time.Sleep(2 * time.Second)
				r.Stop(m)
				flipEntry(t, m.Dir, "MARKEDTOKEN")
				held.Store(true)
				r.Start(m)
				r.Wait(40*time.Second, "the node to begin anew", func() bool { return m.Node.Behind() > 0 && m.Node.Raft().AppliedIndex() >= last/2 })
				then(r, m, canary)
				term := m.Node.Raft().CurrentTerm()
				time.Sleep(time.Minute)
				if m.Node.Raft().AppliedIndex() >= m.Node.Behind() {
					t.Fatal("it has caught up")
				}
				if now := m.Node.Raft().CurrentTerm(); now != term || m.Node.Raft().State() != raft.Follower {
					t.Fatalf("it stood for election: term %d was %d, and it is %s", now, term, m.Node.Raft().State())
				}
				held.Store(false)
				r.Net.Heal()
				r.Wait(40*time.Second, "it to vote again", func() bool { return voters(r, 3)() && m.Node.Behind() == 0 })
				if _, err := os.Stat(filepath.Join(m.Dir, "catchup")); !errors.Is(err, os.ErrNotExist) {
					t.Fatalf("the mark: %v", err)
				}
				r.Kill(r.Coordinator()) // not m, which has stood aside so far
				r.Wait(20*time.Second, "another coordinator", func() bool { return r.Coordinator() != nil })
			})
		})
	}
}

// Close comes while new files are being opened in the place of bad ones.
func TestCloseEndsASeatThatIsBeingOpened(t *testing.T) {
	t.Parallel()
	var opened atomic.Int32
	var began atomic.Pointer[leadertest.Member]
	var closed chan error // of the bubble
	bubble(t, leadertest.Options{Core: 3, Voters: 3, Config: func(m *leadertest.Member, c *leader.Config) {
		if m.Name != "n3" {
			return
		}
		c.Faults.WrapStore = func(l leader.Logs) leader.Logs {
			if m := began.Load(); m != nil && opened.Add(1) == 1 {
				go func() { closed <- m.Node.Close() }()
				time.Sleep(time.Second) // it has come as far as it can
			}
			return l
		}
	}}, func(t *testing.T, r *leadertest.Ring) {
		r.Wait(20*time.Second, "three voters", voters(r, 3))
		if _, err := r.Coordinator().Node.Propose(t.Context(), token("MARKEDTOKEN")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		m := r.Members[2]
		r.Stop(m)
		flipEntry(t, m.Dir, "MARKEDTOKEN")
		closed = make(chan error, 1)
		began.Store(m)
		r.Start(m)
		if err := <-closed; err != nil {
			t.Error(err)
		}
		r.Kill(m)
		if opened.Load() != 1 {
			t.Fatalf("%d seats", opened.Load())
		}
		r.Start(m) // fails while somebody has the file
		r.Wait(40*time.Second, "it to vote again", voters(r, 3))
	})
}

func TestOfficeIsTakenAgainInTheSameTerm(t *testing.T) {
	t.Parallel()
	bubble(t, leadertest.Options{Core: 1, Voters: 1}, func(t *testing.T, r *leadertest.Ring) {
		n := r.Members[0].Node
		r.Wait(5*time.Second, "a coordinator", n.Coordinates)
		term := n.Raft().CurrentTerm()
		n.RetakeOffice()
		if n.Coordinates() {
			t.Fatal("it coordinates still")
		}
		r.Wait(5*time.Second, "it to coordinate again", n.Coordinates)
		if now := n.Raft().CurrentTerm(); now != term {
			t.Fatalf("Raft is in term %d, was %d", now, term)
		}
		if _, err := n.Propose(t.Context(), token("after")); err != nil {
			t.Fatal(err)
		}
	})
}
