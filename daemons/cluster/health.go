package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// Verdicts of a node on itself.
const (
	Healthy   = "HEALTHY"
	Degraded  = "DEGRADED"
	Unhealthy = "UNHEALTHY"
)

// HealthSettings are the limits of NODE_HEALTH_MONITOR. CPU is not among them: jobs are niced and meant to fill it.
type HealthSettings struct {
	DiskPercent   float64      `json:"disk_percent"`    // degraded
	DiskFull      float64      `json:"disk_full"`       // unhealthy
	DiskFreeBytes int64        `json:"disk_free_bytes"` // unhealthy below
	MemPercent    float64      `json:"mem_percent"`     // overloaded
	GPUTemp       float64      `json:"gpu_temp"`        // degraded, °C
	FsyncSlow     kit.Duration `json:"fsync_slow"`      // degraded
	FsyncStalled  kit.Duration `json:"fsync_stalled"`   // unhealthy
	Probe         int          `json:"probe"`           // peers that are pinged in one step
	Settle        int          `json:"settle"`          // readings in a row before a change is told
}

// Validate implements kit's check.
func (s HealthSettings) Validate() error {
	if s.DiskPercent <= 0 || s.DiskFull < s.DiskPercent || s.MemPercent <= 0 || s.FsyncSlow <= 0 || s.FsyncStalled < s.FsyncSlow ||
		s.Probe < 1 || s.Settle < 1 {
		return errors.New("want disk_percent ≤ disk_full, fsync_slow ≤ fsync_stalled, and everything above zero")
	}
	return nil
}

// NodeHealth is NODE_HEALTH_MONITOR.
func NodeHealth() kit.Spec {
	defaults := HealthSettings{DiskPercent: 90, DiskFull: 95, DiskFreeBytes: 256 << 20, MemPercent: 90, GPUTemp: 90,
		FsyncSlow: kit.Duration(time.Second), FsyncStalled: kit.Duration(10 * time.Second), Probe: 5, Settle: 2}
	s := kit.Spec{
		Name: "NODE_HEALTH_MONITOR", Category: "cluster", Scope: kit.ScopeNode, DependsOn: []string{"EVENT_ROUTER"}, Every: 10 * time.Second,
		Doc:      "Judges this node by its own samples and by the peers that it can reach, and publishes the verdict with its reasons.",
		Settings: defaults,
		Emits:    []event.Type{event.NodeUnhealthy.Type(), event.NodeRecovered.Type(), event.NodeOverloaded.Type()},
	}
	s.New = func(env kit.Env) (kit.Daemon, error) {
		set, err := kit.Decode(env.Settings, defaults)
		if err != nil {
			return nil, err
		}
		h := &health{set: set, self: env.Self, now: env.Now, host: env.Host, peers: env.Peers, orders: env.Orders, events: env.Events}
		return kit.NewMonitor(env, kit.Monitor{Sample: h.sample, Changed: h.changed, Worse: set.Settle, Better: set.Settle}), nil
	}
	return s
}

type health struct {
	set    HealthSettings
	self   kit.Self
	now    func() time.Time
	host   kit.Host
	peers  kit.Peers
	orders kit.Orders
	events kit.Events
	ill    time.Time // since when UNHEALTHY was told
}

// Subjects of the two readings.
const (
	fitness = "fitness"
	load    = "load"
)

func (h *health) sample(ctx context.Context) ([]kit.Reading, error) {
	sample := h.host.Sample(ctx)
	reach := h.probe(ctx)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	level, reasons := h.set.judge(sample, reach)
	overload, why := h.set.overloaded(sample)
	h.host.Report(kit.Health{Verdict: []string{Healthy, Degraded, Unhealthy}[level], Reasons: slices.Concat(reasons, why), At: sample.At,
		Sample: sample, Reach: reach})
	return []kit.Reading{{Key: fitness, Level: level, Reasons: reasons}, {Key: load, Level: overload, Reasons: why}}, nil
}

