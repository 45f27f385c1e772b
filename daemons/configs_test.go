package daemons

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// Two configs turn on one wheel, their stages interleaved on the same workers. Each gets its promotions, no stage of either
// runs twice or on what belongs to the other, and nothing is said to be overdue of one because of the other.
func TestTwoConfigsTurnInterleaved(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const second = id.Config("hex8_2p")
		w := newWheel(t)
		w.Settings(func(s *ring.Settings) { s.Configs = []id.Config{c4, second} })
		w.singletons(0)
		for _, c := range []id.Config{c4, second} {
			if err := within(8*time.Minute, "two promotions of "+string(c), func() bool {
				n, _ := w.Name(ring.ModelName(c))
				return n.Version >= 2
			}); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.turns(2, time.Second); err != nil { // nothing ran twice
			t.Error(err)
		}
		if err := w.apart(c4, second); err != nil {
			t.Error(err)
		}
	})
}

// apart checks that every stage of every config ran, on that config's own artifacts and once for each of them, and that the
// configs took turns.
func (w *wheel) apart(configs ...id.Config) error {
	library := w.View("").Library
	ran := map[string]map[id.Config]int{}
	taken := map[string]string{} // by stage and artifact
	var turns []id.Config
	for _, i := range w.Work("") {
		if ran[i.Type] == nil {
			ran[i.Type] = map[id.Config]int{}
		}
		ran[i.Type][i.Config]++
		if n := len(turns); n == 0 || turns[n-1] != i.Config {
			turns = append(turns, i.Config)
		}
		for _, in := range i.Inputs {
			if a, ok := library.Artifact(in.Digest); ok && a.Config != i.Config {
				return fmt.Errorf("%s was given a %s of %s", i.Key, a.Kind, a.Config)
			}
		}
		role := map[string]string{kit.StageTrain: kit.RoleDataset, kit.StageEvaluate: kit.RoleCandidate}[i.Type]
		if d, ok := kit.InputOf(i, role); ok {
			of := i.Type + " " + string(d)
			if before := taken[of]; before != "" {
				return fmt.Errorf("%s: %s has done that", i.Key, before)
			}
			taken[of] = i.Key
		}
	}
	for _, stage := range []string{kit.StageSelfplay, kit.StageExport, kit.StageTrain, kit.StageEvaluate} {
		for _, c := range configs {
			if ran[stage][c] == 0 {
				return fmt.Errorf("no %s of %s", stage, c)
			}
		}
	}
	if len(turns) < 10*len(configs) {
		return fmt.Errorf("the configs took turns only %d times", len(turns))
	}
	for _, e := range w.Log(event.PipelineStageOverdue.Type()) {
		return fmt.Errorf("overdue: %s", e.Payload)
	}
	return nil
}
