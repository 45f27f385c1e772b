package training

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/daemons/kit/kittest"
	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/ring"
)

// The queue keeps a thousand finished items; of the others it knows the key only. Whether such a training went well or
// badly, nothing is asked of it again, and the other configs go on.
func TestBuriedTrainingStopsNobody(t *testing.T) {
	t.Parallel()
	for name, bad := range map[string]bool{"made its model": false, "failed": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r, n := ringOf(t, c4, hex8)
				stop := n.Start(Trigger(), `{"samples":100}`)
				dataset(r, n, "first", 100)
				r.Eventually(time.Minute, "asked", func() bool { return len(r.Work(kit.StageTrain)) == 1 })
				w, _ := r.Claim(n)
				_ = stop() // its successor learns of the end when nothing but the key is left
				out := kittest.Outcome{Artifacts: []ring.Artifact{n.Store(ring.KindModel, "m", nil)}}
				if bad {
					out = kittest.Outcome{Err: errors.New("deliberate"), Permanent: true}
				}
				r.Finish(n, w.ID, out)
				r.Bury()
				n.Start(Trigger(), `{"samples":100}`)
				time.Sleep(20 * time.Minute) // beyond the rest after a failure
				r.AddArtifact(ring.KindDataset, hex8, "other", map[string]int64{kit.CounterSamples: 100}, nil, n)
				r.Eventually(time.Minute, "the other config's training", func() bool { return len(r.Work(kit.StageTrain)) == 1 })
				state, err := kit.ReadNoteOf[trained](r.View("").Notes, "TRAINING_TRIGGER", triggerNote(c4))
				want := map[bool]int{true: 1}[bad]
				if err != nil || !state.Settled || state.Failures != want {
					t.Errorf("books %+v, %v; want %d failures", state, err, want)
				}
			})
		})
	}
}

// A successful export that was buried gives no games back.
func TestBuriedExportKeepsItsGames(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, n := ringOf(t, c4)
		pack(r, n, c4, "a", 60)
		stop := n.Start(Export(), "")
		r.Eventually(time.Minute, "asked", func() bool { return len(r.Work(kit.StageExport)) == 1 })
		w, _ := r.Claim(n)
		_ = stop()
		r.Finish(n, w.ID, kittest.Outcome{Artifacts: []ring.Artifact{n.Store(ring.KindDataset, "d", nil)}})
		r.Bury()
		n.Start(Export(), "")
		time.Sleep(20 * time.Minute)
		if again := r.Work(kit.StageExport); len(again) != 0 || len(r.Log(event.ExportValidationFailed.Type())) != 0 {
			t.Errorf("asked again: %v", again)
		}
	})
}

// A dead evaluation that was buried is told as overdue and not asked for again: nobody could.
func TestBuriedEvaluationIsToldAsOverdue(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, n := ringOf(t, c4)
		m := r.AddArtifact(ring.KindModel, c4, "m", nil, nil, n)
		_, err := n.Env(kit.Spec{Name: "X", Scope: kit.ScopeNode}, "").Effects.Enqueue(t.Context(), ring.WorkItem{Type: kit.StageEvaluate,
			Config: c4, Key: kit.EvaluateKey(c4, m.Digest), Inputs: []ring.Input{{Role: kit.RoleCandidate, Digest: m.Digest}}})
		if err != nil {
			t.Fatal(err)
		}
		w, _ := r.Claim(n)
		r.Finish(n, w.ID, kittest.Outcome{Err: errors.New("deliberate"), Permanent: true})
		r.Bury()
		n.Start(Pipeline(), `{"evaluate":"10m","export":"10h","train":"100h","play":"100h"}`)
		r.Eventually(15*time.Minute, "told", func() bool { return len(r.Log(event.PipelineStageOverdue.Type())) > 0 })
		note, err := kit.ReadNoteOf[asked](r.View("").Notes, "DATA_PIPELINE", pipelineNote(c4))
		if err != nil || len(note.Tried) != 0 {
			t.Errorf("%+v, %v; want nothing retried", note, err)
		}
	})
}
