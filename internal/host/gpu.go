package host

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
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

// asking is one call of the driver's tool at a time: where it hangs in the kernel nothing ends it, and another would hang beside it.
type asking struct {
	seen atomic.Bool // there was a tool
	mu   sync.Mutex
	now  *answer // nil: nobody asks
}

type answer struct {
	since time.Time
	done  chan struct{}
	gpus  []GPU
	err   error
}

// GPUs asks the NVIDIA driver's tool for the graphics cards. A machine without the tool has no cards and no error. An answer that does not
// come before the context ends, or for much longer than it may take, is an error.
func (r *Reader) GPUs(ctx context.Context) ([]GPU, error) {
	tool, err := exec.LookPath("nvidia-smi")
	switch {
	case err == nil:
		r.cards.seen.Store(true)
	case r.cards.seen.Load():
		return nil, errors.New("nvidia-smi is gone")
	default:
		return nil, nil
	}
	return r.cards.ask(ctx, func() ([]GPU, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), gpuTime)
		defer cancel()
		cmd := exec.CommandContext(ctx, tool, "--query-gpu=name,memory.used,memory.total,utilization.gpu,temperature.gpu", "--format=csv,noheader,nounits")
		cmd.WaitDelay = time.Second
		out, err := cmd.Output()
		if err != nil {
			return nil, fmt.Errorf("nvidia-smi: %w", err)
		}
		return parseGPUs(string(out))
	})
}

func (a *asking) ask(ctx context.Context, run func() ([]GPU, error)) ([]GPU, error) {
	a.mu.Lock()
	now := a.now
	if now == nil {
		now = &answer{since: time.Now(), done: make(chan struct{})}
		a.now = now
		go func() {
			now.gpus, now.err = run()
			a.mu.Lock()
			a.now = nil
			a.mu.Unlock()
			close(now.done)
		}()
	}
	a.mu.Unlock()
	patience := time.NewTimer(gpuTime + 2*time.Second - time.Since(now.since))
	defer patience.Stop()
	select {
	case <-now.done:
		return now.gpus, now.err
	case <-ctx.Done():
	case <-patience.C:
	}
	return nil, fmt.Errorf("nvidia-smi has not answered for %v", time.Since(now.since).Round(time.Second))
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
