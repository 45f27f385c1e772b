package worker

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/ringagent/ringagent/internal/blob"
	"github.com/ringagent/ringagent/internal/workload"
)

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
