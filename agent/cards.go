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
	// cardsRetry is how often cards that did not answer are asked for again.
	cardsRetry = time.Minute
)

// machine is what jobs may have of this machine, as far as it is known.
type machine struct {
	mu       sync.Mutex
	measured workload.Slots
	counted  bool // the graphics cards are known
}

// slots lays those of a config over what was measured.
func (m *machine) slots(c config.Config) (workload.Slots, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return worker.Configured(m.measured, slotsByName(c.Slots))
}

func (m *machine) known() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.counted
}

func (m *machine) count(cards []host.GPU) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.measured.GPU, m.measured.VRAMMiB, m.counted = int64(len(cards)), 0, true
	for _, c := range cards {
		if c.MemTotalMiB != nil { // unified memory is counted as RAM
			m.measured.VRAMMiB += int64(*c.MemTotalMiB)
		}
	}
}

// followSlots changes what jobs may have, and tells the ring, when a reloaded config says so, or when graphics cards answer that did not
// at the start, as where the driver comes up after the agent.
func (a *Agent) followSlots(ctx context.Context) {
	for {
		var retry <-chan time.Time
		if !a.machine.known() {
			retry = time.After(cardsRetry)
		}
		select {
		case <-ctx.Done():
			return
		case <-a.resized:
		case <-retry:
			cards, err := a.host.GPUs(ctx)
			if err != nil {
				continue // it was told at the start
			}
			a.machine.count(cards)
		}
		a.changeSlots(ctx)
	}
}

func (a *Agent) changeSlots(ctx context.Context) {
	slots, err := a.machine.slots(*a.conf.Load())
	if err != nil {
		a.log.Error().Err(err).Msg("slots not changed") // they were checked before
		return
	}
	if slots == a.worker.Snapshot().Total {
		return
	}
	a.worker.Resize(slots)
	a.logSlots(slots)
	for !a.draining.Load() {
		err := a.sayHello(ctx)
		if err == nil {
			return
		}
		a.log.Debug().Err(err).Msg("slots not told yet")
		if !pause(ctx, time.Second) {
			return
		}
	}
}

func (a *Agent) logSlots(s workload.Slots) {
	a.log.Info().Int64("cpu", s.CPU).Int64("gpu", s.GPU).Int64("vram_mib", s.VRAMMiB).Int64("ram_mib", s.RAMMiB).
		Int64("disk_mib", s.DiskMiB).Msg("slots for jobs")
}
