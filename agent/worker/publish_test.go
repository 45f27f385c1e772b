package worker

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/ringagent/ringagent/internal/workload"
)

// A run that took hours ends while there is no coordinator: what it made waits for one, as its answer would.
func TestOutputWaitsForACoordinator(t *testing.T) {
	t.Parallel()
	b := newBench(t, map[string]string{workload.Train: "echo m > model.bin"}, claim(1, workload.Train))
	asked := 0
	b.store.failing = func() error {
		if asked++; asked > 5*b.cfg.Pace.Tries {
			return nil
		}
		return fmt.Errorf("%w: deliberate", ErrNoAnswer)
	}
	w, _ := b.run()
	if o := b.outcome("c1"); o.Result != Done || len(o.Outputs) != 1 {
		t.Errorf("told %+v", o)
	}
	b.idle(w)
}

// It does not wait for ever: a claim that is lost meanwhile is done with.
func TestOutputOfALostClaimWaitsForNobody(t *testing.T) {
	t.Parallel()
	b := newBench(t, map[string]string{workload.Train: "echo m > model.bin"}, claim(1, workload.Train))
	b.store.failing = func() error {
		b.queue.with(func() { b.queue.revoked["c1"] = true })
		return fmt.Errorf("%w: deliberate", ErrNoAnswer)
	}
	w, _ := b.run()
	b.eventually("claimed", func() bool { return len(b.queue.granted) == 1 })
	b.idle(w)
	if a, _, err := readAnswer(filepath.Join(b.cfg.Runner.Dir, "w1.c1")); err != nil || !a.Stale {
		t.Errorf("answer %+v, %v", a, err)
	}
}
