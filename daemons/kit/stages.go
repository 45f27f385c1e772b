package kit

import (
	"fmt"
	"hash/fnv"
	"strconv"
	"time"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// Stages of the loop are the types of work items and the names of the workload's stages.
const (
	StageSelfplay = "selfplay"
	StageExport   = "export"
	StageTrain    = "train"
	StageEvaluate = "evaluate"
)

// Roles of inputs and outputs. RoleModel of a train or selfplay item and RoleChampion are resolved when the item is claimed.
const (
	RolePack      = "pack"
	RolePackList  = "packlist" // a KindFile of digests, one a line, in place of more than MaxInputs packs
	RoleDataset   = "dataset"
	RoleModel     = "model"
	RoleCandidate = "candidate"
	RoleChampion  = "champion"
	RoleMatches   = "matches"
)

// MaxInputs is how many packs an export item names one by one.
const MaxInputs = 200

// Priorities of the stages. Self-play is lowest because the queue always holds some: a stage below it would starve.
const (
	PrioritySelfplay = 50
	PriorityExport   = 90
	PriorityEvaluate = 95
	PriorityTrain    = 100
)

// Counters that artifacts and results carry.
const (
	CounterGames   = ring.CounterGames
	CounterSamples = "samples"
	CounterMatches = "matches"
)

// Games a baseline that EVALUATION asks for and AUTO_PROMOTION demands: one figure for both, so that the one never rejects
// what the other calls finished. The sequential test stops between the two.
const (
	MinGames = 50
	MaxGames = 200
)

// Baselines are the pinned ratings of the fixed opponents.
func Baselines() map[string]float64 {
	return map[string]float64{"random": 400, "heuristic": 1200, "minimax": 1400}
}

// SelfplayKey, ExportKey, TrainKey and EvaluateKey make the idempotency keys of the stages' items.
func SelfplayKey(c id.Config, plan, n uint64) string {
	return fmt.Sprintf("%s/%s/%d/%d", StageSelfplay, c, plan, n)
}

// ExportKey names the export of one generation of a config.
func ExportKey(c id.Config, generation uint64) string {
	return fmt.Sprintf("%s/%s/%d", StageExport, c, generation)
}

// TrainKey names the training on one dataset.
func TrainKey(c id.Config, dataset id.Digest) string {
	return fmt.Sprintf("%s/%s/%s", StageTrain, c, dataset)
}

// EvaluateKey names the evaluation of one candidate.
func EvaluateKey(c id.Config, candidate id.Digest) string {
	return fmt.Sprintf("%s/%s/%s", StageEvaluate, c, candidate)
}

// SeedOf derives an item's seed from its key, so that a repeated plan asks for the same games.
func SeedOf(key string) string {
	h := fnv.New64a()
	_, _ = h.Write([]byte(key))
	return strconv.FormatUint(h.Sum64()>>11, 10) // 53 bits: exact in every language's numbers
}

// InputOf returns the first input with a role.
func InputOf(w ring.WorkItem, role string) (id.Digest, bool) {
	for _, in := range w.Inputs {
		if in.Role == role {
			return in.Digest, true
		}
	}
	return "", false
}

// OutputOf returns the first output of a finished item with a kind.
func OutputOf(w ring.WorkItem, k ring.Kind) (id.Digest, bool) {
	if w.Result == nil {
		return "", false
	}
	for _, out := range w.Result.Outputs {
		if out.Kind == k {
			return out.Digest, true
		}
	}
	return "", false
}

// Made says whether an item ended with the output that its stage is for. Of one that finished long ago the outputs are not
// kept; the state took no success without them, so that it is believed.
func Made(w ring.WorkItem, k ring.Kind) bool {
	_, made := OutputOf(w, k)
	return w.State == ring.WorkDone && (made || w.Result == nil)
}

// Unfinished counts the items of a type and config ("" for all) that still wait or run.
func Unfinished(q Queue, workType string, c id.Config) (pending, running int) {
	for _, w := range q.Items(workType, c) {
		switch {
		case w.State == ring.WorkPending:
			pending++
		case !w.State.Finished():
			running++
		}
	}
	return pending, running
}

// SelfplayPlan is the plan that SELFPLAY_COORDINATOR keeps in its note PlanNote and QUEUE_POPULATOR fills the queue by.
// Games are shares: while a plan is in force, items are added in its proportions for as long as there is room. What each node
// is to play stands in the plan's event alone: for many configs on many nodes a note has no room for it.
type SelfplayPlan struct {
	Version uint64              `json:"version"`
	At      time.Time           `json:"at"`
	Games   map[id.Config]int64 `json:"shares"`
	Nodes   string              `json:"nodes,omitempty"` // fingerprint of the nodes that the games were dealt to
	Total   int64               `json:"total"`
	Met     []id.Config         `json:"met,omitempty"` // configs whose rating target is reached
}

// Of is what the plan wants of a config.
func (p SelfplayPlan) Of(c id.Config) int64 { return p.Games[c] }

// Notes that one daemon keeps and another reads.
const (
	PlanNote     = "plan"     // SELFPLAY_COORDINATOR: SelfplayPlan
	PressureNote = "pressure" // EVALUATION: EvaluationPressure
	DecidedNote  = "decided/" // AUTO_PROMOTION, followed by the config: Decided
)

// EvaluationPressure says whether candidates wait faster than they are measured.
type EvaluationPressure struct {
	On    bool `json:"on"`
	Depth int  `json:"depth"`
}

// Decided are the newest verdicts on the candidates of a config.
type Decided struct {
	// Before: what finished earlier than this and has no verdict here was decided, and its verdict has been dropped.
	Before   time.Time             `json:"before,omitzero"`
	Verdicts map[id.Digest]Verdict `json:"verdicts"`
}

// Has says whether the candidate whose evaluation finished then has its verdict.
func (d Decided) Has(candidate id.Digest, finished time.Time) bool {
	_, ok := d.Verdicts[candidate]
	return ok || finished.Before(d.Before)
}

// Verdict is what became of a candidate.
type Verdict struct {
	Promoted bool      `json:"promoted"`
	Gate     string    `json:"gate,omitempty"` // that it failed
	At       time.Time `json:"at"`
	// When the candidate's evaluation finished: in this order verdicts are dropped.
	Finished time.Time `json:"finished,omitzero"`
}

// Order is what verdicts are dropped by; those of older builds have only the time at which they were given.
func (v Verdict) Order() time.Time {
	if v.Finished.IsZero() {
		return v.At
	}
	return v.Finished
}
