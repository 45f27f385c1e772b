package host

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/shirou/gopsutil/v4/cpu"
	"github.com/shirou/gopsutil/v4/disk"
	"github.com/shirou/gopsutil/v4/mem"
)

// Sample is one reading. A nil pointer is unknown.
type Sample struct {
	CPUPercent   *float64 // of all processors, since the sample before
	MemPercent   *float64
	DiskFree     *int64 // bytes that this user may still write under Dir
	DiskPercent  *float64
	FsyncSeconds *float64 // a 4 KiB write and fsync in Dir
	GPUs         []GPU
	GPUError     string // why the graphics cards could not be read; "" also where there are none
}

// Reader samples the machine that dir lies on.
type Reader struct {
	dir   string
	cards asking
}

// NewReader makes a reader; dir must exist.
func NewReader(dir string) *Reader { return &Reader{dir: dir} }

// Sample reads everything once.
func (r *Reader) Sample(ctx context.Context) Sample {
	var s Sample
	if p, err := cpu.PercentWithContext(ctx, 0, false); err == nil && len(p) == 1 {
		s.CPUPercent = &p[0]
	}
	if used, limit, ok := memory(ctx); ok && limit > 0 {
		p := 100 * float64(used) / float64(limit)
		s.MemPercent = &p
	}
	if u, err := disk.UsageWithContext(ctx, r.dir); err == nil {
		free, p := int64(u.Free), u.UsedPercent
		s.DiskFree, s.DiskPercent = &free, &p
	}
	if d, err := r.canary(); err == nil {
		p := d.Seconds()
		s.FsyncSeconds = &p
	}
	var err error
	if s.GPUs, err = r.GPUs(ctx); err != nil {
		s.GPUError = err.Error()
	}
	return s
}

// canary measures how long a small write takes to be on disk.
func (r *Reader) canary() (time.Duration, error) {
	f, err := os.CreateTemp(r.dir, ".canary-*")
	if err != nil {
		return 0, fmt.Errorf("make canary: %w", err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	begin := time.Now()
	if _, err := f.Write(make([]byte, 4096)); err != nil {
		return 0, fmt.Errorf("write canary: %w", err)
	}
	if err := f.Sync(); err != nil {
		return 0, fmt.Errorf("sync canary: %w", err)
	}
	return time.Since(begin), nil
}

// memory is what this process's group uses and may use: a container's limit where there is one, else the machine's.
func memory(ctx context.Context) (used, limit uint64, ok bool) {
	v, err := mem.VirtualMemoryWithContext(ctx)
	if err != nil {
		return 0, 0, false
	}
	if max, okMax := cgroupNumber("memory.max"); okMax && max < v.Total {
		if now, okNow := cgroupNumber("memory.current"); okNow {
			return now - min(now, cgroupStat("memory.stat", "inactive_file")), max, true // files that the kernel gives up at once
		}
	}
	return v.Total - v.Available, v.Total, true
}

func cgroupFile(name string) (string, bool) {
	b, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", name))
	return string(b), err == nil
}
