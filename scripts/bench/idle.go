package main

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/ringagent/ringagent/internal/id"
)

const (
	idleMemory = 40 << 20
	// warmUp lets a young ring come to rest: the first minutes' reports, snapshots and garbage are no idling.
	warmUp = 20 * time.Second
)

// idle watches five agents that have nothing to do.
func idle(ctx context.Context, o options, t *table) error {
	r, err := startRing(ctx, o, ringSpec{core: 3, edge: 2, inside: o.profiles != ""})
	defer r.close()
	if err != nil {
		return err
	}
	if !wait(ctx, warmUp) {
		return ctx.Err()
	}
	lead, err := r.coordinator(ctx, r.up())
	if err != nil {
		return err
	}
	before := map[*node]time.Duration{}
	begin := time.Now()
	for _, n := range r.nodes {
		if before[n], err = cpuOf(n.pid); err != nil {
			return err
		}
	}
	if o.profiles != "" {
		for _, n := range r.nodes {
			go func() {
				_, _ = n.ask(ctx, order{For: o.idle - time.Second, Profile: filepath.Join(o.profiles, "idle-"+n.name)})
			}()
		}
	}
	if !wait(ctx, o.idle) {
		return ctx.Err()
	}
	t.head(fmt.Sprintf("Five idle agents, no workload, over %s", o.idle), "", "PSS", "anonymous", "file", "threads", "CPU of a core", "aim")
	for _, n := range r.nodes {
		used, err := cpuOf(n.pid)
		if err != nil {
			return err
		}
		share := (used - before[n]).Seconds() / time.Since(begin).Seconds() * 100
		m, err := memoryOf(n.pid)
		if err != nil {
			return err
		}
		role, limit := "voter", 0.8
		switch {
		case n == lead:
			role, limit = "coordinator", 2.0
		case n.class == id.Edge:
			role, limit = "edge", 0.5
		}
		name := n.name + ", " + role
		cpu := t.aim(share <= limit, "%s: %.2f %% of a core at idle, wanted ≤ %.1f %%", name, share, limit)
		mem := t.aim(m.pss <= idleMemory, "%s: %s, wanted ≤ %s", name, mib(m.pss), mib(idleMemory))
		t.row(name, mib(m.pss), mib(m.anonymous), mib(m.file), fmt.Sprint(threadsOf(n.pid)), fmt.Sprintf("%.2f %%", share),
			fmt.Sprintf("%s (%.1f %%), %s", cpu, limit, mem))
	}
	return nil
}

// wait says whether ctx is still alive after d.
func wait(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}
