package training

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/daemons/kit/kittest"
	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

const c4, hex8 = id.Config("connect4_2p"), id.Config("hex8_2p")

// ringOf is a ring of one core node that can do everything.
func ringOf(t *testing.T, configs ...id.Config) (*kittest.Ring, *kittest.Node) {
	r := kittest.New(t, configs...)
	return r, r.AddNode("a", id.Core, ring.Slots{CPU: 2})
}

func pack(r *kittest.Ring, n *kittest.Node, c id.Config, name string, games int64) {
	r.AddArtifact(ring.KindPack, c, name, map[string]int64{kit.CounterGames: games}, nil, n)
}

func dataset(r *kittest.Ring, n *kittest.Node, name string, samples int64) ring.Artifact {
	return r.AddArtifact(ring.KindDataset, c4, name, map[string]int64{kit.CounterSamples: samples}, nil, n)
}

func lastPlan(t *testing.T, r *kittest.Ring) event.Allocation {
	t.Helper()
	all := r.Log(event.SelfplayAllocationUpdated.Type())
	p, err := event.SelfplayAllocationUpdated.Read(all[len(all)-1])
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPlanFeedsTheStarvedAndWeighsNodes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, small := ringOf(t, c4, hex8)
		big := r.AddNode("b", id.Edge, ring.Slots{CPU: 6})
		pack(r, small, hex8, "much", 50_000)
		small.Start(Selfplay(), `{"every":"10s"}`)
		r.Eventually(time.Minute, "a plan", func() bool { return len(r.Log(event.SelfplayAllocationUpdated.Type())) == 1 })
		p := lastPlan(t, r)
		var total, one, two int64
		for _, nodes := range p.Games {
			one, two = one+nodes[small.ID], two+nodes[big.ID]
		}
		total = one + two
		if p.PlanVersion != 1 || total != p.Total {
			t.Errorf("version %d, %d of %d games", p.PlanVersion, total, p.Total)
		}
		if starved := p.Games[c4][small.ID] + p.Games[c4][big.ID]; starved < 5*500 {
			t.Errorf("a config without games gets %d", starved)
		}
		if ratio := float64(two) / float64(one); math.Abs(ratio-3) > 0.05 {
			t.Errorf("nodes of 1:3 get 1:%.2f", ratio)
		}
		r.SetStatus(big, ring.Failed)
		r.Eventually(time.Minute, "a plan without it", func() bool { return len(r.Log(event.SelfplayAllocationUpdated.Type())) == 2 })
		if p := lastPlan(t, r); p.PlanVersion != 2 || p.Games[c4][big.ID] != 0 || p.Games[hex8][big.ID] != 0 {
			t.Errorf("%+v", p)
		}
		time.Sleep(30 * time.Minute)
		if n := len(r.Log(event.SelfplayAllocationUpdated.Type())); n > 4 {
			t.Errorf("%d plans although nothing happens", n)
		}
	})
}

// A plan for many configs on many nodes fits into its note, and an outage of one node is still a new plan.
func TestPlanOfALargeRing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var configs []id.Config
		for i := range 12 {
			configs = append(configs, id.Config(fmt.Sprintf("hex%d_%dp", 8+i/3, 2+i%3)))
		}
		r, n := ringOf(t, configs...)
		var last *kittest.Node
		for i := range 79 {
			last = r.AddNode(fmt.Sprintf("n%d", i), id.Edge, ring.Slots{CPU: 2})
		}
		n.Start(Selfplay(), `{"every":"10s"}`)
		r.Eventually(time.Minute, "a plan", func() bool { return len(r.Log(event.SelfplayAllocationUpdated.Type())) == 1 })
		p := lastPlan(t, r)
		note, err := kit.ReadNoteOf[kit.SelfplayPlan](r.View("").Notes, "SELFPLAY_COORDINATOR", kit.PlanNote)
		if err != nil || note.Total != p.Total || len(note.Games) != 12 {
			t.Fatalf("note %+v, %v", note, err)
		}
		for _, c := range configs {
			var sum int64
			for _, g := range p.Games[c] {
				sum += g
			}
			if len(p.Games[c]) != 80 || sum != note.Of(c) {
				t.Errorf("%s: %d games for %d nodes, the note says %d", c, sum, len(p.Games[c]), note.Of(c))
			}
		}
		r.SetStatus(last, ring.Failed)
		r.Eventually(time.Minute, "a plan without it", func() bool { return len(r.Log(event.SelfplayAllocationUpdated.Type())) == 2 })
	})
}

