package training

import (
	"errors"
	"slices"
	"strconv"
	"time"

	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// TriggerSettings are the figures of TRAINING_TRIGGER.
type TriggerSettings struct {
	Samples       int64        `json:"samples"`        // of two players; three need 0.6 of it, four 0.4
	Cooldown      kit.Duration `json:"cooldown"`       // between trainings of a config
	MaxAge        kit.Duration `json:"max_age"`        // of a dataset
	Concurrent    int          `json:"concurrent"`     // trainings in the whole ring
	Epochs        int          `json:"epochs"`         // 0: the workload's own
	Retry         kit.Duration `json:"retry"`          // after a failure, doubling up to four times it
	Pause         kit.Duration `json:"pause"`          // after PauseAfter failures in a row
	PauseAfter    int          `json:"pause_after"`    //
	CandidateWait kit.Duration `json:"candidate_wait"` // how long the verdict on the last candidate is waited for
}

// Validate implements kit's check.
func (s TriggerSettings) Validate() error {
	if s.Samples < 1 || s.Concurrent < 1 || s.Epochs < 0 || s.Retry <= 0 || s.Pause <= 0 || s.PauseAfter < 1 || s.MaxAge <= 0 {
		return errors.New("samples, concurrent, retry, pause, pause_after and max_age must be above 0, epochs not negative")
	}
	return nil
}

// Trigger is TRAINING_TRIGGER.
func Trigger() kit.Spec {
	defaults := TriggerSettings{Samples: 5000, Cooldown: kit.Duration(120 * time.Second), MaxAge: kit.Duration(48 * time.Hour),
		Concurrent: 8, Epochs: 20, Retry: kit.Duration(5 * time.Minute), Pause: kit.Duration(time.Hour), PauseAfter: 3,
		CandidateWait: kit.Duration(10 * time.Minute)}
	s := kit.Spec{
		Name: "TRAINING_TRIGGER", Category: "training", Scope: kit.ScopeCluster, Classes: []id.Class{id.Core},
		Doc:       "Asks for a training when the newest dataset is large, fresh and new enough, and names the condition that is not met.",
		DependsOn: []string{"EVENT_ROUTER", "AUTO_EXPORT"}, Every: 15 * time.Second, Settings: defaults,
		Reads: []event.Type{event.NPZExportComplete.Type(), event.NPZDistributionComplete.Type(), event.TrainingCompleted.Type(),
			event.TrainingFailed.Type(), event.EvaluationCompleted.Type(), event.ModelPromoted.Type(), event.PromotionRejected.Type(),
			event.EvaluationBackpressure.Type(), event.EvaluationBackpressureReleased.Type(), event.PipelineStageOverdue.Type()},
		Emits: []event.Type{event.TrainingBlocked.Type()},
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

// trained is the note of one config.
type trained struct {
	Dataset  id.Digest `json:"dataset_sha256,omitempty"` // of the newest item
	Asked    time.Time `json:"asked,omitzero"`
	Failures int       `json:"failures,omitempty"` // in a row
	Failed   time.Time `json:"failed,omitzero"`
	Settled  bool      `json:"settled,omitempty"`
	Blocked  string    `json:"blocked,omitempty"` // the condition that was told last
}

// triggerNote is where the books of a config stand.
func triggerNote(c id.Config) string { return "train/" + string(c) }

// condition is what keeps a training from being asked for; Quiet ones are the normal course and not told as a blockage.
type condition struct {
	Name              string
	Actual, Threshold float64
	Quiet             bool
}

func (s TriggerSettings) plan(v kit.View, now time.Time) (kit.Plan, error) {
	var plan kit.Plan
	books := map[id.Config]trained{}
	for _, c := range v.Ring.Configs {
		state, err := kit.ReadNote[trained](v.Notes, triggerNote(c))
		if err != nil {
			return plan, err
		}
		books[c] = state
	}
	// With more configs than trainings at once whoever has waited longest is next, or the last ones in the list would never be.
	order := slices.Clone(v.Ring.Configs)
	slices.SortStableFunc(order, func(a, b id.Config) int { return books[a].Asked.Compare(books[b].Asked) })
	for _, c := range order {
		state := books[c]
		before := state
		s.settle(v, c, &state)
		var events []kit.Statement
		dataset, block, err := s.decide(v, c, state, now, len(plan.Items)+len(plan.Retry))
		if err != nil {
			return plan, err
		}
		switch {
		case block == nil:
			s.ask(v, c, dataset, &state, now, &plan)
		case block.Quiet:
		case block.Name != state.Blocked:
			state.Blocked = block.Name
			events = append(events, kit.Statement{Type: event.TrainingBlocked.Type(), Payload: event.Blocked{
				About: event.About{Config: c}, Condition: block.Name, Actual: block.Actual, Threshold: block.Threshold}})
		}
		if state != before {
			plan.Notes = append(plan.Notes, kit.NoteChange{Key: triggerNote(c), Value: state, Events: events})
		}
	}
	return plan, nil
}

// settle takes the end of the newest item into account. The cooldown counts from when the item was accepted, and a run
// that is still queued or running keeps nothing locked if it is never finished: the queue's own lease ends it.
func (s TriggerSettings) settle(v kit.View, c id.Config, state *trained) {
	if state.Dataset == "" || state.Settled {
		return
	}
	w, known := v.Queue.ByKey(kit.TrainKey(c, state.Dataset))
	if known && !w.State.Finished() {
		return
	}
	state.Settled = true
	if known && !kit.Made(w, ring.KindModel) {
		state.Failures++
		state.Failed = w.Finished
	} else {
		state.Failures = 0
	}
}

func (s TriggerSettings) ask(v kit.View, c id.Config, dataset ring.Artifact, state *trained, now time.Time, plan *kit.Plan) {
	key := kit.TrainKey(c, dataset.Digest)
	if w, ok := v.Queue.ByKey(key); ok {
		plan.Retry = append(plan.Retry, w.ID)
	} else {
		params := map[string]string{"seed": kit.SeedOf(key)}
		if s.Epochs > 0 {
			params["epochs"] = strconv.Itoa(s.Epochs)
		}
		plan.Items = append(plan.Items, ring.WorkItem{Type: kit.StageTrain, Config: c, Key: key, Priority: kit.PriorityTrain,
			MaxAttempts: 3, Params: params, Generation: generationOf(v, dataset),
			Inputs: []ring.Input{{Role: kit.RoleDataset, Digest: dataset.Digest}}})
	}
	state.Dataset, state.Asked, state.Settled, state.Blocked = dataset.Digest, now, false, ""
}

// decide finds the dataset to train on, or the first condition that does not hold; so many trainings are asked for already in this
// step.
func (s TriggerSettings) decide(v kit.View, c id.Config, state trained, now time.Time, planned int) (ring.Artifact, *condition, error) {
	quiet := func(name string) *condition { return &condition{Name: name, Quiet: true} }
	sets := v.Library.Artifacts(ring.KindDataset, c)
	if len(sets) == 0 {
		return ring.Artifact{}, quiet("no dataset"), nil
	}
	d := sets[len(sets)-1]
	if pending, running := kit.Unfinished(v.Queue, kit.StageTrain, c); pending+running > 0 || (state.Dataset != "" && !state.Settled) {
		return d, quiet("in progress"), nil
	}
	if w, ok := v.Queue.ByKey(kit.TrainKey(c, d.Digest)); ok {
		// What the queue has forgotten cannot be tried again.
		_, kept := v.Queue.Item(w.ID)
		if !kept || kit.Made(w, ring.KindModel) || w.State == ring.WorkCancelled {
			return d, quiet("no new dataset"), nil
		}
	} else if slices.ContainsFunc(v.Library.Artifacts(ring.KindModel, c), func(m ring.Artifact) bool { return slices.Contains(m.Parents, d.Digest) }) {
		return d, quiet("no new dataset"), nil
	}
	if now.Sub(state.Asked) < s.Cooldown.D() {
		return d, quiet("cooldown"), nil
	}
	if wait, paused := s.penalty(state.Failures); state.Failures > 0 && now.Sub(state.Failed) < wait {
		if !paused {
			return d, quiet("retry"), nil
		}
		return d, &condition{Name: "paused", Actual: float64(state.Failures), Threshold: float64(s.PauseAfter)}, nil
	}
	if need := s.need(c); d.Counters[kit.CounterSamples] < need {
		return d, &condition{Name: "samples", Actual: float64(d.Counters[kit.CounterSamples]), Threshold: float64(need)}, nil
	}
	if age := now.Sub(d.Created); age > s.MaxAge.D() {
		return d, &condition{Name: "data_age_seconds", Actual: age.Seconds(), Threshold: s.MaxAge.D().Seconds()}, nil
	}
	pressure, err := kit.ReadNoteOf[kit.EvaluationPressure](v.Notes, "EVALUATION", kit.PressureNote)
	if err != nil {
		return d, nil, err
	}
	if pressure.On {
		return d, &condition{Name: "evaluation_backpressure", Actual: float64(pressure.Depth)}, nil
	}
	if open, err := s.undecided(v, c, now); open || err != nil {
		return d, quiet("candidate undecided"), err
	}
	all := planned
	for _, w := range v.Queue.Items(kit.StageTrain, "") {
		if !w.State.Finished() {
			all++
		}
	}
	if all >= s.Concurrent {
		return d, &condition{Name: "concurrent", Actual: float64(all), Threshold: float64(s.Concurrent)}, nil
	}
	return d, nil, nil
}

// penalty is how long to wait after so many failures in a row, and whether that is the long pause.
func (s TriggerSettings) penalty(failures int) (time.Duration, bool) {
	if failures >= s.PauseAfter {
		return s.Pause.D(), true
	}
	return s.Retry.D() << min(max(failures-1, 0), 2), false
}

func (s TriggerSettings) need(c id.Config) int64 {
	switch c.Players() {
	case 3:
		return s.Samples * 6 / 10
	case 4:
		return s.Samples * 4 / 10
	}
	return s.Samples
}

// undecided says whether the newest candidate still waits for its verdict: the next training starts from the champion, and
// that may be about to change. It is not waited for longer than CandidateWait, so that a missing judge costs time only.
func (s TriggerSettings) undecided(v kit.View, c id.Config, now time.Time) (bool, error) {
	models := v.Library.Artifacts(ring.KindModel, c)
	if len(models) == 0 {
		return false, nil
	}
	m := models[len(models)-1]
	if now.Sub(m.Created) >= s.CandidateWait.D() {
		return false, nil
	}
	w, ok := v.Queue.ByKey(kit.EvaluateKey(c, m.Digest))
	if ok && w.State.Finished() && w.State != ring.WorkDone {
		return false, nil
	}
	if n, ok := v.Library.Name(ring.ModelName(c)); ok && n.Digest == m.Digest {
		return false, nil
	}
	decided, err := kit.ReadNoteOf[kit.Decided](v.Notes, "AUTO_PROMOTION", kit.DecidedNote+string(c))
	if err != nil {
		return false, err
	}
	return !ok || !w.State.Finished() || !decided.Has(m.Digest, w.Finished), nil
}

// generationOf is the generation of the export that made a dataset, 0 if nobody knows.
func generationOf(v kit.View, dataset ring.Artifact) uint64 {
	for _, w := range v.Queue.Items(kit.StageExport, dataset.Config) {
		if d, ok := kit.OutputOf(w, ring.KindDataset); ok && d == dataset.Digest {
			return w.Generation
		}
	}
	return 0
}
