package worker

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/ringagent/ringagent/internal/workload"
)

// The agent is killed at every stage of a claim; the next one goes on, and the job runs once.
func TestAgentRestarts(t *testing.T) {
	t.Parallel()
	t.Run("while it runs", func(t *testing.T) {
		t.Parallel()
		b := newBench(t, map[string]string{workload.Selfplay: hold}, claim(1, workload.Selfplay))
		_, stop := b.run()
		b.eventually("started", func() bool { return len(b.queue.started) == 1 })
		stop()
		// The workload changes meanwhile; the contract of the start counts.
		b.edit(func(s *workload.Stage) { s.Outputs = []workload.Output{{Path: "other", Kind: workload.KindFile}} })
		var before int
		b.queue.with(func() { before = len(b.queue.beats["c1"]) })
		w, _ := b.run()
		b.eventually("beats again", func() bool { return len(b.queue.beats["c1"]) > before })
		if s := w.Snapshot(); s.Free.CPU != s.Total.CPU-1 {
			t.Errorf("adopted job holds its slots: %+v", s)
		}
		b.letGo("w1.c1")
		if o := b.outcome("c1"); o.Result != Done {
			t.Errorf("got %+v", o)
		}
		b.idle(w)
		if data, _ := os.ReadFile(filepath.Join(b.cfg.Runner.OutDir("w1.c1"), "count")); string(data) != "run\n" {
			t.Errorf("the job ran more than once: %q", data)
		}
	})
	t.Run("between end and judgement", func(t *testing.T) {
		t.Parallel()
		b := newBench(t, map[string]string{workload.Selfplay: hold}, claim(1, workload.Selfplay))
		_, stop := b.run()
		b.eventually("started", func() bool { return len(b.queue.started) == 1 })
		stop()
		b.letGo("w1.c1")
		b.eventually("ended", func() bool {
			_, err := os.Stat(filepath.Join(b.cfg.Runner.Dir, "w1.c1", "status.json"))
			return err == nil
		})
		w, _ := b.run()
		if o := b.outcome("c1"); o.Result != Done {
			t.Errorf("got %+v", o)
		}
		b.idle(w)
	})
	t.Run("between judgement and answer", func(t *testing.T) {
		t.Parallel()
		b := newBench(t, map[string]string{workload.Train: `echo m > model.bin; while ! [ -e go ]; do sleep 0.01; done`}, claim(1, workload.Train))
		_, stop := b.run()
		b.eventually("started", func() bool { return len(b.queue.started) == 1 })
		b.queue.with(func() { b.queue.silent = true })
		b.letGo("w1.c1")
		b.eventually("the outcome is on disk", func() bool {
			_, told, _ := readAnswer(filepath.Join(b.cfg.Runner.Dir, "w1.c1"))
			return told
		})
		stop()
		b.queue.with(func() { b.queue.silent = false })
		w, stop := b.run()
		if o := b.outcome("c1"); o.Result != Done || len(o.Outputs) != 1 {
			t.Errorf("got %+v", o)
		}
		b.idle(w)
		b.store.mu.Lock()
		if b.store.kept != 1 {
			t.Errorf("stored %d times", b.store.kept)
		}
		b.store.mu.Unlock()
		stop()
		w, _ = b.run() // and once more: what was heard is not said again
		b.idle(w)
		b.queue.with(func() {
			if n := len(b.queue.finished["c1"]); n != 1 {
				t.Errorf("answered %d times", n)
			}
		})
	})
}