func TestDealSumsUp(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		total := rapid.Int64Range(0, 1e6).Draw(t, "total")
		weights := rapid.SliceOfN(rapid.Float64Range(0.1, 100), 1, 20).Draw(t, "weights")
		sum, all := int64(0), 0.0
		for _, w := range weights {
			all += w
		}
		for i, n := range deal(total, weights) {
			sum += n
			if exact := float64(total) * weights[i] / all; math.Abs(float64(n)-exact) > 1.001 {
				t.Fatalf("%d instead of %.2f", n, exact)
			}
		}
		if sum != total {
			t.Fatalf("%d of %d", sum, total)
		}
	})
}

func TestExportCountsEachGameOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, n := ringOf(t, c4)
		exports := func() []ring.WorkItem { return r.Work(kit.StageExport) }
		stop := n.Start(Export(), `{"few":40,"batch_after":"1h"}`)
		pack(r, n, c4, "a", 39)
		time.Sleep(10 * time.Minute)
		if len(exports()) != 0 {
			t.Fatal("exported too few games")
		}
		pack(r, n, c4, "b", 11)
		r.Eventually(2*time.Minute, "fifty games make one export", func() bool { return len(exports()) == 1 })
		w, _ := r.Claim(n)
		pack(r, n, c4, "during", 10) // while it runs
		time.Sleep(5 * time.Minute)
		_ = stop() // a successor goes on with the counts
		d := n.Store(ring.KindDataset, "data", map[string]int64{kit.CounterSamples: 100})
		r.Finish(n, w.ID, kittest.Outcome{Counters: d.Counters, Artifacts: []ring.Artifact{d}})
		n.Start(Export(), `{"few":40,"batch_after":"1h"}`)
		pack(r, n, c4, "more", 39)
		time.Sleep(5 * time.Minute)
		if len(exports()) != 1 {
			t.Fatalf("49 new games made an export")
		}
		pack(r, n, c4, "last", 1)
		r.Eventually(2*time.Minute, "the next export", func() bool { return len(exports()) == 2 })
		second := exports()[1]
		if len(second.Inputs) != 5 || second.Params["games"] != "100" || second.Generation != 2 {
			t.Errorf("%+v", second)
		}
		started, err := event.NPZExportStarted.Read(r.Log(event.NPZExportStarted.Type())[1])
		if err != nil || started.Games != 50 || started.WorkID != second.ID {
			t.Errorf("%+v, %v", started, err)
		}
	})
}

func TestFailedExportGivesItsGamesBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, n := ringOf(t, c4)
		pack(r, n, c4, "a", 60)
		n.Start(Export(), "")
		r.Eventually(time.Minute, "asked", func() bool { return len(r.Work(kit.StageExport)) == 1 })
		w, _ := r.Claim(n)
		r.Finish(n, w.ID, kittest.Outcome{Err: errors.New("garbage"), Permanent: true})
		r.Eventually(10*time.Minute, "told and asked again", func() bool {
			return len(r.Log(event.ExportValidationFailed.Type())) == 1 && len(r.Work(kit.StageExport)) == 2
		})
		if again := r.Work(kit.StageExport)[1]; again.Created.Sub(w.Created) < 2*time.Minute || again.Params["games"] != "60" {
			t.Errorf("asked again after %v for %s games", again.Created.Sub(w.Created), again.Params["games"])
		}
	})
}

func TestExportWindowAndPackList(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, n := ringOf(t, c4)
		n.Start(Export(), `{"window":2,"every":"5s","cooldown":"1s"}`)
		for g, want := range []int{1, 2, 2, 2} {
			pack(r, n, c4, fmt.Sprint("gen", g), 100)
			r.Eventually(time.Minute, "export", func() bool { return len(r.Work(kit.StageExport)) == g+1 })
			w, _ := r.Claim(n)
			if len(w.Inputs) != want {
				t.Errorf("generation %d has %d packs, want %d", g+1, len(w.Inputs), want)
			}
			d := n.Store(ring.KindDataset, fmt.Sprint("data", g), nil)
			r.Finish(n, w.ID, kittest.Outcome{Artifacts: []ring.Artifact{d}})
		}
		for i := range 250 {
			pack(r, n, c4, fmt.Sprint("small", i), 1)
		}
		r.Eventually(time.Minute, "big export", func() bool { return len(r.Work(kit.StageExport)) == 5 })
		w := r.Work(kit.StageExport)[4]
		list, ok := kit.InputOf(w, kit.RolePackList)
		raw, err := os.ReadFile(filepath.Join(n.Dir(), "blobs", string(list)))
		if w.Deadline.IsZero() {
			t.Error("nothing ends an item whose listed packs are lost")
		}
		if !ok || len(w.Inputs) != 1 || err != nil || strings.Count(string(raw), "\n") != 251 {
			t.Errorf("%d inputs, list %v, %d lines, %v", len(w.Inputs), ok, strings.Count(string(raw), "\n"), err)
		}
	})
}

