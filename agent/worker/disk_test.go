package worker

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/ringagent/ringagent/internal/disk"
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

// What is held beyond what there is, as by adopted jobs while graphics cards are not known yet, keeps nobody from work that does not ask
// for it.
func TestOverdrawnSlotsAreNone(t *testing.T) {
	t.Parallel()
	b := newBench(t, map[string]string{workload.Train: fails})
	b.cfg.Slots = workload.Slots{CPU: 4, GPU: 2, RAMMiB: 100, DiskMiB: 100}
	w, err := New(b.cfg)
	if err != nil {
		t.Fatal(err)
	}
	w.space = func(string) (int64, error) { return 1 << 40, nil }
	w.ledger.Adopt("job", Grant{Slots: workload.Slots{CPU: 1, GPU: 2, RAMMiB: 10, DiskMiB: 50}, GPUs: []int{0, 1}})
	w.Resize(workload.Slots{CPU: 4, RAMMiB: 100, DiskMiB: 40})
	o, ok := w.offer()
	if want := (workload.Slots{CPU: 3, RAMMiB: 90}); !ok || o.Free != want {
		t.Errorf("offers %+v, want %+v", o.Free, want)
	}
	w.Resize(workload.Slots{CPU: 4, GPU: 4, RAMMiB: 100, DiskMiB: 400})
	if o, _ := w.offer(); o.Free != (workload.Slots{CPU: 3, GPU: 2, RAMMiB: 90, DiskMiB: 350}) {
		t.Errorf("offers %+v", o.Free)
	}
}

// A job that has no card, or whose machine's cards are not known yet, sees none; where there are none to be given, nothing is hidden.
func TestJobsSeeOnlyTheirCards(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		total   workload.Slots
		grant   []int
		unknown bool
		want    []int
	}{
		"no cards":                   {workload.Slots{CPU: 1}, []int{}, false, nil},
		"not known":                  {workload.Slots{CPU: 1}, []int{}, true, []int{}},
		"of others":                  {workload.Slots{CPU: 1, GPU: 2}, []int{}, false, []int{}},
		"its own":                    {workload.Slots{CPU: 1, GPU: 2}, []int{1}, false, []int{1}},
		"its own, taken back by now": {workload.Slots{CPU: 1}, []int{1}, false, []int{1}},
	} {
		b := newBench(t, map[string]string{workload.Train: fails})
		b.cfg.Slots, b.cfg.CardsUnknown = c.total, func() bool { return c.unknown }
		w, err := New(b.cfg)
		if err != nil {
			t.Fatal(err)
		}
		if got := w.cards(Grant{GPUs: c.grant}); !slices.Equal(got, c.want) || (got == nil) != (c.want == nil) {
			t.Errorf("%s: sees %v, want %v", name, got, c.want)
		}
	}
}

// Room that running jobs were given and have not taken yet is no room for others, and what they have written is not counted twice.
func TestRoomIsGivenOnce(t *testing.T) {
	t.Parallel()
	b := newBench(t, map[string]string{workload.Train: fails})
	b.cfg.Slots = workload.Slots{CPU: 4, RAMMiB: 100, DiskMiB: 1000}
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
	room(200, 0)
	room(5000, 700)
}

// Outputs of ended jobs, which are removed where room is wanted, do not keep a stage from being one of this machine's.
func TestRoomCountsWhatJobsTake(t *testing.T) {
	t.Parallel()
	jobs := t.TempDir()
	if err := os.WriteFile(filepath.Join(jobs, "output"), make([]byte, 64<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 100 { // others write to the disk and remove meanwhile
		free, err := disk.Free(jobs)
		if err != nil {
			t.Fatal(err)
		}
		if Room(jobs, jobs) >= share(free>>20)+25 {
			return
		}
	}
	t.Error("what the jobs take is no room for jobs")
}
