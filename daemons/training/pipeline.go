package training

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// PipelineSettings are DATA_PIPELINE's deadlines: how long a stage may owe its result.
type PipelineSettings struct {
	Play     kit.Duration `json:"play"`     // without a finished self-play item
	Gather   kit.Duration `json:"gather"`   // from finished games to a pack with receipts
	Export   kit.Duration `json:"export"`   // from asked to done
	Train    kit.Duration `json:"train"`    // from dataset to model
	Evaluate kit.Duration `json:"evaluate"` // from model to matches
	Decide   kit.Duration `json:"decide"`   // from matches to a verdict
	Spread   kit.Duration `json:"spread"`   // from promotion to every live node
	Retries  int          `json:"retries"`  // of one dead work item
}

// Validate implements kit's check.
func (s PipelineSettings) Validate() error {
	for _, d := range []kit.Duration{s.Play, s.Gather, s.Export, s.Train, s.Evaluate, s.Decide, s.Spread} {
		if d <= 0 {
			return errors.New("deadlines must be above zero")
		}
	}
	if s.Retries < 0 {
		return errors.New("retries must not be negative")
	}
	return nil
}

// Pipeline is DATA_PIPELINE.
func Pipeline() kit.Spec {
	minutes := func(n int) kit.Duration { return kit.Duration(time.Duration(n) * time.Minute) }
	defaults := PipelineSettings{Play: minutes(30), Gather: minutes(10), Export: minutes(60), Train: minutes(240),
		Evaluate: minutes(120), Decide: minutes(10), Spread: minutes(15), Retries: 2}
	s := kit.Spec{
		Name: "DATA_PIPELINE", Category: "training", Scope: kit.ScopeCluster, Classes: []id.Class{id.Core},
		Doc:       "Watches every config's stages, shows which one is overdue and asks for it again.",
		DependsOn: []string{"EVENT_ROUTER"}, Every: 30 * time.Second, Settings: defaults,
		Reads: []event.Type{event.SelfplayComplete.Type(), event.NewGamesAvailable.Type(), event.DataSyncCompleted.Type(), event.DataSyncFailed.Type(),
			event.NPZExportStarted.Type(), event.NPZExportComplete.Type(), event.ExportValidationFailed.Type(),
			event.TrainingStarted.Type(), event.TrainingCompleted.Type(), event.TrainingFailed.Type(),
			event.EvaluationRequested.Type(), event.EvaluationCompleted.Type(), event.EvaluationFailed.Type(),
			event.ModelPromoted.Type(), event.PromotionRejected.Type(), event.ModelDistributionComplete.Type()},
		Emits: []event.Type{event.PipelineStageOverdue.Type()},
	}
	s.New = func(env kit.Env) (kit.Daemon, error) {
		set, err := kit.Decode(env.Settings, defaults)
		if err != nil {
			return nil, err
		}
		do := kit.Executor{Self: env.Self, Effects: env.Effects, Events: env.Events}
		return kit.NewDecider(env, kit.Decider{Types: s.Reads, Reconcile: func(ctx context.Context) error {
			v, err := env.View.Current(ctx)
			if err != nil {
				return fmt.Errorf("read state: %w", err)
			}
			plan, err := set.plan(v, env.Now())
			if err != nil {
				return err
			}
			return do.Do(ctx, plan)
		}}), nil
	}
	return s
}

// Stage is where one stage of a config stands.
type Stage struct {
	Name string `json:"stage"`
	// Generation of what the stage owes; 0 where there is none.
	Generation uint64    `json:"generation,omitempty"`
	Owed       time.Time `json:"owed,omitzero"`  // since when the stage owes its result; zero: nothing is owed
	Dead       string    `json:"dead,omitempty"` // work item that has given up and may be tried again
	limit      time.Duration
}

// asked is the part of the record that a successor goes on with.
type asked struct {
	Stages []Stage        `json:"stages,omitempty"`
	Told   map[string]int `json:"told,omitempty"`    // stage → how often it was asked for again since it is owed
	Tried  map[string]int `json:"retried,omitempty"` // work id → how often it was put back
}

