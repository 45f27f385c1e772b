package worker

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/ringagent/ringagent/internal/workload"
)

// fails leaves a large file and no model.
const fails = "head -c 100000 /dev/zero > checkpoint; exit 3"

// leftovers are the jobs that still have outputs.
func (b *bench) leftovers() int {
	left, err := filepath.Glob(filepath.Join(b.cfg.Runner.Dir, "*", "out", "checkpoint"))
	if err != nil {
		b.t.Fatal(err)
	}
	return len(left)
}

// Runs that fail again and again leave no more on the disk than there is room for.
func TestRemainsOfFailuresAreBounded(t *testing.T) {
	t.Parallel()
	var claims []Claim
	for i := range 6 {
		claims = append(claims, claim(i, workload.Train))
	}
	b := newBench(t, map[string]string{workload.Train: fails}, claims...)
	b.cfg.Pace.KeptBytes = 250_000
	b.cfg.Pace.Avoid, b.cfg.Pace.AvoidMost = 1, 1
	w, _ := b.run()
	for i := range 6 {
		b.outcome(fmt.Sprintf("c%d", i))
	}
	b.idle(w)
	b.eventually("the outputs of the oldest are removed", func() bool { return b.leftovers() == 3 })
	entries, _ := os.ReadDir(b.cfg.Runner.Dir)
	if len(entries) != 6 {
		t.Errorf("logs and statuses of %d jobs stay, want 6", len(entries))
	}
}

// A disk that is full of what failed runs have left is made free again, or this node would never claim anything more.
func TestRemainsMakeRoomOnAFullDisk(t *testing.T) {
	t.Parallel()
	for name, left := range map[string]int64{"full": 0, "too little for a stage": 49 << 20} {
		t.Run(name, func(t *testing.T) { t.Parallel(); remainsMakeRoom(t, left) })
	}
}

func remainsMakeRoom(t *testing.T, left int64) {
	b := newBench(t, map[string]string{workload.Train: fails}, claim(1, workload.Train))
	w, stop := b.run()
	b.outcome("c1")
	b.idle(w)
	stop()
	stages := b.cfg.Workload().Stages
	train := stages[workload.Train]
	train.Needs.DiskMiB = 50
	stages[workload.Train] = train
	w, err := New(b.cfg)
	if err != nil {
		t.Fatal(err)
	}
	w.space = func(string) (int64, error) {
		if b.leftovers() > 0 {
			return left, nil
		}
		return 1 << 40, nil
	}
	if err := w.adopt(t.Context()); err != nil || b.leftovers() != 1 {
		t.Fatalf("%d jobs have outputs, %v", b.leftovers(), err)
	}
	if _, ok := w.offer(); !ok || b.leftovers() > 0 {
		t.Errorf("offers %v, %d jobs have outputs", ok, b.leftovers())
	}
}

// Free room is what the disk has now, not what it had at the start, and what running jobs may still write is none of it.
func TestRoomIsWhatTheDiskHasNow(t *testing.T) {
	t.Parallel()
	b := newBench(t, map[string]string{workload.Train: fails})
	b.cfg.Slots = workload.Slots{CPU: 4, DiskMiB: 1000}
	w, err := New(b.cfg)
	if err != nil {
		t.Fatal(err)
	}
	var free int64
	w.space = func(string) (int64, error) { return free << 20, nil }
	room := func(is, want int64) {
		t.Helper()
		free = is + b.cfg.MinFreeMiB
		if o, _ := w.offer(); o.Free.DiskMiB != want {
			t.Errorf("offers %d MiB of %d, want %d", o.Free.DiskMiB, is, want)
		}
	}
	room(100, 100)
	room(5000, 1000)
	if _, ok := w.ledger.Reserve("job", workload.Slots{CPU: 1, DiskMiB: 300}); !ok {
		t.Fatal("no room")
	}
	room(400, 100)
	room(5000, 700)
	w.Resize(workload.Slots{CPU: 4, DiskMiB: 500})
	room(5000, 200)
}
