package resources

import (
	"errors"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// PopulatorSettings are the figures of QUEUE_POPULATOR, in items.
type PopulatorSettings struct {
	Floor       int          `json:"floor"`        // waiting self-play below which the queue is filled …
	Target      int          `json:"target"`       // … up to this; both grow with the ring, see below
	PerNode     int          `json:"per_node"`     // target is at least this for each live node
	PerCycle    int          `json:"per_cycle"`    // added in one step at most
	HardLimit   int          `json:"hard_limit"`   // unfinished items of all kinds
	Exploration int          `json:"exploration"`  // waiting items kept up when every config has met its target rating
	Games       int          `json:"games"`        // an item
	Simulations int          `json:"simulations"`  // 0: the workload's own
	PendingFor  kit.Duration `json:"pending_for"`  // after which an item that nobody claimed is cancelled
	MaxAttempts int          `json:"max_attempts"` //
}

// Validate implements kit's check.
func (s PopulatorSettings) Validate() error {
	if s.Floor < 1 || s.Target < s.Floor || s.PerCycle < 1 || s.HardLimit < s.Target || s.Exploration < 0 || s.PerNode < 0 ||
		s.Games < 1 || s.Simulations < 0 || s.MaxAttempts < 1 || s.PendingFor <= 0 {
		return errors.New("want 1 ≤ floor ≤ target ≤ hard_limit, per_cycle, games and max_attempts above 0, pending_for above zero")
	}
	return nil
}

// Populator is QUEUE_POPULATOR.
func Populator() kit.Spec {
	defaults := PopulatorSettings{Floor: 100, Target: 150, PerNode: 2, PerCycle: 100, HardLimit: 1000, Exploration: 10, Games: 50,
		PendingFor: kit.Duration(90 * time.Minute), MaxAttempts: 3}
	s := kit.Spec{
		Name: "QUEUE_POPULATOR", Category: "resources", Scope: kit.ScopeCluster, Classes: []id.Class{id.Core},
		Doc:       "Keeps the queue filled with self-play in the plan's proportions until every config has met its target rating.",
		DependsOn: []string{"EVENT_ROUTER", "SELFPLAY_COORDINATOR"}, Every: 5 * time.Second, Settings: defaults,
		Reads: []event.Type{event.SelfplayAllocationUpdated.Type(), event.SelfplayComplete.Type(), event.WorkFailed.Type(),
			event.WorkTimeout.Type(), event.PipelineStageOverdue.Type()},
		Emits: []event.Type{event.WorkQueueBackpressure.Type(), event.WorkQueueBackpressureReleased.Type(),
			event.WorkQueueExhausted.Type()},
	}
	s.New = func(env kit.Env) (kit.Daemon, error) {
		set, err := kit.Decode(env.Settings, defaults)
		if err != nil {
			return nil, err
		}
		return kit.NewPlanner(env, kit.Planner{Wake: s.Reads, Plan: set.plan}), nil
	}
	return s
}

// filled is the note: how far the plan has been turned into items.
type filled struct {
	Plan      uint64               `json:"plan_version"`
	Next      map[id.Config]uint64 `json:"next"` // number of the next item under the plan
	Filling   bool                 `json:"filling,omitempty"`
	Pressed   bool                 `json:"pressed,omitempty"`
	Exhausted bool                 `json:"exhausted,omitempty"`
}

const fillNote = "fill"

func (s PopulatorSettings) plan(v kit.View, now time.Time) (kit.Plan, error) {
	var plan kit.Plan
	share, err := kit.ReadNoteOf[kit.SelfplayPlan](v.Notes, "SELFPLAY_COORDINATOR", kit.PlanNote)
	if err != nil {
		return plan, err
	}
	old, err := kit.ReadNote[filled](v.Notes, fillNote)
	if err != nil {
		return plan, err
	}
	state := old
	state.Next = maps.Clone(old.Next)
	if state.Plan != share.Version || state.Next == nil {
		state.Plan, state.Next = share.Version, map[id.Config]uint64{}
	}
	depth := 0
	for _, c := range v.Ring.Configs { // what waits of a config that is trained no more keeps nobody else from playing
		waiting, _ := kit.Unfinished(v.Queue, kit.StageSelfplay, c)
		depth += waiting
	}
	waiting, running := kit.Unfinished(v.Queue, "", "")
	unfinished := waiting + running

	want := s.wanted(v, share, depth, unfinished, &state)
	for _, c := range s.deal(v, share, want) {
		state.Next[c]++
		key := kit.SelfplayKey(c, share.Version, state.Next[c])
		params := map[string]string{"games": strconv.Itoa(s.Games), "seed": kit.SeedOf(key)}
		if s.Simulations > 0 {
			params["simulations"] = strconv.Itoa(s.Simulations)
		}
		plan.Items = append(plan.Items, ring.WorkItem{Type: kit.StageSelfplay, Config: c, Key: key, Priority: kit.PrioritySelfplay,
			MaxAttempts: s.MaxAttempts, Params: params, Deadline: now.Add(s.PendingFor.D())})
	}
	events := s.signals(v, depth, unfinished, len(plan.Items), &state)
	if len(events) > 0 || len(plan.Items) > 0 || state.Filling != old.Filling || state.Plan != old.Plan {
		plan.Notes = []kit.NoteChange{{Key: fillNote, Value: state, Events: events}}
	}
	return plan, nil
}

// wanted is how many items to add now. What waits is counted in the whole state, never in a page of it.
func (s PopulatorSettings) wanted(v kit.View, share kit.SelfplayPlan, depth, unfinished int, state *filled) int {
	nodes := 0
	for _, m := range v.Fleet.Members() {
		if m.Live() {
			nodes++
		}
	}
	if share.Total == 0 || nodes == 0 {
		state.Filling = false
		return 0
	}
	target := max(s.Target, s.PerNode*nodes)
	floor := s.Floor * target / s.Target
	if len(share.Met) > 0 && len(share.Met) == len(share.Games) {
		target, floor = s.Exploration, s.Exploration
	}
	// Filling goes on until the target, beginning below the floor, so that a queue that hovers does not make an entry a step.
	state.Filling = depth < floor || state.Filling && depth < target
	if !state.Filling {
		return 0
	}
	n := min(target-depth, s.PerCycle, s.HardLimit-unfinished)
	if depth+n >= target {
		state.Filling = false
	}
	return max(0, n)
}

// deal chooses the configs of n items so that what waits comes closest to the plan's proportions.
func (s PopulatorSettings) deal(v kit.View, share kit.SelfplayPlan, n int) []id.Config {
	configs := slices.DeleteFunc(slices.Sorted(maps.Keys(share.Games)), func(c id.Config) bool { return !slices.Contains(v.Ring.Configs, c) })
	have := map[id.Config]float64{}
	for _, c := range configs {
		pending, _ := kit.Unfinished(v.Queue, kit.StageSelfplay, c)
		have[c] = float64(pending)
	}
	var out []id.Config
	for range n {
		best, least := id.Config(""), 0.0
		for _, c := range configs {
			games := share.Of(c)
			if games <= 0 {
				continue
			}
			if level := (have[c] + 1) / float64(games); best == "" || level < least {
				best, least = c, level
			}
		}
		if best == "" {
			return out
		}
		have[best]++
		out = append(out, best)
	}
	return out
}

// signals are edge-triggered: the queue is as full as it may be, it takes items again, nothing is queued and nothing comes.
func (s PopulatorSettings) signals(v kit.View, depth, unfinished, added int, state *filled) []kit.Statement {
	var out []kit.Statement
	tell := func(t event.Type, depth, limit int) {
		out = append(out, kit.Statement{Type: t, Payload: event.QueueDepth{Depth: int64(depth), Limit: int64(limit)}})
	}
	switch total := unfinished + added; {
	case !state.Pressed && total >= s.HardLimit:
		state.Pressed = true
		tell(event.WorkQueueBackpressure.Type(), total, s.HardLimit)
	case state.Pressed && total <= s.HardLimit*9/10:
		state.Pressed = false
		tell(event.WorkQueueBackpressureReleased.Type(), total, s.HardLimit)
	}
	empty := depth+added == 0 && !state.Pressed && len(v.Ring.Configs) > 0
	if empty && !state.Exhausted {
		tell(event.WorkQueueExhausted.Type(), depth, s.Floor)
	}
	state.Exhausted = empty
	return out
}
