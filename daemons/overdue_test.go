package daemons

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/daemons/kit/kittest"
	"github.com/ringagent/ringagent/internal/ring"
)

// duty is what an owner of a stage does only when something has woken it.
type duty struct {
	owner, what string
	done        func() bool
}

// duties are in the order of the loop, so that the first one not done names who stands. What there is already is not counted.
func (w *wheel) duties() []duty {
	planned, queued := w.planned(), len(w.Work(kit.StageSelfplay))
	asked := func(stage string) func() bool { return func() bool { return len(w.Work(stage)) > 0 } }
	return []duty{
		{"AUTO_EXPORT", "an export", asked(kit.StageExport)},
		{"NPZ_DISTRIBUTION", "a second copy of a dataset", func() bool {
			return slices.ContainsFunc(w.Artifacts(ring.KindDataset), func(a ring.Artifact) bool { return len(a.Holders) > 1 })
		}},
		{"TRAINING_TRIGGER", "a training", asked(kit.StageTrain)},
		{"EVALUATION", "an evaluation", asked(kit.StageEvaluate)},
		{"AUTO_PROMOTION", "a champion", func() bool { _, ok := w.Name(ring.ModelName(c4)); return ok }},
		{"MODEL_DISTRIBUTION", "a champion on every node", func() bool {
			champion, ok := w.Name(ring.ModelName(c4))
			return ok && !slices.ContainsFunc(w.n, func(n *kittest.Node) bool { return !n.Holds(champion.Digest) })
		}},
		{"SELFPLAY_COORDINATOR", "another plan", func() bool { return w.planned() > planned }},
		{"QUEUE_POPULATOR", "more self-play", func() bool { return len(w.Work(kit.StageSelfplay)) > queued }},
	}
}

// planned is the version of the plan for self-play.
func (w *wheel) planned() uint64 {
	p, err := kit.ReadNoteOf[kit.SelfplayPlan](w.View("").Notes, "SELFPLAY_COORDINATOR", kit.PlanNote)
	if err != nil {
		w.T.Error(err)
	}
	return p.Version
}

// With every other event withheld and no owner looking by itself within the hour, the loop turns by what DATA_PIPELINE tells as
// overdue: every owner hears it. That nothing turns when DATA_PIPELINE is as slow is TestLoopStandsWithoutEventsAndTimers.
func TestLoopTurnsByWhatIsOverdue(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWheelAt(t, "1h", "DATA_PIPELINE")
		w.Withhold(allButOverdue()...)
		// Where nothing was ever asked for nothing is owed: the queue has its first items before the loop is left to itself.
		for _, name := range []string{"SELFPLAY_COORDINATOR", "QUEUE_POPULATOR"} {
			stop := w.run(0, name)
			synctest.Wait()
			if err := stop(); err != nil {
				t.Fatal(err)
			}
		}
		duties := w.duties()
		w.singletons(0)
		for _, name := range singletons() {
			if name != "DATA_PIPELINE" && !slices.ContainsFunc(duties, func(d duty) bool { return d.owner == name }) {
				t.Errorf("%s has no duty here", name)
			}
		}
		for _, d := range duties {
			if err := within(10*time.Minute, d.what, d.done); err != nil {
				t.Fatalf("%s does not hear what is overdue: %v", d.owner, err)
			}
		}
		if err := w.turns(2, 20*time.Minute); err != nil {
			t.Error(err)
		}
	})
}
