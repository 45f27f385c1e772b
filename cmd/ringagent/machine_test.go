package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ringagent/ringagent/agent/config"
)

// inForceBy is what config show --effective says, by key.
func inForceBy(t *testing.T, args ...string) map[string]config.Value {
	t.Helper()
	exit, out, stderr := said(append([]string{"config", "show", "--effective", "--json"}, args...)...)
	var all struct{ Values []config.Value }
	if err := json.Unmarshal([]byte(out), &all); exit != 0 || err != nil {
		t.Fatalf("exit %d, %v: %s%s", exit, err, out, stderr)
	}
	got := map[string]config.Value{}
	for _, v := range all.Values {
		got[v.Key] = v
	}
	return got
}

func written(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "machine.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// The operator's token lies in the data dir in force, whoever named that: not in the one that a flag would have meant.
func TestTokenIsInTheDataDirInForce(t *testing.T) {
	file := written(t, "node_name: n\ndata_dir: /x\n")
	if got := inForceBy(t, "--config", file)["api.token_file"]; got.Value != "/x/api.token" || got.Origin != "default" {
		t.Errorf("by the file: %+v", got)
	}
	if got := inForceBy(t, "--config", file, "--data-dir", "/y")["api.token_file"]; got.Value != "/y/api.token" {
		t.Errorf("by the flag: %+v", got)
	}
	named := written(t, "node_name: n\ndata_dir: /x\napi: {token_file: /z/token}\n")
	if got := inForceBy(t, "--config", named)["api.token_file"]; got.Value != "/z/token" || got.Origin != named {
		t.Errorf("named: %+v", got)
	}
}

// TestInitMakesTheNamedToken: a config that init was given by --config holds at the next start, too.
func TestInitMakesTheNamedToken(t *testing.T) {
	token, dir := filepath.Join(t.TempDir(), "operator.token"), filepath.Join(t.TempDir(), "d")
	file := written(t, "node_name: n\nlisten: 127.0.0.1:1\napi: {token_file: "+token+"}\n")
	if exit, out, err := said("init", "--config", file, "--data-dir", dir); exit != 0 {
		t.Fatalf("exit %d: %s%s", exit, out, err)
	}
	if b, err := os.ReadFile(token); err != nil || len(b) < 32 {
		t.Errorf("%q, %v", b, err)
	}
	if got := inForceBy(t, "--data-dir", dir)["api.token_file"]; got.Value != token {
		t.Errorf("the next start reads %+v", got)
	}
	missing := written(t, "node_name: n\napi: {token_file: /does/not/exist/token}\n")
	if exit, _, err := said("init", "--config", missing, "--data-dir", filepath.Join(t.TempDir(), "e")); exit != 2 || !strings.Contains(err, "api.token_file") {
		t.Errorf("exit %d: %s", exit, err)
	}
}

// TestVariablesOfTheAgentAreInForce: what only a variable of agent or join sets is shown all the same, and who a machine is comes
// from its place in the ring.
func TestVariablesOfTheAgentAreInForce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	t.Setenv("RINGAGENT_JOIN", "a:1,b:2")
	t.Setenv("RINGAGENT_PROFILE", "minimal")
	t.Setenv("RINGAGENT_GOSSIP", "wan")
	t.Setenv("RINGAGENT_CLASS", "core")
	got := inForceBy(t, "--data-dir", dir)
	for key, want := range map[string]string{"profile": "minimal", "gossip": "wan", "class": "core"} {
		if v := got[key]; v.Value != want || v.Origin != "environment RINGAGENT_"+strings.ToUpper(key) {
			t.Errorf("%s: %+v", key, v)
		}
	}
	if v := got["join"]; !slices.Equal(v.Value.([]any), []any{"a:1", "b:2"}) || v.Origin != "environment RINGAGENT_JOIN" {
		t.Errorf("join: %+v", v)
	}
	if v := inForceBy(t, "--data-dir", dir, "--gossip", "lan")["gossip"]; v.Value != "lan" {
		t.Errorf("a flag: %+v", v)
	}
	if exit, out, err := said("init", "--node-name", "first", "--listen", "127.0.0.1:1", "--data-dir", dir); exit != 0 {
		t.Fatalf("exit %d: %s%s", exit, out, err)
	}
	t.Setenv("RINGAGENT_CLASS", "edge")
	t.Setenv("RINGAGENT_NODE_NAME", "other")
	got = inForceBy(t, "--data-dir", dir)
	for key, want := range map[string]string{"node_name": "first", "class": "core"} {
		if v := got[key]; v.Value != want || v.Origin != filepath.Join(dir, "node.json") {
			t.Errorf("%s of a node: %+v", key, v)
		}
	}
}
