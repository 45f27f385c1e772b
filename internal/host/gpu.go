package host

import (
	"context"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// GPU is one device's reading; a nil pointer is unknown, as for "[N/A]" or "[Not Supported]".
type GPU struct {
	Name        string
	MemUsedMiB  *int
	MemTotalMiB *int
	UtilPercent *float64
	TempC       *float64
}

// gpuTime bounds the driver's tool, which hangs with a hung driver, and wakes every card without persistence mode.
const gpuTime = 30 * time.Second

// gpus asks the NVIDIA driver's tool. A machine without the tool has no cards and no error.
func (r *Reader) gpus(ctx context.Context) ([]GPU, string) {
	r.once.Do(func() {
		_, err := exec.LookPath("nvidia-smi")
		r.gpu = err == nil
	})
	if !r.gpu {
		return nil, ""
	}
	ctx, cancel := context.WithTimeout(ctx, gpuTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, "nvidia-smi", "--query-gpu=name,memory.used,memory.total,utilization.gpu,temperature.gpu", "--format=csv,noheader,nounits")
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Sprintf("nvidia-smi: %v", err)
	}
	gpus, err := parseGPUs(string(out))
	if err != nil {
		return nil, err.Error()
	}
	return gpus, ""
}

func parseGPUs(out string) ([]GPU, error) {
	var gpus []GPU
	for _, line := range strings.Split(strings.TrimSpace(out), "\n") {
		if strings.TrimSpace(line) == "" {
			continue
		}
		f := strings.Split(line, ",")
		if len(f) != 5 {
			return nil, fmt.Errorf("nvidia-smi: %d fields in %q, want 5", len(f), line)
		}
		for i := range f {
			f[i] = strings.TrimSpace(f[i])
		}
		gpus = append(gpus, GPU{Name: f[0], MemUsedMiB: whole(f[1]), MemTotalMiB: whole(f[2]), UtilPercent: real(f[3]), TempC: real(f[4])})
	}
	return gpus, nil
}

func whole(s string) *int {
	if n, err := strconv.Atoi(s); err == nil {
		return &n
	}
	return nil
}

func real(s string) *float64 {
	if x, err := strconv.ParseFloat(s, 64); err == nil {
		return &x
	}
	return nil
}
