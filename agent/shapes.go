package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/leader"
	"github.com/ringagent/ringagent/leader/state"
	"github.com/ringagent/ringagent/mesh"
)

// members is this node's gossip view joined with the roster: gossip says who is there, the roster who belongs.
func (a *Agent) members(ctx context.Context) api.Members {
	r := a.near()
	stats := a.stats(ctx)
	heard := a.reports(ctx)
	seen := map[id.Node]mesh.Member{}
	for _, m := range a.mesh.Members() {
		seen[m.ID] = m
	}
	out := api.Members{Members: []api.Member{}, AsOf: a.asOfWith(r, stats)}
	add := func(n id.Node, entry ring.Member) {
		g, there := seen[n]
		row := api.Member{
			Name: entry.Name, ID: n, Class: entry.Class, Status: string(entry.Status), Reach: "unknown", Version: entry.Version, Tags: entry.Labels,
			Voter: slices.Contains(stats.Voters, n), Coordinator: stats.Coordinator != nil && *stats.Coordinator == n, Boot: entry.Boot,
		}
		if row.Tags == nil {
			row.Tags = map[string]string{}
		}
		if len(entry.Addresses) > 0 {
			row.Address = entry.Addresses[0]
		}
		switch {
		case entry.Revoked:
			row.Status = string(ring.Left)
		case n == a.node.ID:
			row.Status, row.Reach, row.Boot = string(ring.Alive), "direct", a.boot
			if a.draining.Load() {
				row.Status = string(ring.Draining)
			}
		case there:
			row.Status = string(g.Status)
			if g.Meta.Draining && g.Status == mesh.Alive {
				row.Status = string(ring.Draining)
			}
			row.Reach, row.Boot = string(mesh.ReachDirect), g.Boot
			if g.Status != mesh.Alive {
				row.Reach = "unknown"
			}
			if g.Address != "" {
				row.Address = g.Address
			}
			if g.Meta.Version != "" {
				row.Version = g.Meta.Version
			}
		default:
			// In the roster, and gossip has never heard of it.
			row.Status = string(ring.Failed)
		}
		// What a node that has left said of itself before is no longer so: on its way out it pushed its games.
		if h, ok := heard[n]; ok && a.known(h) && row.Status != string(ring.Left) {
			age := time.Since(h.heard).Seconds()
			row.LastSeenSeconds, row.UnsyncedGames, row.GPU = &age, h.Unsynced, h.GPUs
			d := h.Daemons
			row.Daemons = &d
			if h.Health != "" {
				v := h.Health
				row.Health, row.HealthReasons = &v, h.Reasons
			}
		} else if there {
			age := time.Since(g.Since).Seconds()
			if g.Status != mesh.Alive {
				row.LastSeenSeconds = &age
			}
		}
		out.Members = append(out.Members, row)
	}
	for _, m := range a.roster.file().Members {
		add(m.ID, m)
		delete(seen, m.ID)
	}
	for n, g := range seen { // gossip knows somebody whom this copy of the roster does not
		add(n, ring.Member{ID: n, Name: g.Name, Class: g.Class, Status: ring.Alive, Boot: g.Boot})
	}
	slices.SortFunc(out.Members, func(x, y api.Member) int { return strings.Compare(x.Name+string(x.ID), y.Name+string(y.ID)) })
	return out
}

func (a *Agent) stats(ctx context.Context) leader.Stats {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	st := a.leader.AskStats(ctx)
	if st.Coordinator == nil {
		a.voteCount(&st)
	}
	return st
}

// voteCount tells from gossip how many voters answer, where no coordinator can say. An edge node has no list of its own;
// there the voters are those who say so.
func (a *Agent) voteCount(st *leader.Stats) {
	known := len(st.Voters) > 0
	st.AliveVoters = 0
	for _, m := range a.mesh.Members() {
		if !known && m.Meta.Voter {
			st.Voters = append(st.Voters, m.ID)
		}
		if slices.Contains(st.Voters, m.ID) && (m.ID == a.node.ID || m.Status == mesh.Alive) {
			st.AliveVoters++
		}
	}
	if len(st.Voters) > 0 {
		st.Quorum = len(st.Voters)/2 + 1
	}
	st.FailureTolerance = max(0, st.AliveVoters-st.Quorum)
}

func (a *Agent) leaderShape(ctx context.Context) api.Leader {
	r := a.near()
	st := a.stats(ctx)
	out := r.leader(st)
	out.AsOf = a.asOfWith(r, st)
	return out
}

