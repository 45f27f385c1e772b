package kittest_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/daemons/kit/kittest"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// What a worker brings for a claim that is over changes nothing: not after a cancel, and not when the item is asked for anew.
func TestLateResultChangesNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := kittest.New(t, c4)
		a := r.AddNode("a", id.Core, ring.Slots{})
		effects := a.Env(kit.Spec{Name: "X", Scope: kit.ScopeNode}, "").Effects
		if _, err := effects.Enqueue(t.Context(), ring.WorkItem{Type: kit.StageExport, Config: c4, Key: "k"}); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		runs := 0
		done := make(chan struct{})
		go func() {
			defer close(done)
			a.Work(ctx, func(context.Context, *kittest.Node, ring.WorkItem) kittest.Outcome {
				runs++
				time.Sleep(time.Minute)
				return kittest.Outcome{Artifacts: []ring.Artifact{a.Store(ring.KindDataset, "d", nil)}}
			})
		}()
		time.Sleep(30 * time.Second)
		item := r.Work("")[0].ID
		if err := effects.Retry(t.Context(), item); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute) // the first run is over, the second is half way
		if w := r.Work("")[0]; w.State != ring.WorkRunning || len(r.Artifacts("")) != 0 {
			t.Errorf("after the first run: %s, %d artifacts", w.State, len(r.Artifacts("")))
		}
		if err := effects.Cancel(t.Context(), item, "deliberate"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		cancel()
		<-done
		if w := r.Work("")[0]; w.State != ring.WorkCancelled || len(r.Artifacts("")) != 0 || runs != 2 {
			t.Errorf("%s, %d artifacts, %d runs", w.State, len(r.Artifacts("")), runs)
		}
	})
}
