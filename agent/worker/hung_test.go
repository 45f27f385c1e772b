package worker

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/ringagent/ringagent/internal/workload"
)

// A command that withstands KILL holds its slots, but its item goes to somebody else: its claim is renewed no more.
func TestClaimOfAHungJobIsLeftToRunOut(t *testing.T) {
	t.Parallel()
	b := newBench(t, map[string]string{workload.Selfplay: hold}, claim(1, workload.Selfplay), claim(2, workload.Selfplay))
	w, _ := b.run()
	b.eventually("both beat", func() bool { return len(b.queue.beats["c1"]) > 0 && len(b.queue.beats["c2"]) > 0 })
	// As its shim would write it: there is no device here that hangs.
	progress := filepath.Join(b.cfg.Runner.Dir, "w1.c1", "progress.json")
	b.eventually("its shim has no more to say", func() bool {
		_, err := os.Stat(progress)
		return err == nil
	})
	if err := os.WriteFile(progress, []byte(`{"phase":"unkillable"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	var hung, other int
	b.queue.with(func() { hung, other = len(b.queue.beats["c1"]), len(b.queue.beats["c2"]) })
	b.eventually("the other beats on", func() bool { return len(b.queue.beats["c2"]) >= other+4 })
	b.queue.with(func() {
		if n := len(b.queue.beats["c1"]); n > hung+1 { // one may have been on its way
			t.Errorf("renewed %d times", n-hung)
		}
		b.queue.revoked["c1"] = true
	})
	if s := w.Snapshot(); s.Free.CPU != s.Total.CPU-2 {
		t.Errorf("a process that lives holds its slots: %+v", s)
	}
	b.letGo("w1.c1")
	b.letGo("w2.c2")
	b.idle(w)
	if o := b.outcome("c2"); o.Result != Done {
		t.Errorf("told %+v", o)
	}
}
