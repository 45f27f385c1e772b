package leader

import (
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// oneAnswer is a store that answers every write of a number alike, once it may.
type oneAnswer struct {
	Logs
	go_ chan struct{}
	err error
	n   atomic.Int64
}

func (o *oneAnswer) SetUint64([]byte, uint64) error {
	o.n.Add(1)
	<-o.go_
	return o.err
}

// Waiting for space mutes a voter as a hanging write does, but only the latter is a reason to end the process.
func TestWaitingForSpaceIsNotStuck(t *testing.T) {
	t.Parallel()
	open := make(chan struct{})
	close(open)
	for name, c := range map[string]struct {
		may   chan struct{}
		stuck bool
	}{"hangs": {nil, true}, "full": {open, false}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				may := c.may
				if may == nil {
					may = make(chan struct{})
				}
				g := newGuard(&oneAnswer{go_: may, err: syscall.ENOSPC}, nil)
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					_ = g.SetUint64([]byte("CurrentTerm"), 2)
				}()
				time.Sleep(stuckLimit + time.Second)
				synctest.Wait()
				if g.stalled() < stuckLimit || (g.stuck() >= stuckLimit) != c.stuck {
					t.Errorf("after %s it stalls for %s and is stuck for %s", stuckLimit, g.stalled(), g.stuck())
				}
				g.close()
				if c.may == nil {
					close(may)
				}
				<-ended
				if g.stalled() != 0 || g.stuck() != 0 {
					t.Error("it stalls when nothing is written")
				}
			})
		})
	}
}
