package worker

import (
	"fmt"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/ringagent/ringagent/internal/disk"
	"github.com/ringagent/ringagent/internal/proc"
	"github.com/ringagent/ringagent/internal/workload"
)

// keepShare is what is left of RAM and disk to the agent, its store and everybody else: one fifth.
const keepShare = 5

// Measure finds out what this machine can give to jobs: processors and memory within the limits of our own control
// group, four fifths of RAM and of the room on the disk of dir, with what its folder jobs takes. What cannot be measured is 0;
// graphics cards are left to the caller.
func Measure(dir, jobs string) workload.Slots {
	cpu, ram := cgroupLimits("/sys/fs/cgroup", "/proc/self/cgroup")
	s := workload.Slots{CPU: int64(runtime.NumCPU())}
	if cpu > 0 && cpu < s.CPU {
		s.CPU = cpu
	}
	total := memTotal()
	if ram > 0 && (ram < total || total == 0) {
		total = ram
	}
	s.RAMMiB = share(total >> 20)
	s.DiskMiB = Room(dir, jobs)
	return s
}

// Room is how many MiB the jobs may have of what is free on the disk of dir now and of what their folder, which need not be there,
// takes already; 0 where nobody knows.
func Room(dir, jobs string) int64 {
	free, err := disk.Free(dir)
	if err != nil {
		return 0
	}
	return share((free + proc.UsedBytes(jobs)) >> 20)
}

func share(v int64) int64 { return v - v/keepShare }

// Configured lays the slots of the machine's config file over measured ones. Names are those of the workload file.
func Configured(measured workload.Slots, config map[string]int64) (workload.Slots, error) {
	fields := map[string]*int64{
		"cpu": &measured.CPU, "gpu": &measured.GPU, "vram_mib": &measured.VRAMMiB,
		"ram_mib": &measured.RAMMiB, "disk_mib": &measured.DiskMiB,
	}
	for _, name := range slices.Sorted(maps.Keys(config)) {
		field, ok := fields[name]
		if !ok {
			return workload.Slots{}, fmt.Errorf("slots.%s: unknown slot; there are cpu, gpu, vram_mib, ram_mib, disk_mib", name)
		}
		if config[name] < 0 {
			return workload.Slots{}, fmt.Errorf("slots.%s: is %d, want 0 or more", name, config[name])
		}
		*field = config[name]
	}
	return measured, nil
}

// cgroupLimits are the tightest limits on the way from our control groups to the root, of version 2 and of the controllers of
// version 1; 0 means none. A fraction of a processor counts as one. Inside a container the name of the group is often the host's,
// and the container's own is the root.
func cgroupLimits(root, self string) (cpus, bytes int64) {
	data, err := os.ReadFile(self)
	if err != nil {
		return 0, 0
	}
	tighter := func(have *int64, limit int64) {
		if limit > 0 && (*have == 0 || limit < *have) {
			*have = limit
		}
	}
	quota := func(quota, period string) {
		q, err1 := strconv.ParseInt(quota, 10, 64) // "max" is no number
		p, err2 := strconv.ParseInt(period, 10, 64)
		if err1 == nil && err2 == nil && q > 0 && p > 0 {
			tighter(&cpus, max(1, q/p))
		}
	}
	memory := func(fields []string) {
		if len(fields) != 1 {
			return
		}
		if limit, err := strconv.ParseInt(fields[0], 10, 64); err == nil && limit < noLimit {
			tighter(&bytes, limit)
		}
	}
	for line := range strings.Lines(string(data)) {
		_, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
		controllers, group, _ := strings.Cut(rest, ":")
		for _, c := range strings.Split(controllers, ",") {
			for dir := range upwards(group) {
				switch c {
				case "": // version 2
					if f := readFields(filepath.Join(root, dir, "cpu.max")); len(f) == 2 {
						quota(f[0], f[1])
					}
					memory(readFields(filepath.Join(root, dir, "memory.max")))
				case "cpu":
					// "cpu" beside "cpu,cpuacct" is a link to it; the kernel may name them in another order than the folder does.
					at := filepath.Join(root, c, dir)
					if len(readFields(filepath.Join(at, "cpu.cfs_quota_us"))) == 0 {
						at = filepath.Join(root, controllers, dir)
					}
					q, p := readFields(filepath.Join(at, "cpu.cfs_quota_us")), readFields(filepath.Join(at, "cpu.cfs_period_us"))
					if len(q) == 1 && len(p) == 1 {
						quota(q[0], p[0])
					}
				case "memory":
					memory(readFields(filepath.Join(root, c, dir, "memory.limit_in_bytes")))
				}
			}
		}
	}
	return cpus, bytes
}

// noLimit: version 1 says "none" as the largest number of whole pages.
const noLimit = 1 << 60

// upwards yields a group and all above it.
func upwards(group string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for g := filepath.Join("/", group); yield(g) && g != "/"; g = filepath.Dir(g) {
		}
	}
}

func readFields(path string) []string {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	return strings.Fields(string(data))
}
