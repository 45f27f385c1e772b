package worker

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/ringagent/ringagent/internal/blob"
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

// A model for which the disk has no room gets what failed runs have left there, and the run is not lost; without anything to give
// up it ends with the reason.
func TestOutputTakesTheRoomOfRemains(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]Result{"enough": Done, "too little": Failed} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ran := filepath.Join(t.TempDir(), "ran")
			command := fmt.Sprintf("if [ -e %s ]; then echo m > model.bin; else : > %s; %s; fi", ran, ran, fails)
			b := newBench(t, map[string]string{workload.Train: command}, claim(1, workload.Train))
			b.cfg.Pace.Avoid, b.cfg.Pace.AvoidMost = 1, 1
			asked := 0
			b.store.failing = func() error {
				if asked++; want == Failed || b.leftovers() > 0 {
					return fmt.Errorf("%w: deliberate", blob.ErrNoSpace)
				}
				return nil
			}
			w, _ := b.run()
			if o := b.outcome("c1"); o.Result != Failed {
				t.Errorf("the first run ended with %+v", o)
			}
			b.queue.with(func() { b.queue.pending = append(b.queue.pending, claim(2, workload.Train)) })
			o := b.outcome("c2")
			if o.Result != want || want == Failed && o.Reason != ReasonPublish {
				t.Errorf("told %+v", o)
			}
			b.idle(w)
			if b.leftovers() != 0 || asked < 2 {
				t.Errorf("asked %d times, %d jobs have outputs", asked, b.leftovers())
			}
		})
	}
}