func pipelineNote(c id.Config) string { return "pipeline/" + string(c) }

func (s PipelineSettings) plan(v kit.View, now time.Time) (kit.Plan, error) {
	var plan kit.Plan
	for _, c := range v.Ring.Configs {
		old, err := kit.ReadNote[asked](v.Notes, pipelineNote(c))
		if err != nil {
			return plan, err
		}
		stages, err := s.stages(v, c)
		if err != nil {
			return plan, err
		}
		next := asked{Told: map[string]int{}, Tried: map[string]int{}}
		for work, n := range old.Tried {
			// While it waits or runs again it is not dead, and its retries are not forgotten for that.
			if w, ok := v.Queue.Item(work); ok && w.State != ring.WorkDone {
				next.Tried[work] = n
			}
		}
		var events []kit.Statement
		for _, st := range stages {
			if st.Owed.IsZero() {
				continue
			}
			next.Stages = append(next.Stages, st)
			i := slices.IndexFunc(old.Stages, func(o Stage) bool { return o.Name == st.Name && o.Owed.Equal(st.Owed) })
			if i >= 0 {
				next.Told[st.Name] = old.Told[st.Name]
			}
			over := now.Sub(st.Owed)
			// Told at the deadline, at twice it, at four times it …: a stage that hangs for a day is no flood.
			if over < st.limit<<min(next.Told[st.Name], 16) { // of hours: some decades
				continue
			}
			next.Told[st.Name]++
			events = append(events, kit.Statement{Type: event.PipelineStageOverdue.Type(), Payload: event.StageOverdue{
				About: event.About{Config: c}, Stage: st.Name, Generation: st.Generation, Overdue: (over - st.limit).Seconds()}})
			if st.Dead != "" && next.Tried[st.Dead] < s.Retries {
				next.Tried[st.Dead]++
				plan.Retry = append(plan.Retry, st.Dead)
			}
		}
		if len(events) > 0 || !sameStages(old.Stages, next.Stages) {
			plan.Notes = append(plan.Notes, kit.NoteChange{Key: pipelineNote(c), Value: next, Events: events})
		}
	}
	return plan, nil
}

func sameStages(a, b []Stage) bool {
	return slices.EqualFunc(a, b, func(x, y Stage) bool { return x.Name == y.Name && x.Owed.Equal(y.Owed) && x.Dead == y.Dead })
}

// stages reads from the state alone what each stage owes. That is why a lost event, or a successor in mid-stage, changes
// nothing.
func (s PipelineSettings) stages(v kit.View, c id.Config) ([]Stage, error) {
	var played, gathered time.Time
	for _, w := range v.Queue.Items(kit.StageSelfplay, c) {
		if w.State == ring.WorkDone && w.Finished.After(played) {
			played = w.Finished
		}
	}
	for _, a := range v.Library.Artifacts(ring.KindPack, c) {
		if a.Created.After(gathered) {
			gathered = a.Created
		}
	}
	play := Stage{Name: "play", limit: s.Play.D(), Owed: played}
	if items := v.Queue.Items(kit.StageSelfplay, c); played.IsZero() && len(items) > 0 {
		play.Owed = items[0].Created
	}
	gather := Stage{Name: "gather", limit: s.Gather.D()}
	if played.After(gathered) {
		gather.Owed = played
	}
	export, err := s.export(v, c)
	if err != nil {
		return nil, err
	}
	train, model, err := s.train(v, c)
	if err != nil {
		return nil, err
	}
	evaluate := s.owedItem(v, Stage{Name: "evaluate", Generation: train.Generation, limit: s.Evaluate.D()}, model.Created,
		kit.EvaluateKey(c, model.Digest))
	name, promoted := v.Library.Name(ring.ModelName(c))
	decide := Stage{Name: "decide", Generation: train.Generation, limit: s.Decide.D()}
	if w, ok := v.Queue.ByKey(kit.EvaluateKey(c, model.Digest)); ok && w.State == ring.WorkDone && name.Digest != model.Digest {
		decided, err := kit.ReadNoteOf[kit.Decided](v.Notes, "AUTO_PROMOTION", kit.DecidedNote+string(c))
		if err != nil {
			return nil, err
		}
		if !decided.Has(model.Digest, w.Finished) {
			decide.Owed = w.Finished
		}
	}
	spread := Stage{Name: "spread", Generation: name.Version, limit: s.Spread.D()}
	if a, known := v.Library.Artifact(name.Digest); promoted && known {
		for _, m := range v.Fleet.Members() {
			if m.Live() && !a.Held(m.ID) {
				// A late joiner starts its own time, and nobody else's anew.
				since := name.At
				if m.Since.After(since) {
					since = m.Since
				}
				if spread.Owed.IsZero() || since.Before(spread.Owed) {
					spread.Owed = since
				}
			}
		}
	}
	return []Stage{play, gather, export, train, evaluate, decide, spread}, nil
}

