package datasync

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/daemons/kit/kittest"
	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

func TestDrainPushesEverythingOut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := kittest.New(t, c4)
		r.AddNode("a", id.Core, ring.Slots{})
		r.AddNode("b", id.Core, ring.Slots{})
		edge := r.AddNode("edge", id.Edge, ring.Slots{})
		s := EphemeralSync()
		d, err := s.New(edge.Env(s, `{"every":"1h","min_gap":"1h"}`)) // by itself it would wait
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		end := make(chan error, 1)
		go func() { end <- d.Run(ctx) }()
		edge.Play("job", c4, false, kittest.IDs("g", 3)...)
		time.Sleep(10 * time.Second)
		if len(r.Artifacts(ring.KindPack)) != 0 {
			t.Error("it did not wait")
		}
		began := time.Now()
		if err := d.(kit.Drainer).Drain(ctx); err != nil || len(r.Log(event.DataSyncCompleted.Type())) != 1 {
			t.Errorf("drained: %v", err)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("draining took %v", took)
		}
		cancel()
		if err := <-end; err != nil {
			t.Error(err)
		}
	})
}

// A departure that is called off leaves the daemon as it was, and the next one waits for all that was finished by then.
func TestDrainThatIsCalledOff(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := kittest.New(t, c4)
		core, edge := r.AddNode("a", id.Core, ring.Slots{}), r.AddNode("edge", id.Edge, ring.Slots{})
		var open atomic.Bool
		core.FetchFault = func(context.Context, id.Digest) error {
			time.Sleep(2 * time.Second)
			if !open.Load() {
				return errBlocked
			}
			return nil
		}
		s := EphemeralSync()
		d, err := s.New(edge.Env(s, `{"every":"1h","min_gap":"1s"}`))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		end := make(chan error, 1)
		go func() { end <- d.Run(ctx) }()
		edge.Play("one", c4, false, kittest.IDs("one", 3)...)
		limited, stop := context.WithTimeout(ctx, 10*time.Second)
		defer stop()
		if err := d.(kit.Drainer).Drain(limited); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("drained without a copy: %v", err)
		}
		open.Store(true)
		r.Eventually(time.Minute, "the first games are elsewhere", func() bool { return len(r.Log(event.DataSyncCompleted.Type())) == 1 })
		edge.Play("two", c4, false, kittest.IDs("two", 3)...)
		time.Sleep(10 * time.Second)
		if n := len(r.Artifacts(ring.KindPack)); n != 1 {
			t.Errorf("%d packs: what is played after a departure was called off does not wait for a batch", n)
		}
		if err := d.(kit.Drainer).Drain(ctx); err != nil {
			t.Error(err)
		}
		if got := games(r, core); len(got) != 6 {
			t.Errorf("drained, and only %v are elsewhere", got)
		}
		cancel()
		if err := <-end; err != nil {
			t.Error(err)
		}
	})
}

// A job that goes on playing does not hold up the end of its node; what was finished before is safe all the same.
func TestDrainDoesNotWaitForWhatStillPlays(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := kittest.New(t, c4)
		core := r.AddNode("a", id.Core, ring.Slots{})
		r.AddNode("b", id.Core, ring.Slots{})
		edge := r.AddNode("edge", id.Edge, ring.Slots{})
		slow := func(ctx context.Context, _ id.Digest) error {
			select {
			case <-time.After(2 * time.Second):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		core.FetchFault = slow
		s := EphemeralSync()
		d, err := s.New(edge.Env(s, ""))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		end := make(chan error, 2)
		go func() { end <- d.Run(ctx) }()
		before := kittest.IDs("before", 30)
		db := edge.Play("job", c4, false, before...)
		go func() {
			for i := 0; ctx.Err() == nil; i++ {
				edge.WriteGames(db.Path, c4, fmt.Sprintf("late-%d", i))
				time.Sleep(50 * time.Millisecond)
			}
			end <- nil
		}()
		time.Sleep(time.Second)
		limited, stop := context.WithTimeout(ctx, 10*time.Second) // as the agent gives it
		defer stop()
		if err := d.(kit.Drainer).Drain(limited); err != nil {
			t.Errorf("drain: %v", err)
		}
		safe := games(r, core)
		for _, g := range before {
			if !slices.Contains(safe, g) {
				t.Errorf("drained, and game %s is only here", g)
			}
		}
		cancel()
		if err := errors.Join(<-end, <-end); err != nil {
			t.Error(err)
		}
	})
}
