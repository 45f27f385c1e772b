package agent

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/mesh"
)

// reportBook keeps what other nodes last said of themselves.
type reportBook struct {
	mu     sync.Mutex
	all    map[id.Node]heardReport
	asking atomic.Bool
}

type heardReport struct {
	report
	heard time.Time // when it was asked for: what it says is no older
}

const (
	reportFresh = 2 * time.Second // a report this young is not asked for again
	reportLimit = time.Second     // for all nodes to answer

	// What another node says of itself is kept, and added up with what others say: it may be only so large.
	reportBytes   = 256 << 10
	reportConfigs = 1024
	reportGames   = 1 << 40 // of one config
)

// ask has another node report.
func (b *reportBook) ask(ctx context.Context, m *mesh.Mesh, n id.Node) (r report, err error) {
	if err = m.CallWithin(ctx, n, methodReport, struct{}{}, &r, reportBytes); err != nil {
		return report{}, err
	}
	if len(r.PerConfig) > reportConfigs {
		return report{}, mesh.Errorf(mesh.CodeInvalid, "node %s reports of %d configs", n, len(r.PerConfig))
	}
	for c, games := range r.PerConfig {
		if games < 0 || games > reportGames {
			return report{}, mesh.Errorf(mesh.CodeInvalid, "node %s reports %d games of %s", n, games, c)
		}
	}
	return r, nil
}

// reports asks every live node that has not reported lately, all at once, and returns what is known of everybody.
func (a *Agent) reports(ctx context.Context) map[id.Node]heardReport {
	b := &a.heard
	asked := time.Now()
	own := a.report(ctx) // takes the supervisor's lock, under which runsSomewhere takes ours
	b.mu.Lock()
	if b.all == nil {
		b.all = map[id.Node]heardReport{}
	}
	b.all[a.node.ID] = heardReport{own, asked}
	var ask []id.Node
	for _, m := range a.mesh.Members() {
		if m.ID != a.node.ID && statusOf(m) == ring.Alive && time.Since(b.all[m.ID].heard) > reportFresh {
			ask = append(ask, m.ID)
		}
	}
	b.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, reportLimit)
	defer cancel()
	var group sync.WaitGroup
	for _, n := range ask {
		group.Go(func() {
			began := time.Now()
			r, err := b.ask(ctx, a.mesh, n)
			if err != nil {
				a.log.Debug().Err(err).Str("peer", string(n)).Msg("no report")
				return
			}
			b.mu.Lock()
			b.all[n] = heardReport{r, began}
			b.mu.Unlock()
		})
	}
	group.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	out := make(map[id.Node]heardReport, len(b.all))
	for n, r := range b.all {
		out[n] = r
	}
	return out
}

// unsynced adds up the finished games that have no receipts yet, by config. It is unknown when a node that may still have
// some has not said so within the age limit; nodes that left or were shut out no longer count.
func (a *Agent) unsynced(heard map[id.Node]heardReport, r reading) (map[id.Config]int64, bool) {
	sum := map[id.Config]int64{}
	known := true
	for m := range r.s.Members() {
		if m.Revoked || m.Status == ring.Left {
			continue
		}
		h, ok := heard[m.ID]
		if !ok || h.Unsynced == nil || !a.known(h) {
			known = false
			continue
		}
		for c, n := range h.PerConfig {
			sum[c] += n
		}
	}
	return sum, known
}