// status is one screen.
func (a *Agent) status(ctx context.Context) api.Status {
	r := a.near()
	ms := a.members(ctx)
	l := a.leaderShape(ctx)
	_, ringName := a.mesh.Ring()
	st := api.Status{
		Node: a.node.Name, Ring: ringName, Coordinator: l.Coordinator, QuorumOK: l.Coordinator != nil,
		Members: map[string]int{}, Daemons: map[string]int{}, Work: a.workCounts(ctx, r), Alarms: a.alarmList(), AsOf: ms.AsOf,
	}
	for _, s := range []ring.Status{ring.Alive, ring.Failed, ring.Left, ring.Draining} {
		st.Members[string(s)] = 0
	}
	for _, m := range ms.Members {
		st.Members[m.Status]++
	}
	for _, s := range []string{"running", "failed", "pending"} {
		st.Daemons[s] = 0
	}
	for _, d := range a.daemonRows() {
		st.Daemons[strings.ToLower(d.State)]++
	}
	if all, err := a.daemonsShape(ctx, false, ""); err == nil {
		for _, d := range all.Daemons {
			if d.Scope == kit.ScopeCluster.String() && d.AliasOf == nil {
				st.Singletons = append(st.Singletons, d)
			}
		}
	}
	rs := a.replica.Status()
	st.Events.LastSeq = rs.Last
	// An edge node that no core node answers does not know how far the log has got.
	if rs.Target >= rs.Last && a.leader.Freshness().Known && (a.node.Class == id.Core || st.Work[string(ring.WorkPending)] != nil) {
		lag := rs.Target - rs.Last
		st.Events.Lag = &lag
	}
	st.Alarms = append(st.Alarms, a.ringAlarms(r, l)...)
	st.Degraded = a.degraded()
	settings, version := r.s.Settings()
	st.NextStep = nextStep(st, l, r.fresh.Known && version > 0 && settings.Workload == "")
	if r.fresh.Known {
		st.NextStep = cmp.Or(st.NextStep, moreVoters(l, settings.Voters))
	}
	return st
}

// ringAlarms are what is wrong with the ring as a whole, told from the state alone.
func (a *Agent) ringAlarms(r reading, l api.Leader) []api.Alarm {
	var out []api.Alarm
	if l.Coordinator == nil {
		since := a.started.UTC() // where none was heard: of the time before this process knows nothing
		if at := l.AsOf.AsOf.At; at != nil {
			since = *at // when one was last heard
		}
		out = append(out, api.Alarm{Code: "no_coordinator", Message: "no coordinator is known; nothing can be decided", Since: since})
	}
	return append(out, a.ofState.list()...)
}

// watchAlarms looks at each state for what is wrong with the ring, so that an alarm says since when that is so as far as this
// process knows, and not since when somebody asks.
func (a *Agent) watchAlarms(s *state.State, now time.Time) {
	var out []api.Alarm
	settings, version := s.Settings()
	if version > 0 {
		domains := map[string]bool{}
		for m := range s.Members() {
			if !m.Revoked && m.Status == ring.Alive {
				domains[m.Domain()] = true
			}
		}
		if want := tooManyCopies(settings, len(domains)); len(domains) > 0 && len(want) > 0 {
			out = append(out, api.Alarm{Code: "too_few_domains", Since: now,
				Message: fmt.Sprintf("copies should be in different failure domains, of which the ring has only %d: %s", len(domains), strings.Join(want, ", "))})
		}
	}
	if al, ok := roomAlarm(roomOf(s), now); ok {
		out = append(out, al)
	}
	a.ofState.replace(out)
}

// tooManyCopies names the kinds that should have copies in more than have places: games always, the others where the settings
// speak of them, or every small ring would be told of defaults that nobody chose.
func tooManyCopies(s ring.Settings, have int) []string {
	want := map[ring.Kind]int{ring.KindPack: s.CopiesOf(ring.KindPack)}
	maps.Copy(want, s.Copies)
	var out []string
	for _, k := range slices.Sorted(maps.Keys(want)) {
		if want[k] > have {
			out = append(out, fmt.Sprintf("%s should have %d", k, want[k]))
		}
	}
	return out
}

// roomAlarm is for a ring that will soon be able to take no game, dataset or model any more. A node that does not have the whole
// state knows of no artifacts, and raises none.
func roomAlarm(room *kit.Room, now time.Time) (api.Alarm, bool) {
	if room.Left >= room.Of/10 {
		return api.Alarm{}, false
	}
	return api.Alarm{Code: "few_artifacts_left", Since: now, Message: fmt.Sprintf(
		"the ring has room for %d more artifacts of %d: let its nodes pack less often (min_gap of EPHEMERAL_SYNC and AUTO_SYNC, games of QUEUE_POPULATOR)",
		room.Left, room.Of)}, true
}

