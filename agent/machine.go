package agent

import (
	"context"
	"sync"
	"time"

	"github.com/ringagent/ringagent/agent/config"
	"github.com/ringagent/ringagent/agent/worker"
	"github.com/ringagent/ringagent/internal/host"
	"github.com/ringagent/ringagent/internal/workload"
)

const (
	// cardsPatience is how long an agent's start waits for the driver, which wakes its cards first; one that hangs must not keep it.
	cardsPatience = 3 * time.Second
	// slotsEvery is how often is looked again for what was not there before: cards, and room on the disk.
	slotsEvery = time.Minute
)

// machine is what jobs may have of this machine, as far as it is known.
type machine struct {
	mu       sync.Mutex
	measured workload.Slots
	answered bool // it is known which graphics cards there are
}

// slots lays those of a config over what was measured.
func (m *machine) slots(c config.Config) (workload.Slots, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return worker.Configured(m.measured, slotsByName(c.Slots))
}

func (m *machine) cardsUnknown() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return !m.answered
}

func (m *machine) count(cards []host.GPU) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.measured.GPU, m.measured.VRAMMiB, m.answered = int64(len(cards)), 0, true
	for _, c := range cards {
		if c.MemTotalMiB != nil { // unified memory is counted as RAM
			m.measured.VRAMMiB += int64(*c.MemTotalMiB)
		}
	}
}

// grow takes over room that was not there before, unless it is little: each change is told to the ring.
func (m *machine) grow(diskMiB int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if diskMiB > m.measured.DiskMiB+m.measured.DiskMiB/10 {
		m.measured.DiskMiB = diskMiB
	}
}

func (m *machine) hasCards() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.measured.GPU > 0
}

// followSlots changes what jobs may have when a reloaded config says so, or when the machine has more than it had at the start: cards
// whose driver came up late, and a disk that was full then.
func (a *Agent) followSlots(ctx context.Context) {
	wait := slotsEvery
	if a.machine.cardsUnknown() {
		wait = 0 // the driver is being asked, and has only not answered yet
	}
	for {
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-a.resized:
			timer.Stop()
		case <-timer.C:
			wait = slotsEvery
			a.lookAgain(ctx)
		}
		a.changeSlots()
	}
}

func (a *Agent) lookAgain(ctx context.Context) {
	a.machine.grow(worker.Room(a.dir.root, a.dir.path("jobs")))
	if a.machine.hasCards() {
		return
	}
	if cards, err := a.host.GPUs(ctx); err == nil { // else it was told at the start
		a.machine.count(cards)
	}
}

func (a *Agent) changeSlots() {
	slots, err := a.machine.slots(*a.conf.Load())
	if err != nil {
		a.log.Error().Err(err).Msg("slots not changed") // they were checked before
		return
	}
	if slots == a.worker.Slots() {
		return
	}
	a.worker.Resize(slots)
	a.logSlots(slots)
	a.introduceAgain()
}

// introduceAgain has introduce look whether the ring knows what has changed here.
func (a *Agent) introduceAgain() {
	select {
	case a.changed <- struct{}{}:
	default:
	}
}

func (a *Agent) logSlots(s workload.Slots) {
	a.log.Info().Int64("cpu", s.CPU).Int64("gpu", s.GPU).Int64("vram_mib", s.VRAMMiB).Int64("ram_mib", s.RAMMiB).
		Int64("disk_mib", s.DiskMiB).Msg("slots for jobs")
}
