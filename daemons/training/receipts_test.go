package training

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/daemons/kit/kittest"
	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// receipt makes a node state that it holds an artifact.
func receipt(t *testing.T, n *kittest.Node, d id.Digest) {
	t.Helper()
	if err := n.Env(kit.Spec{Name: "X", Scope: kit.ScopeNode}, "").Effects.AddReceipts(t.Context(), d); err != nil {
		t.Fatal(err)
	}
}

func packOn(r *kittest.Ring, name string, games int64, holders ...*kittest.Node) ring.Artifact {
	return r.AddArtifact(ring.KindPack, c4, name, map[string]int64{kit.CounterGames: games}, nil, holders...)
}

// Games count when they have their receipts, each once, also those that get them after an export has passed them by, and
// also when that export failed.
func TestExportTakesOnlyWhatHasItsReceipts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, a := ringOf(t, c4)
		b := r.AddNode("b", id.Core, ring.Slots{CPU: 2})
		exports := func() []ring.WorkItem { return r.Work(kit.StageExport) }
		a.Start(Export(), `{"games":50,"few":50}`)
		a.Start(Pipeline(), `{"export":"5m","train":"100h","play":"100h"}`)
		late := packOn(r, "late", 60, a)
		time.Sleep(20 * time.Minute)
		if len(exports()) != 0 || len(r.Log(event.PipelineStageOverdue.Type())) != 0 {
			t.Fatalf("games without receipts: exports %v, overdue %v", exports(), r.Log(event.PipelineStageOverdue.Type()))
		}
		packOn(r, "safe", 50, a, b)
		r.Eventually(time.Minute, "an export", func() bool { return len(exports()) == 1 })
		w, _ := r.Claim(a)
		if len(w.Inputs) != 1 || w.Params["games"] != "50" {
			t.Errorf("the first export has %d packs, %s games", len(w.Inputs), w.Params["games"])
		}
		r.Finish(a, w.ID, kittest.Outcome{Artifacts: []ring.Artifact{a.Store(ring.KindDataset, "one", nil)}})
		time.Sleep(10 * time.Minute)
		receipt(t, b, late.Digest)
		r.Eventually(time.Minute, "the export of what came late", func() bool { return len(exports()) == 2 })
		w, _ = r.Claim(a)
		if len(w.Inputs) != 2 || w.Params["games"] != "110" {
			t.Errorf("the second export has %d packs, %s games", len(w.Inputs), w.Params["games"])
		}
		r.Finish(a, w.ID, kittest.Outcome{Err: errors.New("deliberate"), Permanent: true})
		r.Eventually(10*time.Minute, "asked again for what came late", func() bool { return len(exports()) == 3 })
		w, _ = r.Claim(a)
		r.Finish(a, w.ID, kittest.Outcome{Artifacts: []ring.Artifact{a.Store(ring.KindDataset, "two", nil)}})
		time.Sleep(30 * time.Minute)
		if n := len(exports()); n != 3 {
			t.Errorf("%d exports: games were counted twice", n)
		}
	})
}

// An export whose bytes are gone was cancelled: the next one goes without them.
func TestExportGoesOnWithoutLostPacks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, a := ringOf(t, c4)
		b, c := r.AddNode("b", id.Core, ring.Slots{CPU: 2}), r.AddNode("c", id.Core, ring.Slots{CPU: 2})
		a.Start(Export(), "")
		packOn(r, "gone", 60, b, c)
		r.Eventually(time.Minute, "an export", func() bool { return len(r.Work(kit.StageExport)) == 1 })
		r.SetStatus(b, ring.Failed)
		r.SetStatus(c, ring.Failed)
		left := packOn(r, "left", 60, a, b)
		time.Sleep(20 * time.Minute)
		lost := r.Work(kit.StageExport)
		if len(lost) != 1 {
			t.Fatalf("%d exports at once", len(lost))
		}
		if err := a.Env(kit.Spec{Name: "X", Scope: kit.ScopeNode}, "").Effects.Cancel(t.Context(), lost[0].ID, "input lost"); err != nil {
			t.Fatal(err)
		}
		r.Eventually(10*time.Minute, "the next export", func() bool { return len(r.Work(kit.StageExport)) == 2 })
		if w := r.Work(kit.StageExport)[1]; len(w.Inputs) != 1 || w.Inputs[0].Digest != left.Digest {
			t.Errorf("inputs %v", w.Inputs)
		}
	})
}

// What comes late again and again while exports fail does not make the note grow: what a failure gives back counts by its
// place behind the mark.
func TestFailedExportsKeepTheirNoteSmall(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, a := ringOf(t, c4)
		b := r.AddNode("b", id.Core, ring.Slots{CPU: 2})
		a.Start(Export(), `{"games":50,"few":50}`)
		const rounds = 4
		for round := range rounds {
			var late []ring.Artifact
			for i := range maxLate + 6 {
				late = append(late, packOn(r, fmt.Sprintf("late %d.%d", round, i), 1, a))
			}
			packOn(r, fmt.Sprintf("safe %d", round), 50, a, b)
			r.Eventually(2*time.Hour, "an export", func() bool { return len(r.Work(kit.StageExport)) == round+1 })
			for _, p := range late {
				receipt(t, b, p.Digest)
			}
			w, _ := r.Claim(a)
			r.Finish(a, w.ID, kittest.Outcome{Err: errors.New("deliberate"), Permanent: true})
			r.Eventually(time.Minute, "the end is told", func() bool { return len(r.Log(event.ExportValidationFailed.Type())) == round+1 })
			note, err := kit.ReadNote[exported](a.Env(kit.Spec{Name: "AUTO_EXPORT", Scope: kit.ScopeNode}, "").View.Near().Notes, exportNote(c4))
			if err != nil || note.Generation != uint64(round+1) || len(note.Late) > maxLate {
				t.Fatalf("round %d: %d late, generation %d, %v", round, len(note.Late), note.Generation, err)
			}
		}
	})
}
