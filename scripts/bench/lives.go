package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/ringagent/ringagent/agent/api"
)

const (
	electionAim   = 4 * time.Second
	singletonsAim = 12 * time.Second
)

// start stops and starts a voter of a settled ring: until its socket answers, and until it is ready.
func start(ctx context.Context, o options, t *table) error {
	r, err := startRing(ctx, o, ringSpec{core: 3, edge: 2})
	defer r.close()
	if err != nil {
		return err
	}
	t.head(fmt.Sprintf("Agent start, %d times each (ready: it knows the coordinator and a quorum, and has the whole log)", o.rounds), "", "p50", "max")
	for _, at := range []struct {
		what string
		node func() (*node, error)
	}{
		{"a voter", func() (*node, error) {
			lead, err := r.coordinator(ctx, r.up())
			if err == nil && lead == r.nodes[1] {
				return r.nodes[2], nil
			}
			return r.nodes[1], err
		}},
		{"an edge node", func() (*node, error) { return r.nodes[4], nil }},
	} {
		var answers, ready []time.Duration
		for range o.rounds {
			n, err := at.node()
			if err != nil {
				return err
			}
			n.stop()
			begin := time.Now()
			if err := r.launch(n); err != nil {
				return err
			}
			var s api.Status
			if err := until(ctx, "an answer of "+n.name, func(ctx context.Context) error {
				var l api.Leader
				return n.client().Get(ctx, "/api/v1/leader", nil, &l)
			}); err != nil {
				return err
			}
			answers = append(answers, time.Since(begin))
			if err := until(ctx, n.name+" ready", func(ctx context.Context) error {
				if err := n.client().Get(ctx, "/api/v1/status", nil, &s); err != nil {
					return err
				}
				if s.Coordinator == nil || !s.QuorumOK || s.Events.Lag == nil || *s.Events.Lag > 0 {
					return errors.New("not ready")
				}
				return nil
			}); err != nil {
				return err
			}
			ready = append(ready, time.Since(begin))
			if err := r.settled(ctx); err != nil {
				return err
			}
		}
		t.row(at.what+": process start → socket answers", millis(quantile(answers, 0.5)), millis(quantile(answers, 1)))
		t.row(at.what+": process start → ready", millis(quantile(ready, 0.5)), millis(quantile(ready, 1)))
	}
	return nil
}

// failover kills the coordinator's process, and starts it again before the next round.
func failover(ctx context.Context, o options, t *table) error {
	r, err := startRing(ctx, o, ringSpec{core: 3, edge: 2})
	defer r.close()
	if err != nil {
		return err
	}
	var elected, running []time.Duration
	for range o.rounds {
		old, err := r.coordinator(ctx, r.up())
		if err != nil {
			return err
		}
		old.kill()
		begin := time.Now()
		var lead *node
		if err := until(ctx, "another coordinator", func(ctx context.Context) error {
			for _, n := range r.up() {
				var l api.Leader
				if n.client().Get(ctx, "/api/v1/leader", nil, &l) == nil && l.Coordinator != nil && *l.Coordinator == n.name && n != old {
					lead = n
					return nil
				}
			}
			return errors.New("nobody coordinates")
		}); err != nil {
			return err
		}
		elected = append(elected, time.Since(begin))
		if err := until(ctx, "all singletons", func(ctx context.Context) error {
			missing, err := r.waiting(ctx, lead)
			if err == nil && len(missing) > 0 {
				err = fmt.Errorf("not running: %s", strings.Join(missing, " "))
			}
			return err
		}); err != nil {
			return err
		}
		running = append(running, time.Since(begin))
		if err := r.launch(old); err != nil {
			return err
		}
		if err := r.settled(ctx); err != nil {
			return err
		}
	}
	t.head(fmt.Sprintf("Failover, kill -9 of the coordinator's process, %d times", o.rounds), "", "p50", "max", "aim")
	most := quantile(elected, 1)
	t.row("→ another coordinator", millis(quantile(elected, 0.5)), millis(most),
		t.aim(most <= electionAim, "failover: another coordinator after %s, wanted ≤ %s", millis(most), millis(electionAim))+" ("+millis(electionAim)+")")
	most = quantile(running, 1)
	t.row("→ every singleton RUNNING", millis(quantile(running, 0.5)), millis(most),
		t.aim(most <= singletonsAim, "failover: singletons after %s, wanted ≤ %s", millis(most), millis(singletonsAim))+" ("+millis(singletonsAim)+")")
	return nil
}