// probe pings some peers, others each time, in parallel.
func (h *health) probe(ctx context.Context) map[id.Node]bool {
	var pool []id.Node
	for _, p := range h.peers.Peers() {
		if p.Status == ring.Alive && p.ID != h.self.ID {
			pool = append(pool, p.ID)
		}
	}
	rand.Shuffle(len(pool), func(i, j int) { pool[i], pool[j] = pool[j], pool[i] })
	pool = pool[:min(len(pool), h.set.Probe)]
	out := make(map[id.Node]bool, len(pool))
	var mu sync.Mutex
	var group sync.WaitGroup
	for _, n := range pool {
		group.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
			defer cancel()
			_, err := h.orders.Ping(ctx, n)
			mu.Lock()
			defer mu.Unlock()
			out[n] = err == nil
		})
	}
	group.Wait()
	return out
}

func (h *health) changed(ctx context.Context, r kit.Reading, from int) error {
	v := event.NodeVerdict{Reasons: r.Reasons}
	var t event.Type
	switch {
	case r.Key == load && r.Level > 0:
		t = event.NodeOverloaded.Type()
	case r.Key == fitness && r.Level == 2:
		t = event.NodeUnhealthy.Type()
		h.ill = h.now()
	case r.Key == fitness && from == 2:
		t = event.NodeRecovered.Type()
		v.DowntimeSeconds = h.now().Sub(h.ill).Seconds()
	default:
		return nil // between good and degraded: the verdict shows it, nobody needs to act
	}
	if _, err := h.events.Publish(ctx, t, kit.Stamp(h.self, v), ""); err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	return nil
}

// judge gives the level (0 healthy, 1 degraded, 2 unhealthy) and every reason. What is unknown is no reason.
func (s HealthSettings) judge(m kit.Sample, reach map[id.Node]bool) (level int, reasons []string) {
	bad := func(l int, format string, a ...any) {
		level = max(level, l)
		reasons = append(reasons, fmt.Sprintf(format, a...))
	}
	switch p := m.DiskPercent; {
	case p == nil:
	case *p >= s.DiskFull:
		bad(2, "disk is %.0f%% full", *p)
	case *p >= s.DiskPercent:
		bad(1, "disk is %.0f%% full", *p)
	}
	if m.DiskFree != nil && *m.DiskFree < s.DiskFreeBytes {
		bad(2, "only %d MiB of disk are free", *m.DiskFree>>20)
	}
	switch f := m.FsyncSeconds; {
	case f == nil:
	case *f >= s.FsyncStalled.D().Seconds():
		bad(2, "fsync takes %.1f s", *f)
	case *f >= s.FsyncSlow.D().Seconds():
		bad(1, "fsync takes %.1f s", *f)
	}
	s.gpus(m, bad)
	failed := 0
	for _, stage := range slices.Sorted(maps.Keys(m.Preflight)) {
		if why := m.Preflight[stage]; why != "" {
			failed++
			bad(1, "workload stage %s: %s", stage, why)
		}
	}
	if failed > 0 && failed == len(m.Preflight) {
		level = 2
	}
	reached := 0
	for _, ok := range reach {
		if ok {
			reached++
		}
	}
	switch n := len(reach); {
	case n > 0 && reached == 0:
		bad(2, "reaches none of %d peers", n)
	case 2*reached < n:
		bad(1, "reaches %d of %d peers", reached, n)
	}
	return level, reasons
}

func (s HealthSettings) gpus(m kit.Sample, bad func(int, string, ...any)) {
	if m.GPUSlots == 0 {
		return
	}
	switch {
	case m.GPUError != "":
		bad(2, "GPU: %s", m.GPUError)
	case m.GPUs != nil && len(m.GPUs) < m.GPUSlots:
		bad(2, "%d of %d GPUs are there", len(m.GPUs), m.GPUSlots)
	}
	for _, g := range m.GPUs {
		if g.TempC != nil && *g.TempC >= s.GPUTemp {
			bad(1, "GPU %s is at %.0f °C", g.Name, *g.TempC)
		}
	}
}

func (s HealthSettings) overloaded(m kit.Sample) (int, []string) {
	if m.MemPercent != nil && *m.MemPercent >= s.MemPercent {
		return 1, []string{fmt.Sprintf("memory is %.0f%% used", *m.MemPercent)}
	}
	return 0, nil
}
