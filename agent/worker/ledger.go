package worker

import (
	"slices"
	"sync"

	"github.com/ringagent/ringagent/internal/workload"
)

// Ledger knows what of the node's slots is taken, and by which job.
type Ledger struct {
	mu    sync.Mutex
	total workload.Slots
	held  map[string]Grant
}

// Grant is what one job holds.
type Grant struct {
	Slots workload.Slots `json:"slots"`
	// GPUs are the device numbers, as many as Slots.GPU.
	GPUs []int `json:"gpus"`
}

// NewLedger returns a ledger in which nothing is taken.
func NewLedger(total workload.Slots) *Ledger {
	return &Ledger{total: total, held: make(map[string]Grant)}
}

// Total is what the node has.
func (l *Ledger) Total() workload.Slots {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.total
}

// Resize changes what the node has. What is taken stays taken.
func (l *Ledger) Resize(total workload.Slots) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total = total
}

// Free is what is not taken; components are negative while adopted jobs hold more than there is.
func (l *Ledger) Free() workload.Slots {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.free()
}

func (l *Ledger) free() workload.Slots {
	free := l.total
	for _, g := range l.held {
		free = free.Sub(g.Slots)
	}
	return free
}

// disk is what each job that asked for room on the disk was given, in MiB.
func (l *Ledger) disk() map[string]int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := map[string]int64{}
	for job, g := range l.held {
		if g.Slots.DiskMiB > 0 {
			out[job] = g.Slots.DiskMiB
		}
	}
	return out
}

// Reserve takes need for a job; false means that it does not fit or the job holds something already.
func (l *Ledger) Reserve(job string, need workload.Slots) (Grant, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, dup := l.held[job]; dup || !need.Fits(l.free()) {
		return Grant{}, false
	}
	g := Grant{Slots: need, GPUs: []int{}}
	for device := 0; len(g.GPUs) < int(need.GPU); device++ {
		if !l.taken(device) {
			g.GPUs = append(g.GPUs, device)
		}
	}
	l.held[job] = g
	return g, true
}

func (l *Ledger) taken(device int) bool {
	for _, g := range l.held {
		if slices.Contains(g.GPUs, device) {
			return true
		}
	}
	return false
}

// Adopt enters what a job of a former agent process holds, whether it fits or not: it runs already. False means that the
// job is entered already.
func (l *Ledger) Adopt(job string, g Grant) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, dup := l.held[job]; dup {
		return false
	}
	l.held[job] = g
	return true
}

// Release gives back what a job holds; false means that it holds nothing (any more).
func (l *Ledger) Release(job string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.held[job]; !ok {
		return false
	}
	delete(l.held, job)
	return true
}
