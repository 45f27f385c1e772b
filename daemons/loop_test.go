package daemons

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/daemons/kit/kittest"
	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

var period = regexp.MustCompile(`"every":"[^"]*"`)

// wheel is the whole loop on five nodes in memory: every pipeline daemon, and workers that play, export, train and measure.
type wheel struct {
	*arena
	mu   sync.Mutex
	runs map[string]int // finished runs by key
	// alternate makes every second candidate a bad one.
	alternate bool
	measured  int
}

func newWheel(t *testing.T) *wheel { return newWheelAt(t, "") }

// newWheelAt gives every daemon but some that has a period of its own the same one; "" leaves them theirs.
func newWheelAt(t *testing.T, every string, but ...string) *wheel {
	w := &wheel{arena: newArena(t, ""), runs: map[string]int{}}
	// A tenth of the games of a ring on one machine, and thresholds to match: what is tested is who does what, not SQLite.
	w.overlay = DevOverlay()
	w.overlay["QUEUE_POPULATOR"] = raw(`{"every":"2s","games":5,"floor":10,"target":16,"per_cycle":16}`)
	w.overlay["AUTO_EXPORT"] = raw(`{"every":"5s","games":20,"immediate":40,"few":20,"cooldown":"5s","window":4}`)
	w.overlay["TRAINING_TRIGGER"] = raw(`{"every":"5s","samples":400,"cooldown":"5s","epochs":0,"retry":"5s","candidate_wait":"60s"}`)
	if every != "" {
		for name, section := range w.overlay {
			if slices.Contains(but, name) {
				continue
			}
			w.overlay[name] = period.ReplaceAll(section, []byte(`"every":"`+every+`"`))
		}
	}
	w.Settings(func(s *ring.Settings) { s.Daemons = w.overlay })
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	for _, n := range w.n {
		group.Go(func() { n.Work(ctx, w.stage) })
	}
	t.Cleanup(func() { cancel(); group.Wait() })
	for i, n := range w.n {
		name := "AUTO_SYNC"
		if n.Class == id.Edge {
			name = "EPHEMERAL_SYNC"
		}
		w.run(i, name)
	}
	return w
}

// bad says whether the candidate that is measured now plays badly.
func (w *wheel) bad() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.measured++
	return w.alternate && w.measured%2 == 0
}

// singletons starts them all, the first on the node given and the others on the cores after it.
func (w *wheel) singletons(first int) (stop []func() error) {
	for i, name := range singletons() {
		stop = append(stop, w.run((first+i)%3, name))
	}
	return stop
}

func (w *wheel) stage(ctx context.Context, n *kittest.Node, item ring.WorkItem) kittest.Outcome {
	takes := 3 * time.Second
	if item.Type == kit.StageSelfplay {
		takes = 15 * time.Second
	}
	select {
	case <-time.After(takes):
	case <-ctx.Done():
		return kittest.Outcome{Err: ctx.Err()}
	}
	w.mu.Lock()
	w.runs[item.Key]++
	w.mu.Unlock()
	switch item.Type {
	case kit.StageSelfplay:
		games, _ := strconv.Atoi(item.Params["games"])
		n.Play(item.ID, item.Config, true, kittest.IDs(item.ID, games)...)
		return kittest.Outcome{Counters: map[string]int64{kit.CounterGames: int64(games)}}
	case kit.StageExport:
		games, _ := strconv.ParseInt(item.Params["games"], 10, 64)
		c := map[string]int64{kit.CounterGames: games, kit.CounterSamples: 25 * games}
		return kittest.Outcome{Counters: c, Artifacts: []ring.Artifact{n.Store(ring.KindDataset, "dataset "+item.Key, c)}}
	case kit.StageTrain:
		return kittest.Outcome{Values: map[string]float64{"loss": 1}, Artifacts: []ring.Artifact{n.Store(ring.KindModel, "model "+item.Key, nil)}}
	}
	candidate, _ := kit.InputOf(item, kit.RoleCandidate)
	shares := map[string]float64{"random": 0.95, "heuristic": 0.7}
	if champion, ok := kit.InputOf(item, kit.RoleChampion); ok {
		shares[string(champion)] = 0.6
	}
	if w.bad() {
		for opponent := range shares {
			shares[opponent] = 0.3
		}
	}
	path, err := kittest.Matches(n.Dir(), item.ID, item.Config, candidate, 100, shares)
	if err != nil {
		return kittest.Outcome{Err: err}
	}
	promo, _ := ByName("EVALUATION")
	promo.Scope = kit.ScopeNode // an env of this node; no assignment is to move by it
	d, size, err := n.Env(promo, "").Store.PutFile(ctx, path)
	return kittest.Outcome{Err: err, Counters: map[string]int64{kit.CounterMatches: int64(100 * len(shares))},
		Artifacts: []ring.Artifact{{Digest: d, Kind: ring.KindMatches, Bytes: size}}}
}

