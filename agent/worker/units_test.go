package worker

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/ringagent/ringagent/internal/workload"
)

func TestLedger(t *testing.T) {
	t.Parallel()
	l := NewLedger(workload.Slots{CPU: 4, GPU: 2, VRAMMiB: 1000, RAMMiB: 1000, DiskMiB: 100})
	for i, c := range []struct {
		job  string
		need workload.Slots
		ok   bool
		gpus []int
	}{
		{"a", workload.Slots{CPU: 1, GPU: 1}, true, []int{0}},
		{"a", workload.Slots{CPU: 1}, false, nil}, // holds already
		{"b", workload.Slots{CPU: 4}, false, nil},
		{"c", workload.Slots{CPU: 1, GPU: 2}, false, nil},
		{"d", workload.Slots{CPU: 1, GPU: 1}, true, []int{1}},
		{"e", workload.Slots{CPU: 1, RAMMiB: 1001}, false, nil},
		{"f", workload.Slots{CPU: 1, DiskMiB: 101}, false, nil},
		{"g", workload.Slots{CPU: 1, VRAMMiB: 1001}, false, nil},
		{"h", workload.Slots{CPU: 2, RAMMiB: 1000, DiskMiB: 100, VRAMMiB: 1000}, true, []int{}},
		{"i", workload.Slots{CPU: 1}, false, nil},
		{"j", workload.Slots{}, true, []int{}},
	} {
		g, ok := l.Reserve(c.job, c.need)
		if ok != c.ok || (ok && cmp.Diff(c.gpus, g.GPUs) != "") {
			t.Errorf("step %d: %v, %v", i, g, ok)
		}
	}
	if !l.Release("a") || l.Release("a") {
		t.Error("slots are given back once")
	}
	if g, ok := l.Reserve("k", workload.Slots{GPU: 1}); !ok || g.GPUs[0] != 0 {
		t.Errorf("the device that became free: %v, %v", g, ok)
	}
	// An adopted job runs, whether it fits or not; nothing that asks for what is overdrawn fits beside it.
	if !l.Adopt("old", Grant{Slots: workload.Slots{CPU: 9}}) || l.Adopt("old", Grant{}) {
		t.Error("adoption")
	}
	if free := l.Free(); free.CPU != -8 {
		t.Errorf("free: %+v", free)
	}
	if _, ok := l.Reserve("m", workload.Slots{CPU: 1}); ok {
		t.Error("reserved below zero")
	}
}

// Whatever is reserved and released: never more than there is, no device twice, and everything back in the end.
func TestLedgerNeverOversold(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		total := workload.Slots{CPU: 4, GPU: 3, RAMMiB: 10}
		l := NewLedger(total)
		held := map[string]Grant{}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			job := fmt.Sprint(rapid.IntRange(0, 9).Draw(t, "job"))
			if rapid.Bool().Draw(t, "release") {
				_, had := held[job]
				if l.Release(job) != had {
					t.Fatal("release disagrees")
				}
				delete(held, job)
				continue
			}
			need := workload.Slots{
				CPU: rapid.Int64Range(0, 3).Draw(t, "cpu"), GPU: rapid.Int64Range(0, 2).Draw(t, "gpu"),
				RAMMiB: rapid.Int64Range(0, 6).Draw(t, "ram"),
			}
			if g, ok := l.Reserve(job, need); ok {
				held[job] = g
			}
			sum, devices := workload.Slots{}, map[int]bool{}
			for _, g := range held {
				sum = sum.Add(g.Slots)
				for _, d := range g.GPUs {
					if devices[d] || d >= int(total.GPU) {
						t.Fatalf("device %d", d)
					}
					devices[d] = true
				}
			}
			if !sum.Fits(total) || l.Free() != total.Sub(sum) || len(devices) != int(sum.GPU) {
				t.Fatalf("taken %+v of %+v, free %+v", sum, total, l.Free())
			}
		}
		for job := range held {
			l.Release(job)
		}
		if l.Free() != total {
			t.Fatalf("not all came back: %+v", l.Free())
		}
	})
}

func TestAvoidance(t *testing.T) {
	t.Parallel()
	now := time.Unix(0, 0)
	a := newAvoidance(5*time.Second, time.Minute)
	a.now = func() time.Time { return now }
	for i, c := range []struct {
		after time.Duration
		do    func()
		pause time.Duration // until the type is claimed again, after do
	}{
		{0, func() {}, 0},
		{0, func() { a.fail("train", "x") }, 5 * time.Second},
		{5 * time.Second, func() { a.fail("train", "x") }, 10 * time.Second},
		{10 * time.Second, func() { a.fail("train", "x") }, 20 * time.Second},
		{20 * time.Second, func() { a.fail("train", "x") }, 40 * time.Second},
		{40 * time.Second, func() { a.fail("train", "x") }, time.Minute},
		{time.Minute, func() { a.fail("train", "x") }, time.Minute},
		{time.Minute, func() { a.ok("train") }, 0},
		{0, func() { a.strike("train", "y") }, 0},
		{0, func() { a.strike("train", "y") }, 0},
		{0, func() { a.strike("train", "y") }, 5 * time.Second},
		{5 * time.Second, func() { a.ok("train") }, 0},
		{0, func() { a.strike("train", "y") }, 0},
		{0, func() { a.ok("train") }, 0},
		{0, func() { a.strike("train", "y") }, 0},
		{0, func() { a.fail("export", "z") }, 0},
	} {
		now = now.Add(c.after)
		c.do()
		for _, p := range []struct {
			at      time.Duration
			blocked bool
		}{{c.pause - 1, c.pause > 0}, {c.pause, false}} {
			then := now
			now = now.Add(p.at)
			if _, blocked := a.blocked("train"); blocked != p.blocked {
				t.Errorf("step %d: blocked %v after %v", i, blocked, p.at)
			}
			now = then
		}
	}
	if a.suspect("train") || !a.suspect("export") || a.suspect("evaluate") {
		t.Error("suspects")
	}
	for range 100 {
		a.fail("export", "z") // no overflow
	}
	if reason, blocked := a.blocked("export"); !blocked || reason != "z" {
		t.Errorf("%q, %v", reason, blocked)
	}
}

