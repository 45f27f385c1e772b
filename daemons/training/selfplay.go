package training

import (
	"cmp"
	"errors"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// SelfplaySettings are the figures of SELFPLAY_COORDINATOR.
type SelfplaySettings struct {
	BaseGames   int64        `json:"base_games"`   // a config, before its needs are weighed
	TargetGames int64        `json:"target_games"` // a config's wanted stock of games
	TargetElo   float64      `json:"target_elo"`   // 0: none, train for ever
	FreshFor    kit.Duration `json:"fresh_for"`    // games younger than this are not stale at all
	StaleAfter  kit.Duration `json:"stale_after"`  // games older than this are wholly stale
	MinGap      kit.Duration `json:"min_gap"`      // between plans that differ only by shifted needs
}

// Validate implements kit's check.
func (s SelfplaySettings) Validate() error {
	if s.BaseGames < 1 || s.TargetGames < 1 || s.TargetElo < 0 || s.StaleAfter <= s.FreshFor {
		return errors.New("base_games and target_games must be above 0, target_elo not negative, stale_after more than fresh_for")
	}
	return nil
}

// Selfplay is SELFPLAY_COORDINATOR.
func Selfplay() kit.Spec {
	defaults := SelfplaySettings{BaseGames: 500, TargetGames: 100_000, TargetElo: 2000, FreshFor: kit.Duration(time.Hour),
		StaleAfter: kit.Duration(4 * time.Hour), MinGap: kit.Duration(time.Minute)}
	s := kit.Spec{
		Name: "SELFPLAY_COORDINATOR", Category: "training", Scope: kit.ScopeCluster, Classes: []id.Class{id.Core},
		Doc:       "Shares self-play between configs and nodes by need and keeps the plan, versioned.",
		DependsOn: []string{"EVENT_ROUTER"}, Every: 300 * time.Second, Settings: defaults,
		Reads: []event.Type{event.SelfplayComplete.Type(), event.NewGamesAvailable.Type(), event.TrainingCompleted.Type(),
			event.ModelPromoted.Type(), event.HostOnline.Type(), event.HostOffline.Type(), event.P2PNodeDead.Type(),
			event.WorkQueueExhausted.Type(), event.ConfigUpdated.Type(), event.PipelineStageOverdue.Type()},
		Emits: []event.Type{event.SelfplayAllocationUpdated.Type()},
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

func (s SelfplaySettings) plan(v kit.View, now time.Time) (kit.Plan, error) {
	old, err := kit.ReadNote[kit.SelfplayPlan](v.Notes, kit.PlanNote)
	if err != nil {
		return kit.Plan{}, err
	}
	next, dealt := s.allocate(v, now)
	if !s.worth(old, next, now) {
		return kit.Plan{}, nil
	}
	next.Version, next.At = old.Version+1, now
	return kit.Plan{Notes: []kit.NoteChange{{Key: kit.PlanNote, Value: next, Events: []kit.Statement{{
		Type:    event.SelfplayAllocationUpdated.Type(),
		Payload: event.Allocation{PlanVersion: next.Version, Games: dealt, Total: next.Total},
	}}}}}, nil
}

// worth says whether next is different enough for a new version: other nodes or configs at once, shifted needs only after
// the gap. Otherwise every finished game would make a plan.
func (s SelfplaySettings) worth(old, next kit.SelfplayPlan, now time.Time) bool {
	shape := func(p kit.SelfplayPlan) string {
		out := p.Nodes
		for _, c := range slices.Sorted(maps.Keys(p.Games)) {
			out += string(c)
		}
		for _, c := range p.Met {
			out += "!" + string(c)
		}
		return out
	}
	if old.Version == 0 || shape(old) != shape(next) {
		return old.Version > 0 || next.Total > 0
	}
	if now.Sub(old.At) < s.MinGap.D() {
		return false
	}
	for c := range next.Games {
		a, b := float64(old.Of(c)), float64(next.Of(c))
		if math.Abs(a-b) > 0.1*max(a, b) {
			return true
		}
	}
	return false
}

// allocate weighs the configs' needs and deals their games to the nodes by capability.
func (s SelfplaySettings) allocate(v kit.View, now time.Time) (p kit.SelfplayPlan, dealt map[id.Config]map[id.Node]int64) {
	p.Games, dealt = map[id.Config]int64{}, map[id.Config]map[id.Node]int64{}
	var nodes []ring.Member
	for _, m := range v.Fleet.Members() {
		if m.Live() && capability(m) > 0 {
			nodes = append(nodes, m)
		}
	}
	slices.SortFunc(nodes, func(a, b ring.Member) int { return cmp.Compare(a.ID, b.ID) })
	if len(nodes) == 0 {
		return p, dealt
	}
	weights := make([]float64, len(nodes))
	var names strings.Builder
	for i, m := range nodes {
		weights[i] = capability(m)
		names.WriteString(string(m.ID))
	}
	p.Nodes = id.DigestOf([]byte(names.String())).Short()
	for _, c := range v.Ring.Configs {
		games, met := s.want(v, c, now)
		if met {
			p.Met = append(p.Met, c)
		}
		p.Games[c], dealt[c] = games, map[id.Node]int64{}
		for i, n := range deal(games, weights) {
			dealt[c][nodes[i].ID] = n
		}
		p.Total += games
	}
	return p, dealt
}

// want is the number of games of a config that the plan asks for.
func (s SelfplaySettings) want(v kit.View, c id.Config, now time.Time) (games int64, met bool) {
	var stock int64
	var last time.Time
	for _, a := range v.Library.Artifacts(ring.KindPack, c) {
		stock = ring.AddGames(stock, a.Games())
		if a.Created.After(last) {
			last = a.Created
		}
	}
	name, rated := v.Library.Name(ring.ModelName(c))
	elo := name.Values["elo"]
	score := 0.25*s.staleness(last, now) + 0.40*max(0, 1-float64(stock)/float64(s.TargetGames)) + 0.10*awaiting(v, c)
	factor := 1.0
	if rated {
		velocity := eloVelocity(name, now)
		// A config that stalls or falls back needs more games, not fewer: less would be a spiral.
		score += 0.15 * (1 - min(1, max(0, velocity)/20))
		if velocity < 0 {
			factor *= 1.3
		}
	}
	met = s.TargetElo > 0 && rated && elo >= s.TargetElo
	switch {
	case met:
		factor *= 0.3
	case s.TargetElo > 0 && rated:
		factor *= min(3, 1+(s.TargetElo-elo)/500)
	}
	factor *= map[int]float64{3: 1.2, 4: 1.5}[c.Players()] + map[bool]float64{true: 1}[c.Players() < 3]
	base := float64(s.BaseGames)
	want := base * max(0.1, 0.5+score) * factor
	return int64(math.Round(max(want, starvation(stock)*base))), met
}

// starvation is the least multiple of the base games that a config with few games gets.
func starvation(stock int64) float64 {
	switch {
	case stock == 0:
		return 5
	case stock < 500:
		return 3
	case stock < 1500:
		return 2
	case stock < 3000:
		return 1.5
	}
	return 0
}

func (s SelfplaySettings) staleness(last, now time.Time) float64 {
	if last.IsZero() {
		return 1
	}
	age := now.Sub(last) - s.FreshFor.D()
	return min(1, max(0, float64(age)/float64(s.StaleAfter.D()-s.FreshFor.D())))
}

// awaiting is 1 when nothing waits to be trained on: the next dataset needs games.
func awaiting(v kit.View, c id.Config) float64 {
	pending, running := kit.Unfinished(v.Queue, kit.StageTrain, c)
	if pending+running > 0 {
		return 0
	}
	return 1
}

// eloVelocity is the champion's gain over its predecessor in Elo an hour since then.
func eloVelocity(n ring.Name, now time.Time) float64 {
	if len(n.History) == 0 {
		return 20 // the first champion: as good as any progress
	}
	before := n.History[len(n.History)-1]
	hours := now.Sub(before.At).Hours()
	if hours <= 0 {
		return 20
	}
	return (n.Values["elo"] - before.Values["elo"]) / hours
}

// capability weighs a node: a GPU plays about as much as sixteen threads.
func capability(m ring.Member) float64 { return float64(m.Slots.CPU + 16*m.Slots.GPU) }

// deal splits total in proportion to weights; the parts sum to total (largest remainders).
func deal(total int64, weights []float64) []int64 {
	sum := 0.0
	for _, w := range weights {
		sum += w
	}
	out := make([]int64, len(weights))
	rest := make([]int, len(weights))
	fraction := make([]float64, len(weights))
	left := total
	for i, w := range weights {
		exact := float64(total) * w / sum
		out[i] = int64(exact)
		fraction[i], rest[i] = exact-float64(out[i]), i
		left -= out[i]
	}
	slices.SortStableFunc(rest, func(a, b int) int { return cmp.Compare(fraction[b], fraction[a]) })
	for i := 0; left > 0; i, left = i+1, left-1 {
		out[rest[i%len(rest)]]++
	}
	return out
}