// turns waits for so many promotions and checks that nothing was done twice on the way.
func (w *wheel) turns(promotions int, limit time.Duration) error {
	if err := within(limit, fmt.Sprintf("promotion %d", promotions), func() bool {
		n, _ := w.Name(ring.ModelName(c4))
		return n.Version >= uint64(promotions)
	}); err != nil {
		for _, i := range w.Work("") {
			if i.Type != kit.StageSelfplay {
				err = fmt.Errorf("%w\n%s %s", err, i.Key, i.State)
			}
		}
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for key, n := range w.runs {
		if n != 1 {
			return fmt.Errorf("%s ran %d times", key, n)
		}
	}
	for _, stage := range builtStages {
		if err := w.twice(stage); err != nil {
			return err
		}
	}
	return nil
}

// builtStages are those that make one thing of others.
var builtStages = []string{kit.StageExport, kit.StageTrain, kit.StageEvaluate}

// twice says if a stage was asked for twice over the same things, whatever the keys: the queue keeps one item a key, so that runs
// by key say nothing of who makes keys. The champion that an item meets is no part of what was asked for.
func (w *wheel) twice(stage string) error {
	seen := map[string]string{}
	for _, i := range w.Work(stage) {
		var of []string
		for _, in := range i.Inputs {
			if stage == kit.StageExport || in.Role == kit.RoleDataset || in.Role == kit.RoleCandidate {
				of = append(of, string(in.Digest))
			}
		}
		slices.Sort(of)
		what := strings.Join(of, ",")
		if first, ok := seen[what]; ok {
			return fmt.Errorf("%s and %s ask for the same", first, i.Key)
		}
		seen[what] = i.Key
	}
	return nil
}

// stageEvents are those of the loop's stages, withheld one after the other.
func stageEvents() [][]event.Type {
	return [][]event.Type{
		{event.SelfplayAllocationUpdated.Type()}, {event.SelfplayComplete.Type()}, {event.NewGamesAvailable.Type()}, {event.DataSyncCompleted.Type()},
		{event.NPZExportComplete.Type()}, {event.NPZDistributionComplete.Type()}, {event.TrainingCompleted.Type()},
		{event.EvaluationCompleted.Type(), event.WorkCompleted.Type()}, {event.ModelPromoted.Type()}, {event.PromotionRejected.Type()},
		{event.TrainingStarted.Type()}, {event.ModelDistributionComplete.Type()},
	}
}

// With each stage's event withheld in turn the next stage starts all the same, by its owner's own reconciling.
func TestLoopTurnsWithoutAnyOneEvent(t *testing.T) {
	t.Parallel()
	for _, types := range append([][]event.Type{nil, allButOverdue()}, stageEvents()...) {
		name := "nothing"
		if len(types) > 0 {
			name = string(types[0])
		}
		if len(types) > 5 {
			name = "everything"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWheel(t)
				// Where verdicts are all good, withholding the bad ones shows nothing; elsewhere they only take time.
				w.alternate = len(types) != 1 || types[0] == event.PromotionRejected.Type()
				w.Withhold(types...)
				w.singletons(0)
				began := time.Now()
				if err := w.turns(2, 4*time.Minute); err != nil {
					t.Error(err)
				}
				// Each stage began within its deadline: it was not DATA_PIPELINE that set it going.
				if late := w.Log(event.PipelineStageOverdue.Type()); len(late) > 0 {
					t.Errorf("%d stages were overdue, the first: %s", len(late), late[0].Payload)
				}
				if len(types) == 0 {
					w.heeded(t)
					w.askAgain(t)
				}
				t.Logf("two promotions in %v, %d work items", time.Since(began).Round(time.Second), len(w.Work("")))
			})
		})
	}
}