// export owes a dataset since it was asked for, or since games enough for one have been there.
func (s PipelineSettings) export(v kit.View, c id.Config) (Stage, error) {
	st := Stage{Name: "export", limit: s.Export.D()}
	state, err := kit.ReadNoteOf[exported](v.Notes, "AUTO_EXPORT", exportNote(c))
	if err != nil {
		return st, err
	}
	st.Generation = state.Generation
	for _, w := range v.Queue.Items(kit.StageExport, c) {
		if !w.State.Finished() {
			st.Generation, st.Owed = w.Generation, w.Created
		}
	}
	if !st.Owed.IsZero() {
		return st, nil
	}
	defaults, _ := Export().Settings.(ExportSettings)
	set, err := kit.Decode(v.Ring.Daemons["AUTO_EXPORT"], defaults)
	if err != nil {
		return st, fmt.Errorf("AUTO_EXPORT: %w", err)
	}
	var fresh int64
	for _, a := range v.Library.Artifacts(ring.KindPack, c) {
		if !state.counts(a) {
			continue
		}
		if fresh = ring.AddGames(fresh, a.Games()); fresh >= set.Games {
			st.Generation, st.Owed = state.Generation+1, a.Created
			break
		}
	}
	return st, nil
}

// train says what training owes for the newest dataset, and which model is the newest candidate.
func (s PipelineSettings) train(v kit.View, c id.Config) (Stage, ring.Artifact, error) {
	st := Stage{Name: "train", limit: s.Train.D()}
	var model ring.Artifact
	if models := v.Library.Artifacts(ring.KindModel, c); len(models) > 0 {
		model = models[len(models)-1]
	}
	for _, w := range v.Queue.Items(kit.StageTrain, c) {
		st.Generation = w.Generation
		// TRAINING_TRIGGER itself retries what failed, after its delays; only what hangs is owed here.
		if st.Owed = (time.Time{}); !w.State.Finished() {
			st.Owed = w.Created
		}
	}
	sets := v.Library.Artifacts(ring.KindDataset, c)
	if len(sets) == 0 || !st.Owed.IsZero() {
		return st, model, nil
	}
	newest := sets[len(sets)-1]
	state, err := kit.ReadNoteOf[trained](v.Notes, "TRAINING_TRIGGER", triggerNote(c))
	if err != nil {
		return st, model, err
	}
	if _, asked := v.Queue.ByKey(kit.TrainKey(c, newest.Digest)); !asked && newest.Seq > model.Seq && state.Blocked == "" {
		st.Generation, st.Owed = generationOf(v, newest), newest.Created
	}
	return st, model, nil
}

// owedItem fills in since when an item of a key is owed that ought to exist once its cause is there.
func (s PipelineSettings) owedItem(v kit.View, st Stage, cause time.Time, key string) Stage {
	w, ok := v.Queue.ByKey(key)
	name, promoted := v.Library.Name(ring.ModelName(w.Config))
	switch {
	case cause.IsZero(), ok && w.State == ring.WorkDone, ok && w.State == ring.WorkCancelled:
	case promoted && ok && kit.EvaluateKey(w.Config, name.Digest) == key:
	default:
		st.Owed = cause
		if _, kept := v.Queue.Item(w.ID); ok && kept && w.State.Finished() {
			st.Dead = w.ID
		}
	}
	return st
}