// A type is told of once it was avoided twice without a success between, and for as long as it is tried.
func TestFailing(t *testing.T) {
	t.Parallel()
	start := time.Unix(0, 0)
	now := start
	a := newAvoidance(5*time.Second, time.Minute)
	a.now = func() time.Time { return now }
	tried := false
	told := func() string {
		f, failing := a.failing("train", tried)
		if !failing {
			return ""
		}
		return fmt.Sprintf("%s %s since %s", f.Type, f.Reason, f.Since.Sub(start))
	}
	for i, c := range []struct {
		after time.Duration
		do    func()
		want  string
	}{
		{time.Second, func() {}, ""},
		{0, func() { a.fail("train", "x") }, ""},
		{5 * time.Second, func() { a.fail("train", "y") }, "train y since 1s"},
		{10 * time.Second, func() { a.fail("train", "z") }, "train z since 1s"},
		{20*time.Second + 2*time.Minute, func() {}, "train z since 1s"},
		{1, func() {}, ""},
		{time.Hour, func() { tried = true }, "train z since 1s"}, // a long run
		{0, func() { tried = false; a.fail("train", "x") }, "train x since 1s"},
		{0, func() { a.ok("train") }, ""},
		{0, func() { a.fail("train", "x") }, ""},
	} {
		now = now.Add(c.after)
		c.do()
		if got := told(); got != c.want {
			t.Errorf("step %d: %q, want %q", i, got, c.want)
		}
	}
}

func TestCgroupLimits(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		files map[string]string
		self  string
		cpus  int64
		bytes int64
	}{
		"none":             {map[string]string{}, "0::/a/b\n", 0, 0},
		"unlimited":        {map[string]string{"a/b/cpu.max": "max 100000\n", "a/b/memory.max": "max\n"}, "0::/a/b\n", 0, 0},
		"own":              {map[string]string{"a/b/cpu.max": "250000 100000\n", "a/b/memory.max": "1000\n"}, "0::/a/b\n", 2, 1000},
		"parent tighter":   {map[string]string{"a/cpu.max": "100000 100000", "a/b/cpu.max": "400000 100000", "a/memory.max": "7", "a/b/memory.max": "9"}, "0::/a/b\n", 1, 7},
		"fraction":         {map[string]string{"cpu.max": "1000 100000"}, "0::/\n", 1, 0},
		"version 1 beside": {map[string]string{"x/memory.max": "5"}, "4:memory:/y\n0::/x\n", 0, 5},
		"version 1": {map[string]string{"cpu,cpuacct/d/cpu.cfs_quota_us": "150000\n", "cpu,cpuacct/d/cpu.cfs_period_us": "50000\n",
			"memory/d/memory.limit_in_bytes": "9223372036854771712\n", "memory/memory.limit_in_bytes": "4096\n"}, "4:cpu,cpuacct:/d/e\n3:memory:/d\n", 3, 4096},
		"version 1, by a link": {map[string]string{"cpu/d/cpu.cfs_quota_us": "150000", "cpu/d/cpu.cfs_period_us": "50000"}, "4:cpuacct,cpu:/d\n", 3, 0},
		"version 1, no limit": {map[string]string{"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000",
			"memory/memory.limit_in_bytes": "9223372036854771712"}, "4:cpu:/docker/x\n3:memory:/docker/x\n", 0, 0},
		"garbage": {map[string]string{"cpu.max": "a b c", "memory.max": ""}, "0::/\n", 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root := t.TempDir()
			for path, text := range c.files {
				if err := os.MkdirAll(filepath.Dir(filepath.Join(root, path)), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(root, path), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			self := filepath.Join(t.TempDir(), "self")
			if err := os.WriteFile(self, []byte(c.self), 0o600); err != nil {
				t.Fatal(err)
			}
			if cpus, bytes := cgroupLimits(root, self); cpus != c.cpus || bytes != c.bytes {
				t.Errorf("got %d, %d", cpus, bytes)
			}
		})
	}
}

func TestSlotsOfTheMachine(t *testing.T) {
	t.Parallel()
	if s := Measure(t.TempDir(), "missing"); s.CPU < 1 {
		t.Errorf("measured %+v", s)
	}
	got, err := Configured(workload.Slots{CPU: 8, GPU: 2, RAMMiB: 100}, map[string]int64{"gpu": 0, "disk_mib": 7})
	if want := (workload.Slots{CPU: 8, RAMMiB: 100, DiskMiB: 7}); err != nil || got != want {
		t.Errorf("got %+v, %v", got, err)
	}
	for _, bad := range []map[string]int64{{"gpus": 1}, {"cpu": -1}} {
		if _, err := Configured(workload.Slots{}, bad); err == nil {
			t.Errorf("%v was accepted", bad)
		}
	}
}

func TestJobIDs(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, ref := range []ClaimRef{
		{"w1", "c1"}, {"w1.c", "1"}, {"w1", "c.1"}, {"../../etc", "x"}, {"", ""}, {"a\x00b", "c"}, {"a", "b\x00c"},
		{strings.Repeat("w", 300), "c"},
	} {
		got := jobID(ref)
		if seen[got] || filepath.Base(got) != got || strings.HasPrefix(got, ".") || len(got) > 128 {
			t.Errorf("%q: %q", ref, got)
		}
		seen[got] = true
	}
}