func (a *Agent) degraded() []string {
	var out []string
	if a.leader.DiskBad() {
		out = append(out, "the disk is full or does not answer: this node takes no part in elections")
	}
	if err := a.outbox.Status().Degraded; err != nil {
		out = append(out, fmt.Sprintf("events cannot be stored: %v", err))
	}
	if st := a.replica.Status(); st.Degraded != nil {
		out = append(out, fmt.Sprintf("the event log's copy cannot be written: %v", st.Degraded))
	}
	return out
}

func nextStep(st api.Status, l api.Leader, idle bool) string {
	switch {
	case len(st.Degraded) > 0:
		return "free disk space under the data dir"
	case !st.QuorumOK && l.Quorum > 0 && l.AliveVoters >= l.Quorum:
		return fmt.Sprintf("wait for an election: %d of %d voters answer, which is enough", l.AliveVoters, len(l.Voters))
	case slices.ContainsFunc(st.Alarms, func(al api.Alarm) bool { return al.Code == alarmRaftDamaged }):
		return "see to the files of this voter: the alarm " + alarmRaftDamaged + " says how"
	case !st.QuorumOK && l.Quorum == 0:
		return "start voters: this node does not know which they are"
	case !st.QuorumOK:
		return fmt.Sprintf("start voters: %d of %d answer, %d are needed", l.AliveVoters, len(l.Voters), l.Quorum)
	}
	var steps []string
	if st.Members["alive"] == 1 {
		steps = append(steps, "invite another machine: ringagent token create --class core")
	}
	if idle {
		steps = append(steps, "the ring has no workload, so nothing is played: ringagent config apply FILE")
	}
	return strings.Join(steps, "; ")
}

// moreVoters says that a ring that wants several voters has one, so that its loss stops everything: a second core node alone
// changes nothing, as there are one, three or five.
func moreVoters(l api.Leader, want int) string {
	if l.Coordinator == nil || len(l.Voters) != 1 || want < 3 || len(l.Nonvoters) > 1 {
		return ""
	}
	return fmt.Sprintf("only %s votes, and nothing can be decided without it: enrol core machines until there are three: ringagent token create --class core", l.Voters[0])
}

// missing names what this node lacks before it is of use.
func (a *Agent) missing() []string {
	out := []string{}
	if a.leader.Freshness().Coordinator == "" {
		out = append(out, "no coordinator is known")
	}
	if !a.roster.Loaded() {
		out = append(out, "no copy of the roster")
	}
	for _, d := range a.daemonRows() {
		if spec, ok := a.spec(d.Name); ok && spec.Critical && spec.Scope == kit.ScopeNode && d.State != "RUNNING" && d.State != "STOPPED" {
			out = append(out, "daemon "+d.Name+" is "+d.State)
		}
	}
	return append(out, a.degraded()...)
}

func (a *Agent) spec(name string) (kit.Spec, bool) {
	for _, s := range a.specs {
		if s.Name == name {
			return s, true
		}
	}
	return kit.Spec{}, false
}

// workCounts counts the queue's items by state; they are null where the state is not known. An edge node asks a core node for the list.
func (a *Agent) workCounts(ctx context.Context, r reading) map[string]*int {
	out := map[string]*int{}
	states := []ring.WorkState{ring.WorkPending, ring.WorkClaimed, ring.WorkRunning, ring.WorkDone, ring.WorkFailed, ring.WorkDead}
	for _, w := range states {
		out[string(w)] = nil
	}
	if a.node.Class == id.Core {
		for _, w := range states {
			if r.fresh.Known {
				n := r.s.WorkDepth("", w)
				out[string(w)] = &n
			}
		}
		return out
	}
	ctx, cancel := context.WithTimeout(ctx, heardWait)
	defer cancel()
	v, err := a.view(ctx, "/api/v1/work", nil)
	raw, ok := v.(json.RawMessage)
	var l api.WorkList
	if err != nil || !ok || json.Unmarshal(raw, &l) != nil {
		return out
	}
	for _, w := range states {
		out[string(w)] = new(int)
	}
	for _, w := range l.Work {
		if out[string(w.State)] == nil { // cancelled, or of a newer build
			out[string(w.State)] = new(int)
		}
		*out[string(w.State)]++
	}
	return out
}
