package leader_test

import (
	"context"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/ringagent/ringagent/leader"
	"github.com/ringagent/ringagent/leader/leadertest"
)

// spaceless is a store that has space for entries, but for no new term, once it is the first of several that is asked to
// take one while they are armed.
type spaceless struct {
	leader.Logs
	name  string
	armed *atomic.Bool
	first *atomic.Value
}

func (s spaceless) SetUint64(k []byte, v uint64) error {
	if s.armed.Load() && (s.first.CompareAndSwap(nil, s.name) || s.first.Load() == s.name) {
		return syscall.ENOSPC
	}
	return s.Logs.SetUint64(k, v)
}

// The voter that is to take over hangs when it is told to. A coordinator with a bad disk must not wait for it for as long as
// it does not stand for election itself: it goes on, and hands over to another.
func TestHandOverThatFailsIsTriedAgain(t *testing.T) {
	t.Parallel()
	brake, armed, first := &leadertest.Brake{}, &atomic.Bool{}, &atomic.Value{}
	config := func(m *leadertest.Member, c *leader.Config) {
		if m.Name == "n1" {
			c.Faults.Canary = brake.Write
			return
		}
		c.Faults.WrapStore = func(s leader.Logs) leader.Logs { return spaceless{s, m.Name, armed, first} }
	}
	bubble(t, leadertest.Options{Core: 3, Voters: 3, Config: config}, func(t *testing.T, r *leadertest.Ring) {
		defer armed.Store(false)
		r.Wait(20*time.Second, "three voters", voters(r, 3))
		c := r.Coordinator()
		if c.Name != "n1" {
			t.Fatalf("%s coordinates", c.Name)
		}
		armed.Store(true)
		brake.Fail(syscall.ENOSPC)
		took := r.Wait(time.Minute, "another coordinator", func() bool {
			// What is committed meanwhile leaves the voter that hangs behind, so that the other one is chosen.
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			_, _ = c.Node.Propose(ctx, token("during"))
			return r.Coordinator(c) != nil && !c.Node.Coordinates()
		})
		t.Logf("another coordinator after %s, %v hung", took, first.Load())
		if first.Load() == nil {
			t.Fatal("no hand-over failed")
		}
		if _, err := r.Coordinator(c).Node.Propose(t.Context(), token("after")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(30 * time.Second)
		if c.Node.Coordinates() {
			t.Error("a node with a bad disk was elected")
		}
	})
}

// Raft's loop waits in the write of a term for as long as there is no space. That is no hanging disk, for which only a new
// process would help: it ends by itself.
func TestFullDiskForLongEndsNothing(t *testing.T) {
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
		time.Sleep(10 * time.Minute)
		if err := c.Err(); err != nil {
			t.Fatalf("the node ended: %v", err)
		}
		brake.Fail(nil)
		r.Wait(30*time.Second, "the node to follow again", func() bool {
			_, ok := c.Node.View().Token("after")
			return ok && !c.Node.DiskBad()
		})
	})
}
