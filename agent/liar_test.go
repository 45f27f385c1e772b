package agent_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/ringagent/ringagent/agent/agenttest"
	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/daemons"
	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/deploy/workloads"
	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// evaluateBy is the built-in workload with another evaluator.
func evaluateBy(t *testing.T, argv string) string {
	t.Helper()
	before, rest, ok := strings.Cut(workloads.Connect4, "  evaluate:\n    argv: [")
	if !ok {
		t.Fatal("the built-in workload has no evaluate stage as it used to")
	}
	_, after, ok := strings.Cut(rest, "]")
	if !ok {
		t.Fatal("the built-in workload's evaluate stage has no end of its argv")
	}
	return before + "  evaluate:\n    argv: " + argv + after
}

// An evaluator that says 100 % and stores no matches promotes nothing. Honest measurement of a model made of noise rejects
// it, with the gate and the figures. All the while both daemons are deaf: that there is a candidate, and that it has been
// measured, they find out without the events that say so.
func TestLyingEvaluatorAndNoise(t *testing.T) {
	t.Parallel()
	var specs []kit.Spec
	for _, name := range []string{"EVALUATION", "AUTO_PROMOTION"} {
		s, _ := daemons.ByName(name)
		specs = append(specs, deaf(s))
	}
	lie := evaluateBy(t, `["/bin/sh", "-c", "echo games=400 wins=400 score=100%; : {model} {out}/matches.jsonl"]`)
	var settings ring.Settings
	r := agenttest.Start(t, agenttest.Options{Specs: base(specs...), Settings: func(s *ring.Settings) {
		s.Workload, s.Configs = lie, []id.Config{"connect4_2p"}
		s.Daemons = map[string]json.RawMessage{
			"EVALUATION": json.RawMessage(`{"every":"1s","opponents":["random","heuristic"],"simulations":1,"min_games":20,"max_games":20,
				"champion_games":20}`),
			"AUTO_PROMOTION": json.RawMessage(`{"every":"1s","min_games":20,"champion_games":20}`),
		}
		settings = *s
	}})
	n := r.Node("c1")
	upload := func(seed uint64) id.Digest { return uploadModel(t, r, n, seed) }
	nothingPromoted := func() {
		t.Helper()
		var ms api.Models
		if err := n.Client().Get(t.Context(), "/api/v1/models", nil, &ms); err != nil || len(ms.Models) != 0 {
			t.Errorf("models %+v, %v; want none promoted", ms.Models, err)
		}
		if ls, err := lines(t.Context(), n, "MODEL_PROMOTED"); err != nil || len(ls) != 0 {
			t.Errorf("promotions %+v, %v", ls, err)
		}
	}

	upload(1)
	r.Until("the lie to be found out", func(ctx context.Context) error {
		var w api.WorkList
		if err := n.Client().Get(ctx, "/api/v1/work", map[string][]string{"all": {"true"}}, &w); err != nil {
			return err
		}
		if len(w.Work) != 1 || w.Work[0].Error == "" {
			return fmt.Errorf("%d items, none with an error", len(w.Work))
		}
		if w.Work[0].State == ring.WorkDone {
			t.Fatalf("an evaluation without matches is done: %+v", w.Work[0])
		}
		t.Logf("found out: %s", w.Work[0].Error)
		return nil
	})
	nothingPromoted()

	settings.Workload = workloads.Connect4
	if err := n.Client().Post(t.Context(), "/api/v1/settings", settings, nil); err != nil {
		t.Fatalf("apply the honest workload: %v", err)
	}
	noise := upload(2)
	r.UntilIn(2*agenttest.Patience, "noise to be rejected", func(ctx context.Context) error {
		ls, err := lines(ctx, n, "PROMOTION_REJECTED")
		if err != nil {
			return err
		}
		for _, l := range ls {
			var x event.Rejection
			if err := json.Unmarshal(l.Payload, &x); err != nil {
				t.Fatal(err)
			}
			if x.Digest != noise {
				continue
			}
			if x.Gate == "" || x.Threshold <= 0 || x.Actual >= x.Threshold {
				t.Fatalf("rejected without gate and figures: %+v", x)
			}
			t.Logf("rejected by %s: %.2f < %.2f", x.Gate, x.Actual, x.Threshold)
			return nil
		}
		return errors.New("no verdict")
	})
	nothingPromoted()
}
