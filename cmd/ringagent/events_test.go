package main

import (
	"testing"

	"github.com/ringagent/ringagent/agent/api"
)

// A replica that differs ends with 1, whoever else is silent; one of which nothing is known with 7.
func TestExitOfVerify(t *testing.T) {
	t.Parallel()
	good, bad := api.VerifyNode{Node: "good", OK: new(true)}, api.VerifyNode{Node: "bad", OK: new(false), FirstBad: new(uint64(7))}
	silent := api.VerifyNode{Node: "silent", Error: "does not answer"}
	for name, c := range map[string]struct {
		v    api.Verify
		exit int
	}{
		"all good":       {api.Verify{OK: new(true), Nodes: []api.VerifyNode{good}}, 0},
		"one is silent":  {api.Verify{Nodes: []api.VerifyNode{good, silent}}, 7},
		"one is bad":     {api.Verify{OK: new(false), Nodes: []api.VerifyNode{good, bad}}, 1},
		"silent and bad": {api.Verify{OK: new(false), Nodes: []api.VerifyNode{silent, bad}}, 1},
	} {
		got := 0
		if err := verdictOn(c.v); err != nil {
			got = api.AsError(err).Exit()
		}
		if got != c.exit {
			t.Errorf("%s: exit %d, want %d", name, got, c.exit)
		}
	}
}