// heeded checks that the loop states what is withheld one by one, and that some daemon reads it: withholding anything else shows
// nothing.
func (w *wheel) heeded(t *testing.T) {
	t.Helper()
	var read []event.Type
	for _, s := range All() {
		read = append(read, s.Reads...)
	}
	for _, types := range stageEvents() {
		if !slices.ContainsFunc(types, func(e event.Type) bool { return slices.Contains(read, e) }) {
			t.Errorf("nobody reads %v", types)
		}
		for _, e := range types {
			if err := within(time.Minute, string(e), func() bool { return w.logged(e) }); err != nil {
				t.Error(err)
			}
		}
	}
}

// askAgain is the broken variant of turns: somebody asks for each stage once more, under a key of his own.
func (w *wheel) askAgain(t *testing.T) {
	t.Helper()
	s, _ := ByName("DATA_PIPELINE")
	s.Scope = kit.ScopeNode
	for _, stage := range builtStages {
		old := w.Work(stage)[0]
		again := ring.WorkItem{Type: stage, Config: c4, Key: "again/" + stage, Inputs: old.Inputs}
		if _, err := w.n[0].Env(s, "").Effects.Enqueue(t.Context(), again); err != nil {
			t.Fatal(err)
		}
		if w.twice(stage) == nil {
			t.Errorf("%s was asked for twice, and nobody noticed", stage)
		}
	}
}

// allButOverdue is every event but the one that says a stage is late, of which there must be none.
func allButOverdue() (all []event.Type) {
	for _, def := range event.Catalogue().All() {
		if def.Type != event.PipelineStageOverdue.Type() {
			all = append(all, def.Type)
		}
	}
	return all
}

// The broken variant: with every event withheld and nobody looking by himself within the hour, nothing turns.
func TestLoopStandsWithoutEventsAndTimers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWheelAt(t, "1h")
		w.Withhold(allButOverdue()...)
		w.singletons(0)
		if w.turns(1, 4*time.Minute) == nil {
			t.Error("a loop without events and timers turns: the other test shows nothing")
		}
	})
}

// All singletons move to other nodes in mid-loop while their former holders go on trying: nothing is done twice, the plan
// goes on, and what the old ones try is refused by the state. Successors know nothing but the state, also where nobody tells them.
func TestSuccessorsGoOn(t *testing.T) {
	t.Parallel()
	for name, types := range map[string][]event.Type{"nothing withheld": nil, "everything withheld": allButOverdue()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWheel(t)
				w.Withhold(types...)
				old := w.singletons(0)
				if err := w.turns(1, 3*time.Minute); err != nil {
					t.Fatal(err)
				}
				for range 3 {
					w.singletons(1)
					time.Sleep(7 * time.Second)
				}
				n, _ := w.Name(ring.ModelName(c4))
				if err := w.turns(int(n.Version)+2, 4*time.Minute); err != nil {
					t.Error(err)
				}
				ended := 0
				for _, stop := range old {
					if stop() != nil {
						ended++
					}
				}
				if len(w.Refused()) == 0 || ended == 0 {
					t.Errorf("refused %v; %d former holders ended", w.Refused(), ended)
				}
			})
		})
	}
}

// Without a quorum nothing is decided; with it back the loop goes on.
func TestLoopOutlivesLostQuorum(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWheel(t)
		w.singletons(0)
		if err := w.turns(1, 3*time.Minute); err != nil {
			t.Fatal(err)
		}
		w.Quorum(false)
		before := len(w.Work(""))
		time.Sleep(3 * time.Minute)
		if len(w.Work("")) != before {
			t.Error("work was added without a quorum")
		}
		w.Quorum(true)
		n, _ := w.Name(ring.ModelName(c4))
		if err := w.turns(int(n.Version)+1, 4*time.Minute); err != nil {
			t.Error(err)
		}
	})
}