// Where every item has a list there is a while between them, however fast the ring plays: only then are packs joined.
func TestExportsWithListsLeaveTimeForJoins(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, n := ringOf(t, c4)
		n.Start(Export(), `{"window":0,"every":"5s","cooldown":"1s"}`)
		for i := range kit.MaxInputs + 1 {
			pack(r, n, c4, fmt.Sprint("small", i), 1)
		}
		var ended time.Time
		for g := range 3 {
			pack(r, n, c4, fmt.Sprint("gen", g), 1000)
			r.Eventually(2*time.Minute, "export", func() bool { return len(r.Work(kit.StageExport)) == g+1 })
			w, _ := r.Claim(n)
			if _, list := kit.InputOf(w, kit.RolePackList); !list && g > 0 {
				t.Fatalf("generation %d has %d inputs and no list", g+1, len(w.Inputs))
			}
			if rest := w.Created.Sub(ended); g > 0 && (rest < listPause || rest > 2*listPause) {
				t.Errorf("generation %d was asked for %v after the one before", g+1, rest)
			}
			d := n.Store(ring.KindDataset, fmt.Sprint("data", g), nil)
			r.Finish(n, w.ID, kittest.Outcome{Artifacts: []ring.Artifact{d}})
			ended = time.Now()
		}
	})
}

func TestTrainingConditions(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, n := ringOf(t, c4)
		n.Start(Trigger(), `{"samples":100}`)
		trains := func() []ring.WorkItem { return r.Work(kit.StageTrain) }
		blocked := func() string {
			all := r.Log(event.TrainingBlocked.Type())
			if len(all) == 0 {
				return ""
			}
			p, err := event.TrainingBlocked.Read(all[len(all)-1])
			if err != nil {
				t.Fatal(err)
			}
			return fmt.Sprintf("%s %.0f/%.0f", p.Condition, p.Actual, p.Threshold)
		}
		dataset(r, n, "few", 99)
		r.Eventually(time.Minute, "named", func() bool { return blocked() == "samples 99/100" })
		time.Sleep(10 * time.Minute)
		if len(r.Log(event.TrainingBlocked.Type())) != 1 {
			t.Error("the same condition was told again")
		}
		dataset(r, n, "enough", 100)
		r.Eventually(time.Minute, "asked", func() bool { return len(trains()) == 1 })

		// A script that fails: retried after 5 and 10 minutes, then paused, with the condition named.
		var at []time.Time
		for range 3 {
			r.Eventually(30*time.Minute, "pending", func() bool { w, ok := r.Claim(n); return ok && w.Type == kit.StageTrain })
			at = append(at, time.Now())
			r.Finish(n, trains()[0].ID, kittest.Outcome{Err: errors.New("deliberate"), Permanent: true})
		}
		for i, want := range []float64{5, 10} {
			if d := at[i+1].Sub(at[i]).Minutes(); d < want || d > want+1 {
				t.Errorf("retry %d after %.1f min", i+1, d)
			}
		}
		r.Eventually(5*time.Minute, "paused", func() bool { return blocked() == "paused 3/3" })

		// After the pause it is tried once more; then evaluation backpressure keeps the next one off.
		r.Eventually(2*time.Hour, "tried again", func() bool { _, ok := r.Claim(n); return ok })
		r.Finish(n, trains()[0].ID, kittest.Outcome{Artifacts: []ring.Artifact{n.Store(ring.KindModel, "m", nil)}})
		judge := n.Env(kit.Spec{Name: "EVALUATION", Scope: kit.ScopeCluster}, "").Effects
		if err := judge.PutNote(t.Context(), kit.PressureNote, kit.EvaluationPressure{On: true, Depth: 151}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Minute)
		dataset(r, n, "next", 100)
		r.Eventually(10*time.Minute, "pressure named", func() bool { return strings.HasPrefix(blocked(), "evaluation_backpressure 151") })
		if err := judge.PutNote(t.Context(), kit.PressureNote, kit.EvaluationPressure{}); err != nil {
			t.Fatal(err)
		}
		r.Eventually(10*time.Minute, "released", func() bool { return len(trains()) == 2 })
	})
}

