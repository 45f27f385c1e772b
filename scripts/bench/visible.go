package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/ringagent/ringagent/agent/api"
)

const (
	visibleRate  = 200 // events/s
	visibleCount = 2000
	visibleAim   = 50 * time.Millisecond
)

// visible publishes at a steady rate on one node and sees when each event is on all five, in the streams that the API
// gives to anybody.
func visible(ctx context.Context, o options, t *table) error {
	r, err := startRing(ctx, o, ringSpec{core: 3, edge: 2})
	defer r.close()
	if err != nil {
		return err
	}
	t.head(fmt.Sprintf("Publish → visible, %d/s, 512 B, POST /events → stream of GET /events", visibleRate), "", "p50", "p99", "max", "aim")
	lead, err := r.coordinator(ctx, r.up())
	if err != nil {
		return err
	}
	edge := r.nodes[len(r.nodes)-1]
	for _, at := range []struct {
		where string
		node  *node
	}{{"coordinator", lead}, {"edge node", edge}} {
		stop, err := watchStalls(o.dir)
		if err != nil {
			return err
		}
		first, all, err := r.spread(ctx, at.node)
		still, stillErr := stop()
		if err := errors.Join(err, stillErr); err != nil {
			return err
		}
		name := "on all 5 nodes, published at " + at.where
		p99 := quantile(all, 0.99)
		verdict := t.aim(p99 <= visibleAim, "%s: p99 %s, wanted ≤ %s", name, millis(p99), millis(visibleAim))
		t.row("on the own node, published at "+at.where, millis(quantile(first, 0.5)), millis(quantile(first, 0.99)), millis(quantile(first, 1)))
		t.row(name, millis(quantile(all, 0.5)), millis(p99), millis(quantile(all, 1)), verdict+fmt.Sprintf(" (%s)", millis(visibleAim)))
		t.row("… meanwhile longest", still.columns()...)
	}
	return nil
}

// sighting is an event seen on a node.
type sighting struct {
	node int
	id   string
	at   time.Time
}

// spread publishes on one node and returns how long each event took to be seen there and on all nodes.
func (r *testRing) spread(ctx context.Context, at *node) (own, all []time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	seen := make(chan sighting, 1024)
	for i, n := range r.nodes {
		body, err := n.client().Stream(ctx, "/api/v1/events", url.Values{"follow": {"1"}, "type": {"OPERATOR_NOTE"}})
		if err != nil {
			return nil, nil, fmt.Errorf("follow %s: %w", n.name, err)
		}
		defer body.Close()
		go func() {
			lines := bufio.NewScanner(body)
			lines.Buffer(nil, 1<<20)
			for lines.Scan() {
				var e struct {
					ID string `json:"id"`
				}
				if json.Unmarshal(lines.Bytes(), &e) != nil {
					continue
				}
				select {
				case seen <- sighting{i, e.ID, time.Now()}:
				case <-ctx.Done():
					return
				}
			}
		}()
	}
	var mu sync.Mutex
	sent := map[string]time.Time{}
	failed := make(chan error, 1)
	go func() {
		var group sync.WaitGroup
		client := at.client()
		tick := time.NewTicker(time.Second / visibleRate)
		defer tick.Stop()
		for range visibleCount {
			<-tick.C
			group.Go(func() {
				began := time.Now()
				var p api.Published
				if err := client.Post(ctx, "/api/v1/events", api.Publish{Type: "OPERATOR_NOTE", Payload: payload()}, &p); err != nil {
					select {
					case failed <- fmt.Errorf("publish at %s: %w", at.name, err):
					default:
					}
					return
				}
				mu.Lock()
				sent[p.ID] = began
				mu.Unlock()
			})
		}
		group.Wait()
	}()
	byID := map[string]map[int]time.Time{}
	done := 0
	for done < visibleCount {
		select {
		case s := <-seen:
			if byID[s.id] == nil {
				byID[s.id] = map[int]time.Time{}
			}
			byID[s.id][s.node] = s.at
			if len(byID[s.id]) == len(r.nodes) {
				done++
			}
		case err := <-failed:
			return nil, nil, err
		case <-ctx.Done():
			return nil, nil, fmt.Errorf("%d of %d events were seen everywhere: %w", done, visibleCount, ctx.Err())
		}
	}
	mu.Lock()
	defer mu.Unlock()
	for id, nodes := range byID {
		began, ok := sent[id]
		if !ok {
			continue
		}
		var last time.Time
		for i, when := range nodes {
			if when.After(last) {
				last = when
			}
			if r.nodes[i] == at {
				own = append(own, when.Sub(began))
			}
		}
		all = append(all, last.Sub(began))
	}
	if len(all) < visibleCount*9/10 {
		return nil, nil, fmt.Errorf("only %d of %d events were matched: %s", len(all), visibleCount, strings.TrimSpace(at.name))
	}
	return own, all, nil
}
