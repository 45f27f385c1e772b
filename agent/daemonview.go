package agent

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/agent/supervise"
	"github.com/ringagent/ringagent/daemons"
	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// daemonRows are this node's rows: every node-scope daemon, and the singletons that it holds.
func (a *Agent) daemonRows() []api.DaemonRow {
	out := []api.DaemonRow{}
	now := time.Now()
	for _, r := range a.supervisor.Rows() {
		if r.Scope == kit.ScopeCluster && !r.Held {
			continue
		}
		out = append(out, a.daemonRow(r, now))
	}
	return out
}

func (a *Agent) daemonRow(r supervise.Row, now time.Time) api.DaemonRow {
	name := a.node.Name
	row := api.DaemonRow{
		Name: r.Name, Category: r.Category, Scope: r.Scope.String(), State: string(r.State), Node: &name, Restarts: r.Restarts,
		DependsOn: orEmpty(r.DependsOn), BlockedOn: orEmpty(r.BlockedOn), LastError: r.LastError,
	}
	since := r.Since.UTC()
	row.Since = &since
	if r.Epoch != 0 {
		e := uint64(r.Epoch)
		row.Epoch = &e
	}
	if !r.LastProgress.IsZero() {
		age := now.Sub(r.LastProgress).Seconds()
		row.LastProgressSeconds = &age
	}
	if r.AliasOf != "" {
		alias := r.AliasOf
		row.AliasOf = &alias
	}
	return row
}

func orEmpty(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}

// daemonsShape answers `daemons`: this node's node-scope rows and every singleton, the rows of one other node, or the union.
func (a *Agent) daemonsShape(ctx context.Context, all bool, node string) (api.Daemons, error) {
	r := a.near()
	out := api.Daemons{Daemons: []api.DaemonRow{}, AsOf: a.asOfWith(r, a.stats(ctx))}
	if node != "" {
		m, err := a.find(node)
		if err != nil {
			return out, err
		}
		rows := a.rowsOf(ctx, []id.Node{m.ID})
		out.Daemons = append(out.Daemons, rows[m.ID]...)
		return out, nil
	}
	ask := []id.Node{}
	holders := map[id.Node]bool{}
	for as := range r.s.Assignments() {
		if as.Node != "" && as.Node != a.node.ID {
			holders[as.Node] = true
		}
	}
	if all {
		for _, m := range a.belonging(r) {
			if m.ID != a.node.ID && !m.Revoked && m.Status != ring.Left {
				ask = append(ask, m.ID)
				delete(holders, m.ID)
			}
		}
	}
	for n := range holders {
		ask = append(ask, n)
	}
	rows := a.rowsOf(ctx, ask)
	rows[a.node.ID] = a.daemonRows()
	for n, rs := range rows {
		for _, row := range rs {
			if row.Scope == kit.ScopeNode.String() && (all || n == a.node.ID) {
				out.Daemons = append(out.Daemons, row)
			}
		}
	}
	for _, s := range a.specs {
		if s.Scope == kit.ScopeCluster && s.AliasOf == "" {
			out.Daemons = append(out.Daemons, a.singletonRow(r, s, rows))
		}
	}
	slices.SortStableFunc(out.Daemons, func(x, y api.DaemonRow) int {
		if c := strings.Compare(x.Name, y.Name); c != 0 {
			return c
		}
		return strings.Compare(derefName(x.Node), derefName(y.Node))
	})
	return out, nil
}