// Three holders in turn see the same dataset: it is trained on once.
func TestTrainingIsAskedForOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, n := ringOf(t, c4)
		dataset(r, n, "d", 9999)
		for range 3 {
			n.Start(Trigger(), "")
			time.Sleep(10 * time.Second)
			if w, ok := r.Claim(n); ok {
				r.Finish(n, w.ID, kittest.Outcome{Artifacts: []ring.Artifact{n.Store(ring.KindModel, "m", nil)}})
			}
		}
		time.Sleep(time.Hour)
		if got := len(r.Work(kit.StageTrain)); got != 1 {
			t.Errorf("%d trainings", got)
		}
	})
}

// Two configs at once: what one owes does not touch the other, and a stage that hangs is told at the deadline and then ever
// more seldom; a dead item is put back a bounded number of times.
func TestPipelineTellsWhatIsOverdue(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, n := ringOf(t, c4, hex8)
		stop := n.Start(Pipeline(), `{"evaluate":"10m","retries":2,"export":"10h","train":"100h","play":"100h"}`)
		m := r.AddArtifact(ring.KindModel, c4, "m", nil, nil, n)
		_, err := n.Env(kit.Spec{Name: "X", Scope: kit.ScopeNode}, "").Effects.Enqueue(t.Context(), ring.WorkItem{Type: kit.StageEvaluate,
			Config: c4, Key: kit.EvaluateKey(c4, m.Digest), Inputs: []ring.Input{{Role: kit.RoleCandidate, Digest: m.Digest}}})
		if err != nil {
			t.Fatal(err)
		}
		runs := 0
		for range 60 {
			time.Sleep(5 * time.Minute)
			if w, ok := r.Claim(n); ok {
				runs++
				r.Finish(n, w.ID, kittest.Outcome{Err: errors.New("deliberate"), Permanent: true})
			}
			if runs == 2 && stop != nil { // a successor in mid-stage
				_ = stop()
				stop = nil
				n.Start(Pipeline(), `{"evaluate":"10m","retries":2,"export":"10h","train":"100h","play":"100h"}`)
			}
		}
		if runs != 3 {
			t.Errorf("the item ran %d times, want once and two retries", runs)
		}
		all := r.Log(event.PipelineStageOverdue.Type())
		if len(all) < 4 || len(all) > 6 { // 10, 20, 40, 80, 160 minutes
			t.Errorf("told %d times in five hours", len(all))
		}
		for _, e := range all {
			if p, err := event.PipelineStageOverdue.Read(e); err != nil || p.Stage != "evaluate" || p.Config != c4 {
				t.Errorf("%+v, %v", p, err)
			}
		}
	})
}

// More configs than trainings at once: the limit holds, and the first in the list does not have every turn.
func TestTrainingsTakeTurns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const other = id.Config("hex9_2p")
		configs := []id.Config{c4, hex8, other}
		r, n := ringOf(t, configs...)
		next := 0
		fresh := func(c id.Config) {
			next++
			r.AddArtifact(ring.KindDataset, c, fmt.Sprint("data", next), map[string]int64{kit.CounterSamples: 100}, nil, n)
		}
		for _, c := range configs {
			fresh(c)
		}
		n.Start(Trigger(), `{"samples":100,"concurrent":1,"candidate_wait":"1s"}`)
		turns := map[id.Config]int{}
		for range 9 {
			time.Sleep(5 * time.Minute)
			if pending, _ := kit.Unfinished(r.View("").Queue, kit.StageTrain, ""); pending != 1 {
				t.Fatalf("%d trainings at once", pending)
			}
			w, _ := r.Claim(n)
			turns[w.Config]++
			time.Sleep(5 * time.Minute)
			fresh(w.Config) // there is always something new to train on
			r.Finish(n, w.ID, kittest.Outcome{Artifacts: []ring.Artifact{n.Store(ring.KindModel, fmt.Sprint("m", next), nil)}})
		}
		for _, c := range configs {
			if turns[c] != 3 {
				t.Errorf("turns %v, want 3 each", turns)
			}
		}
	})
}
