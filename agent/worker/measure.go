package worker

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ringagent/ringagent/internal/disk"
	"github.com/ringagent/ringagent/internal/workload"
)

const (
	gpuQueryTime = 10 * time.Second
	// What is left of RAM and disk to the agent, its store and everybody else.
	keepShare = 5 // one fifth
)

// Measure finds out what this machine can give to jobs: processors and memory within the limits of our own control
// group, four fifths of RAM and of the free space on the disk of dir, and NVIDIA devices. What cannot be measured is 0.
func Measure(ctx context.Context, dir string) workload.Slots {
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
	if free, err := disk.Free(dir); err == nil {
		s.DiskMiB = share(free >> 20)
	}
	s.GPU, s.VRAMMiB = gpus(ctx)
	return s
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

// cgroupLimits are the tightest limits on the way from our control group (version 2) to the root; 0 means none. A
// fraction of a processor counts as one.
func cgroupLimits(root, self string) (cpus, bytes int64) {
	data, err := os.ReadFile(self)
	if err != nil {
		return 0, 0
	}
	group := ""
	for line := range strings.Lines(string(data)) {
		if g, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			group = g
		}
	}
	tighter := func(have, limit int64) int64 {
		if have == 0 || (limit > 0 && limit < have) {
			return limit
		}
		return have
	}
	for g := filepath.Join("/", group); ; g = filepath.Dir(g) {
		if fields := readFields(filepath.Join(root, g, "cpu.max")); len(fields) == 2 {
			quota, err1 := strconv.ParseInt(fields[0], 10, 64) // "max" is no number
			period, err2 := strconv.ParseInt(fields[1], 10, 64)
			if err1 == nil && err2 == nil && quota > 0 && period > 0 {
				cpus = tighter(cpus, max(1, quota/period))
			}
		}
		if fields := readFields(filepath.Join(root, g, "memory.max")); len(fields) == 1 {
			if limit, err := strconv.ParseInt(fields[0], 10, 64); err == nil && limit > 0 {
				bytes = tighter(bytes, limit)
			}
		}
		if g == "/" {
			return cpus, bytes
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

// gpus asks the driver's own tool, which may hang with the driver and is then killed.
func gpus(ctx context.Context) (devices, vramMiB int64) {
	ctx, cancel := context.WithTimeout(ctx, gpuQueryTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, "nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits")
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if err != nil {
		return 0, 0
	}
	return parseGPUs(string(out))
}

// parseGPUs reads one line a device; a size that is "[N/A]", as on unified memory, counts as 0.
func parseGPUs(out string) (devices, vramMiB int64) {
	for line := range strings.Lines(out) {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		devices++
		if mib, err := strconv.ParseInt(line, 10, 64); err == nil {
			vramMiB += mib
		}
	}
	return devices, vramMiB
}
