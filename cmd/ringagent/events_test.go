package main

import (
	"strings"
	"testing"

	"github.com/ringagent/ringagent/agent/api"
)

// A replica that differs ends with 1, whoever else is silent; one of which nothing is known with 7. Both are named.
func TestExitOfVerify(t *testing.T) {
	t.Parallel()
	good, bad := api.VerifyNode{Node: "good", OK: new(true)}, api.VerifyNode{Node: "bad", OK: new(false), FirstBad: new(uint64(7))}
	silent := api.VerifyNode{Node: "silent", Error: "does not answer"}
	for name, c := range map[string]struct {
		v    api.Verify
		exit int
		says string
	}{
		"all good":       {api.Verify{OK: new(true), Nodes: []api.VerifyNode{good}}, 0, ""},
		"one is silent":  {api.Verify{Nodes: []api.VerifyNode{good, silent}}, 7, "the replica of silent"},
		"one is bad":     {api.Verify{OK: new(false), Nodes: []api.VerifyNode{good, bad}}, 1, "the replica of bad is wrong from seq 7 on"},
		"silent and bad": {api.Verify{OK: new(false), Nodes: []api.VerifyNode{silent, bad}}, 1, "the replica of bad is wrong from seq 7 on"},
	} {
		got, said := 0, ""
		if err := verdictOn(c.v); err != nil {
			got, said = api.AsError(err).Exit(), err.Error()
		}
		if got != c.exit || !strings.Contains(said, c.says) {
			t.Errorf("%s: exit %d, want %d; %q", name, got, c.exit, said)
		}
	}
}