func derefName(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// rowsOf asks nodes for their rows; one that does not answer has its node-scope daemons as rows in state unknown.
func (a *Agent) rowsOf(ctx context.Context, nodes []id.Node) map[id.Node][]api.DaemonRow {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	out := map[id.Node][]api.DaemonRow{}
	var mu sync.Mutex
	var group sync.WaitGroup
	for _, n := range nodes {
		group.Go(func() {
			var d api.Daemons
			if n == a.node.ID {
				d.Daemons = a.daemonRows()
			} else if err := a.mesh.Call(ctx, n, methodDaemons, struct{}{}, &d); err != nil {
				d.Daemons = a.unknownRows(n)
			}
			mu.Lock()
			out[n] = d.Daemons
			mu.Unlock()
		})
	}
	group.Wait()
	return out
}

func (a *Agent) unknownRows(n id.Node) []api.DaemonRow {
	r := a.near()
	name := r.name(n)
	var m ring.Member
	for _, x := range a.belonging(r) {
		if x.ID == n {
			m = x
		}
	}
	var out []api.DaemonRow
	for _, s := range a.specs {
		if s.Scope == kit.ScopeNode && s.AliasOf == "" && s.RunsOn(m) {
			out = append(out, api.DaemonRow{Name: s.Name, Category: s.Category, Scope: s.Scope.String(), State: "unknown", Node: &name, DependsOn: orEmpty(s.DependsOn), BlockedOn: []string{}})
		}
	}
	return out
}

// singletonRow joins the coordinator's decision with what the holder says of it.
func (a *Agent) singletonRow(r reading, s kit.Spec, rows map[id.Node][]api.DaemonRow) api.DaemonRow {
	row := api.DaemonRow{
		Name: s.Name, Category: s.Category, Scope: s.Scope.String(), State: string(supervise.Pending), DependsOn: orEmpty(s.DependsOn), BlockedOn: []string{},
	}
	settings, _ := r.s.Settings()
	as, ok := r.s.Assignment(s.Name)
	switch {
	case !r.fresh.Known:
		row.State, row.BlockedOn = "unknown", []string{"no coordinator was heard since this node started, so it is not known who runs it"}
		return row
	case r.s.DaemonOff(s.Name):
		row.State, row.BlockedOn = string(supervise.Stopped), []string{"stopped in the whole ring; start it with: ringagent daemon start " + s.Name}
		return row
	case !daemons.Enabled(settings, s.Name):
		row.State, row.BlockedOn = string(supervise.Stopped), []string{"disabled by the ring settings"}
		return row
	case !ok || as.Node == "":
		why := "no coordinator has assigned it yet"
		if ok && as.Reason != "" {
			why = as.Reason
		}
		row.BlockedOn = []string{why}
		return row
	}
	name, epoch, since := r.name(as.Node), uint64(as.Epoch), as.Since.UTC()
	row.Node, row.Epoch, row.Since = &name, &epoch, &since
	if as.Standby != "" {
		standby := r.name(as.Standby)
		row.Standby = &standby
	}
	for _, held := range rows[as.Node] {
		if held.Name == s.Name && held.Scope == s.Scope.String() {
			standby := row.Standby
			row = held
			row.Node, row.Standby = &name, standby
			if held.Epoch == nil || *held.Epoch != epoch {
				row.Epoch = &epoch // the decision counts; the holder has not heard of it yet
			}
			return row
		}
	}
	row.State = string(supervise.Pending)
	row.BlockedOn = []string{name + " has no lease for it now"}
	if rs := rows[as.Node]; len(rs) > 0 && rs[0].State == "unknown" {
		row.State, row.BlockedOn = "unknown", []string{name + " does not answer"}
	}
	return row
}

// runsSomewhere says whether a singleton is RUNNING in the ring. It answers from what is known and refreshes it behind
// the caller's back, because it is asked in the supervisor's loop.
func (a *Agent) runsSomewhere(daemon string) bool {
	as, ok := a.leader.View().Assignment(daemon)
	if !ok || as.Node == "" {
		return false
	}
	if as.Node == a.node.ID {
		return false // what runs here the supervisor knows itself; it asks under its lock and must not be asked back
	}
	a.heard.mu.Lock()
	h, known := a.heard.all[as.Node]
	stale := !known || time.Since(h.heard) > reportFresh
	a.heard.mu.Unlock()
	if stale && a.heard.asking.CompareAndSwap(false, true) {
		go func() {
			defer a.heard.asking.Store(false)
			a.reports(context.Background())
		}()
	}
	return known && time.Since(h.heard) < 3*reportFresh && h.Singletons[daemon] == string(supervise.Running)
}

func gpuNeed(s kit.Spec) string {
	if s.NeedsGPU {
		return " and a GPU"
	}
	return ""
}

func orNobody(r reading, n id.Node) string {
	if n == "" {
		return "nobody"
	}
	return r.name(n)
}

// unsyncedHere counts this node's finished games without receipts now, by config; nil is unknown.
func (a *Agent) unsyncedHere(ctx context.Context) (*int64, map[id.Config]int64) {
	for _, c := range supervise.Offering[kit.Counter](a.supervisor) {
		per, err := c.Unsynced(ctx)
		if err != nil {
			a.log.Debug().Err(err).Msg("unsynced games are unknown")
			return nil, nil
		}
		var all int64
		for _, n := range per {
			all += n
		}
		return &all, per
	}
	return nil, nil
}
