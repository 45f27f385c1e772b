package worker

import (
	"os"
	"testing"

	"github.com/ringagent/ringagent/internal/proc"
	"github.com/ringagent/ringagent/internal/workload"
)

// An operator clears the folder of jobs while one runs: it has failed, its slots come back, and the node goes on.
func TestJobsTakenAway(t *testing.T) {
	t.Parallel()
	b := newBench(t, map[string]string{workload.Selfplay: hold, workload.Train: "echo m > model.bin"}, claim(1, workload.Selfplay))
	w, _ := b.run()
	b.eventually("started", func() bool { return len(b.queue.started) == 1 })
	b.eventually("the folder is gone", func() bool { return os.RemoveAll(b.cfg.Runner.Dir) == nil })
	if o := b.outcome("c1"); o.Result != Failed || o.Reason != string(proc.Lost) {
		t.Errorf("told %+v", o)
	}
	b.idle(w)
	w.avoid.mu.Lock()
	if e := w.avoid.types[workload.Selfplay]; e != nil {
		t.Errorf("what nobody saw end counts against its type: %+v", e)
	}
	w.avoid.mu.Unlock()
	b.queue.with(func() { b.queue.pending = append(b.queue.pending, claim(2, workload.Train)) })
	w.Nudge()
	if o := b.outcome("c2"); o.Result != Done {
		t.Errorf("told %+v", o)
	}
}
