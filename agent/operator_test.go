package agent_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/ringagent/ringagent/agent/agenttest"
	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/agent/config"
	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/deploy/workloads"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// refused says what of an answer to an operator is not as it should be, "" for nothing.
func refused(err error, code api.Code, words ...string) string {
	e := (*api.Error)(nil)
	if !errors.As(err, &e) || e.Code != code {
		return fmt.Sprintf("%v, want %s", err, code)
	}
	for _, w := range words {
		if !strings.Contains(e.Error(), w) {
			return fmt.Sprintf("%v does not say %q", err, w)
		}
	}
	return ""
}

// An operator is told in words of the command line what cannot be done, on which node it can, and what was done already.
func TestOperatorIsTold(t *testing.T) {
	t.Parallel()
	wait := func(ctx context.Context, _ kit.Env) error { <-ctx.Done(); return nil }
	r := agenttest.Start(t, agenttest.Options{
		Core: 1, Edge: 1, Specs: base(singleton("LONER", wait), everywhere("LOCAL", wait)),
		Settings: func(s *ring.Settings) { s.Workload, s.Configs = workloads.Connect4, []id.Config{"connect4_2p"} },
		Config:   func(_ string, c *config.Config) { c.Slots.RAMMiB = 1 }, // too little for any job
	})
	r.Settled()
	core, edge := r.Node("c1").Client(), r.Node("e1").Client()
	sha := id.DigestOf([]byte("x"))
	with := func(add api.AddWork, change func(*api.AddWork)) api.AddWork {
		add.Params, add.Inputs = maps.Clone(add.Params), append([]ring.Input(nil), add.Inputs...)
		change(&add)
		return add
	}
	first := api.AddWork{Type: "train", Config: "connect4_2p", Key: "mine", Params: map[string]string{"epochs": "3"}, Inputs: []ring.Input{{Role: "dataset", Digest: sha}}}

	t.Run("edge", func(t *testing.T) {
		for path, in := range map[string]any{
			"tokens": api.CreateToken{Class: id.Core, Uses: 1, TTLSeconds: 60}, "tokens/x/revoke": struct{}{},
			"settings": ring.Settings{}, "work": first, "work/w1/cancel": struct{}{}, "work/w1/retry": struct{}{},
			"force-leave": map[string]string{"node": "c1"}, "leader/transfer": map[string]string{"node": "c1"},
			"daemons/LONER/stop": struct{}{}, "daemons/LOCAL/stop": map[string]string{"node": "c1"}, "daemons/LONER/restart": struct{}{},
		} {
			if bad := refused(edge.Post(t.Context(), "/api/v1/"+path, in, nil), api.CodeUnauthorised, "an edge node may not", "core node: c1"); bad != "" {
				t.Errorf("%s: %s", path, bad)
			}
		}
		for _, verb := range []string{"stop", "start"} {
			if err := edge.Post(t.Context(), "/api/v1/daemons/LOCAL/"+verb, map[string]string{"node": "e1"}, nil); err != nil {
				t.Errorf("%s one's own: %v", verb, err)
			}
		}
	})
	t.Run("singleton on one node", func(t *testing.T) {
		err := core.Post(t.Context(), "/api/v1/daemons/LONER/stop", map[string]string{"node": "c1"}, nil)
		if bad := refused(err, api.CodeInvalid, "LONER", "whole ring"); bad != "" {
			t.Error(bad)
		}
	})
	t.Run("transfer to the coordinator", func(t *testing.T) {
		var out api.Done
		if err := core.Post(t.Context(), "/api/v1/leader/transfer", map[string]string{"node": "c1"}, &out); err != nil || !strings.Contains(out.Detail, "c1 coordinates already") {
			t.Errorf("%+v, %v", out, err)
		}
	})
	t.Run("inputs", func(t *testing.T) {
		for stage, role := range map[string]string{"export": "pack", "train": "dataset", "evaluate": "candidate"} {
			err := core.Post(t.Context(), "/api/v1/work", api.AddWork{Type: stage, Config: "connect4_2p"}, nil)
			if bad := refused(err, api.CodeInvalid, "--input "+role+"=SHA256"); bad != "" {
				t.Errorf("%s: %s", stage, bad)
			}
		}
	})
	t.Run("key", func(t *testing.T) {
		var one, again api.WorkRow
		must(t, core.Post(t.Context(), "/api/v1/work", first, &one))
		must(t, core.Post(t.Context(), "/api/v1/work", first, &again))
		if one.ID != again.ID {
			t.Errorf("the same key made %s and %s", one.ID, again.ID)
		}
		for what, in := range map[string]api.AddWork{
			"param": with(first, func(a *api.AddWork) { a.Params["epochs"] = "4" }),
			"input": with(first, func(a *api.AddWork) { a.Inputs[0].Digest = id.DigestOf([]byte("y")) }),
			"type":  with(first, func(a *api.AddWork) { a.Type = "selfplay" }),
		} {
			if bad := refused(core.Post(t.Context(), "/api/v1/work", in, nil), api.CodeConflict, one.ID, "another "+what); bad != "" {
				t.Error(bad)
			}
		}
	})
	r.Until("the edge node knows", func(ctx context.Context) error {
		var st api.Status
		if err := edge.Get(ctx, "/api/v1/status", nil, &st); err != nil || st.Work["pending"] == nil || st.Events.Lag == nil {
			return fmt.Errorf("%+v, %v", st, err)
		}
		return nil
	})
	r.Node("c1").Kill()
	r.Until("the edge node says that it does not know", func(ctx context.Context) error {
		var st api.Status
		if err := edge.Get(ctx, "/api/v1/status", nil, &st); err != nil {
			return err
		}
		if st.Work["pending"] != nil || st.Events.Lag != nil {
			return fmt.Errorf("work %v, lag unknown: %v", st.Work, st.Events.Lag == nil)
		}
		return nil
	})
}
