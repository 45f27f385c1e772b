package training

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/daemons/kit/kittest"
	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// debtor brings a ring of one node to where a stage owes its result, while nobody runs who would see to it.
type debtor struct {
	t *testing.T
	*kittest.Ring
	n *kittest.Node
}

func (d debtor) env() kit.Env { return d.n.Env(kit.Spec{Name: "X", Scope: kit.ScopeNode}, "") }

func (d debtor) model() id.Digest {
	return d.AddArtifact(ring.KindModel, c4, "m", nil, nil, d.n).Digest
}

func (d debtor) ask(stage, key string, inputs ...ring.Input) {
	d.t.Helper()
	if _, err := d.env().Effects.Enqueue(d.t.Context(), ring.WorkItem{Type: stage, Config: c4, Key: key, Inputs: inputs}); err != nil {
		d.t.Fatal(err)
	}
}

func (d debtor) finish(artifacts ...ring.Artifact) {
	d.t.Helper()
	w, ok := d.Claim(d.n)
	if !ok {
		d.t.Fatal("nothing to claim")
	}
	d.Finish(d.n, w.ID, kittest.Outcome{Artifacts: artifacts})
}

// measured is a model whose matches are there.
func (d debtor) measured() id.Digest {
	m := d.model()
	d.ask(kit.StageEvaluate, kit.EvaluateKey(c4, m), ring.Input{Role: kit.RoleCandidate, Digest: m})
	d.finish(d.n.Store(ring.KindMatches, "matches", nil))
	return m
}

func (d debtor) promote(m id.Digest) {
	d.t.Helper()
	if _, err := d.env().Effects.SetName(d.t.Context(), ring.ModelName(c4), 0, m, nil); err != nil {
		d.t.Fatal(err)
	}
}

// distant are limits that no test reaches.
const distant = `{"play":"100h","gather":"100h","export":"100h","train":"100h","evaluate":"100h","decide":"100h","spread":"100h"}`

// Of every stage it is told once when its limit has passed and not before, and by its own limit: the others' are far away.
func TestEveryStageHasItsDeadline(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, stage string
		owe         func(debtor)
	}{
		{"nobody claims self-play", "play", func(d debtor) { d.ask(kit.StageSelfplay, kit.SelfplayKey(c4, 1, 1)) }},
		{"self-play has dried up", "play", func(d debtor) {
			d.ask(kit.StageSelfplay, kit.SelfplayKey(c4, 1, 1))
			d.finish()
			pack(d.Ring, d.n, c4, "few", 1)
		}},
		{"games are in no pack", "gather", func(d debtor) {
			d.ask(kit.StageSelfplay, kit.SelfplayKey(c4, 1, 1))
			d.finish()
		}},
		{"nobody asks for an export", "export", func(d debtor) { pack(d.Ring, d.n, c4, "enough", 100) }},
		{"nobody claims the export", "export", func(d debtor) { d.ask(kit.StageExport, kit.ExportKey(c4, 1)) }},
		{"nobody asks for a training", "train", func(d debtor) { dataset(d.Ring, d.n, "data", 100) }},
		{"nobody claims the training", "train", func(d debtor) {
			data := dataset(d.Ring, d.n, "data", 100).Digest
			d.ask(kit.StageTrain, kit.TrainKey(c4, data), ring.Input{Role: kit.RoleDataset, Digest: data})
		}},
		{"nobody asks for an evaluation", "evaluate", func(d debtor) { d.model() }},
		{"nobody claims the evaluation", "evaluate", func(d debtor) { m := d.model(); d.ask(kit.StageEvaluate, kit.EvaluateKey(c4, m)) }},
		{"nobody judges the candidate", "decide", func(d debtor) { d.measured() }},
		{"nobody brings the champion to a node", "spread", func(d debtor) {
			d.promote(d.measured())
			d.AddNode("b", id.Edge, ring.Slots{})
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				const limit = 10 * time.Minute
				d := debtor{t: t}
				d.Ring, d.n = ringOf(t, c4)
				d.n.Start(Pipeline(), strings.Replace(distant, `"`+c.stage+`":"100h"`, `"`+c.stage+`":"`+limit.String()+`"`, 1))
				c.owe(d)
				time.Sleep(limit - time.Second)
				if early := d.Log(event.PipelineStageOverdue.Type()); len(early) > 0 {
					t.Errorf("told before the limit: %s", early[0].Payload)
				}
				time.Sleep(limit / 2)
				all := d.Log(event.PipelineStageOverdue.Type())
				if len(all) != 1 {
					t.Fatalf("%s was told as overdue %d times, want once", c.stage, len(all))
				}
				if p, err := event.PipelineStageOverdue.Read(all[0]); err != nil || p.Stage != c.stage || p.Config != c4 {
					t.Errorf("want %s of %s, told %+v, %v", c.stage, c4, p, err)
				}
			})
		})
	}
}

// A node that joins later has its own time and gives none to those that have waited for the champion since before.
func TestLateJoinerHidesNobodysDebt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := debtor{t: t}
		d.Ring, d.n = ringOf(t, c4)
		d.promote(d.measured())
		old := d.AddNode("old", id.Core, ring.Slots{})
		d.n.Start(Pipeline(), strings.Replace(distant, `"spread":"100h"`, `"spread":"10m"`, 1))
		time.Sleep(8 * time.Minute)
		d.AddNode("late", id.Edge, ring.Slots{})
		time.Sleep(4 * time.Minute)
		if told := d.Log(event.PipelineStageOverdue.Type()); len(told) != 1 {
			t.Errorf("a node has lacked the champion for twelve minutes of ten, told %d times, want once", len(told))
		}
		champion, _ := d.Name(ring.ModelName(c4))
		receipt(t, old, champion.Digest)
		time.Sleep(5 * time.Minute)
		if told := d.Log(event.PipelineStageOverdue.Type()); len(told) != 1 {
			t.Errorf("told %d times before the late one's time was up, want once", len(told))
		}
		time.Sleep(3 * time.Minute)
		if told := d.Log(event.PipelineStageOverdue.Type()); len(told) != 2 {
			t.Errorf("told %d times after the late one's time was up, want twice", len(told))
		}
	})
}
