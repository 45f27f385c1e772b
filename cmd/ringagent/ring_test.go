package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/ringagent/ringagent/agent/agenttest"
	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/daemons"
	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/id"
)

// said runs a whole command line.
func said(args ...string) (exit int, stdout, stderr string) {
	var out, err bytes.Buffer
	exit = run(context.Background(), append([]string{"ringagent"}, args...), strings.NewReader(""), &out, &err)
	return exit, out.String(), err.String()
}

// sick is a daemon whose handler fails for as long as it is not cured.
func sick(name string, cured *atomic.Bool) kit.Spec {
	return kit.Spec{Name: name, Category: "test", Doc: "A test's.", Scope: kit.ScopeNode, New: func(env kit.Env) (kit.Daemon, error) {
		return kit.Run(func(ctx context.Context) error {
			return env.Events.Consume(ctx, kit.Consumer{Types: []event.Type{"OPERATOR_NOTE"}, Handle: func(context.Context, event.Record) error {
				if cured.Load() {
					return nil
				}
				return errors.New("cannot take it")
			}})
		}), nil
	}}
}

// TestDeadLettersByCommand: what no handler could take is listed and shown whole; a retry that fails again is no success,
// one that works takes the letter away, and so does giving it up.
func TestDeadLettersByCommand(t *testing.T) {
	var cured atomic.Bool
	specs := []kit.Spec{sick("TEST_A", &cured), sick("TEST_B", &cured)}
	for _, name := range []string{"EVENT_ROUTER", "CROSS_PROCESS_POLLER"} {
		s, _ := daemons.ByName(name)
		specs = append(specs, s)
	}
	r := agenttest.Start(t, agenttest.Options{Specs: specs})
	socket := filepath.Join(r.Node("c1").Dir, "agent.sock")
	ask := func(want int, args ...string) (string, string) {
		t.Helper()
		exit, out, err := said(append([]string{"--socket", socket}, args...)...)
		if exit != want {
			t.Errorf("%q: exit %d, want %d: %s%s", args, exit, want, out, err)
		}
		return out, err
	}
	ask(0, "events", "publish", "OPERATOR_NOTE", "--payload", `{"text":"too much"}`, "--wait")
	ids := map[string]string{}
	r.UntilIn(2*agenttest.Patience, "two dead letters", func(context.Context) error {
		out, _ := ask(0, "dlq", "list", "--json")
		var d api.DeadLetters
		if err := json.Unmarshal([]byte(out), &d); err != nil {
			return err
		}
		for _, l := range d.DeadLetters {
			ids[l.Handler] = l.ID
		}
		if len(ids) != 2 {
			return fmt.Errorf("dead letters %v", ids)
		}
		return nil
	})
	a, b := ids["TEST_A"], ids["TEST_B"]
	out, _ := ask(0, "dlq", "show", a, "--json")
	var letter map[string]any
	if err := json.Unmarshal([]byte(out), &letter); err != nil || letter["id"] != a || letter["handler"] != "TEST_A" || letter["error"] != "cannot take it" {
		t.Errorf("dlq show: %v, %v", letter, err)
	}
	if out, _ := ask(0, "dlq", "show", a); !strings.Contains(out, "TEST_A") || !strings.Contains(out, "cannot take it") {
		t.Errorf("dlq show for people: %s", out)
	}
	if exit, out, _ := said("--socket", socket, "dlq", "retry", a); exit == 0 {
		t.Errorf("a retry that failed again is a success: %s", out)
	}
	cured.Store(true)
	ask(0, "dlq", "retry", a)
	ask(0, "daemon", "stop", "TEST_B")
	r.Until("a handler that does not run", func(context.Context) error {
		if exit, out, err := said("--socket", socket, "dlq", "retry", b); exit != 8 || !strings.Contains(err, "ringagent daemons") {
			return fmt.Errorf("exit %d: %s%s", exit, out, err)
		}
		return nil
	})
	ask(0, "dlq", "drop", b)
	ask(4, "dlq", "show", a)
	if out, _ := ask(0, "dlq", "list", "--json"); strings.Contains(out, a) || strings.Contains(out, b) {
		t.Errorf("left: %s", out)
	}
}

// TestSteeringARingOfOne: what cannot be done there is said for what it is.
func TestSteeringARingOfOne(t *testing.T) {
	r := agenttest.Start(t, agenttest.Options{})
	dir := r.Node("c1").Dir
	for _, c := range []struct {
		args   string
		exit   int
		stdout string // must contain, and so on
		stderr string
	}{
		// The agent runs, so its answer must not be taken for that of none.
		{"join 127.0.0.1:1 127.0.0.1:2", 3, "", "127.0.0.1:1"},
		{"join 127.0.0.1:1 127.0.0.1:2", 3, "", "127.0.0.1:2"},
		{"leader transfer", 8, "", "no other voter to hand over to"},
		{"leader transfer --json", 8, "", `"hint":"see who votes`},
		{"elo --plot", 0, "nothing was promoted yet", ""},
		{"elo --plot --json", 0, `"ratings": []`, ""},
	} {
		exit, out, err := said(append(strings.Fields(c.args), "--data-dir", dir)...)
		if exit != c.exit || !strings.Contains(out, c.stdout) || !strings.Contains(err, c.stderr) {
			t.Errorf("%s: exit %d, want %d: %s%s", c.args, exit, c.exit, out, err)
		}
	}
	var e *api.Error // other programs do not go by the command line's checks
	err := api.NewClient(filepath.Join(dir, "agent.sock")).Post(t.Context(), "/api/v1/join", map[string]any{"seeds": []string{}}, nil)
	if !errors.As(err, &e) || e.Code != api.CodeInvalid || !strings.Contains(e.Message, "seeds") {
		t.Errorf("no seed at all: %v", err)
	}
}

// TestDataByCommand: a file is named as its owner knows it, and none is written over by the way.
func TestDataByCommand(t *testing.T) {
	r := agenttest.Start(t, agenttest.Options{})
	socket := filepath.Join(r.Node("c1").Dir, "agent.sock")
	dir := t.TempDir()
	file, got := filepath.Join(dir, "letter.txt"), filepath.Join(dir, "got")
	text := strings.Repeat("no game in here\n", 100)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	ask := func(want int, args ...string) (string, string) {
		t.Helper()
		exit, out, err := said(append([]string{"--socket", socket, "data"}, args...)...)
		if exit != want {
			t.Errorf("%q: exit %d, want %d: %s%s", args, exit, want, out, err)
		}
		return out, err
	}
	for _, kind := range []string{"games", "model", "dataset", "matches"} {
		_, err := ask(2, "put", file, "--kind", kind, "--config", "x_2p")
		if !strings.Contains(err, file+" is no good "+kind) || strings.Contains(err, "put-") || strings.Contains(err, "staging") || !strings.Contains(err, "--kind file") {
			t.Errorf("%s: %s", kind, err)
		}
	}
	out, _ := ask(0, "put", file, "--kind", "file")
	sha := strings.TrimSpace(out)
	ask(2, "get", sha, "--out", dir)
	if out, _ = ask(0, "get", sha, "--out", got); out != "" {
		t.Errorf("printed %s", out)
	}
	if b, err := os.ReadFile(got); err != nil || string(b) != text {
		t.Errorf("got %.20q, %v", b, err)
	}
	if err := os.WriteFile(got, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, _ = ask(0, "get", sha, "--out", got, "--json") // takes the place of what was there
	if b, err := os.ReadFile(got); err != nil || string(b) != text {
		t.Errorf("it has %.20q now, %v", b, err)
	}
	var d delivered
	if err := json.Unmarshal([]byte(out), &d); err != nil || d != (delivered{id.DigestOf([]byte(text)), got, int64(len(text))}) {
		t.Errorf("%s: %v", out, err)
	}
	if out, _ = ask(0, "get", sha[:8], "--out", "-"); out != text {
		t.Errorf("on standard output: %.40q", out)
	}
	ask(2, "get", sha, "--out", "-", "--json")
	if left, _ := os.ReadDir(dir); len(left) != 2 {
		t.Errorf("left %v", left)
	}
}

// TestPlotElo says what is true where there is nothing to draw.
func TestPlotElo(t *testing.T) {
	elo := 1210.0
	for want, models := range map[string][]api.Model{
		"nothing was promoted yet": nil,
		"no champion's rating is":  {{Config: "x_2p", Version: 1}},
		"x_2p             v1    █": {{Config: "x_2p", Version: 1, Elo: &elo}},
	} {
		var out bytes.Buffer
		if plotElo(&out, models); !strings.HasPrefix(out.String(), want) {
			t.Errorf("%q, want %q", &out, want)
		}
	}
}

// TestLeftBehind: a machine may be given away only after exit code 0.
func TestLeftBehind(t *testing.T) {
	none, some := int64(0), int64(3)
	for name, c := range map[string]struct {
		games *int64
		exit  int
	}{"none": {&none, 0}, "some": {&some, 7}, "unknown": {nil, 7}} {
		var stderr bytes.Buffer
		if exit := report(leftBehind(api.Departure{UnsyncedGames: c.games}), false, &stderr); exit != c.exit {
			t.Errorf("%s: exit %d, want %d: %s", name, exit, c.exit, &stderr)
		}
	}
}

// TestApplyKeepsTheWorkload: settings that do not name the workload do not take it away by the way, and whoever applies some
// is told what they change.
func TestApplyKeepsTheWorkload(t *testing.T) {
	r := agenttest.Start(t, agenttest.Options{})
	socket := filepath.Join(r.Node("c1").Dir, "agent.sock")
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("w.yaml", "version: 1\nname: w\nconfigs: [x_2p]\nstages:\n  selfplay:\n    argv: [play]\n    timeout: 1m\n    outputs: [{path: g, kind: games}]\n")
	full := write("full.yaml", "timing: dev\nvoters: 1\nworkload: w.yaml\n")
	part := write("part.yaml", "timing: dev\nvoters: 1\ndaemons: {TRAINING_TRIGGER: {samples: 7}}\n")
	ask := func(want int, args ...string) string {
		t.Helper()
		exit, out, err := said(append([]string{"--socket", socket, "config"}, args...)...)
		if exit != want {
			t.Errorf("%q: exit %d, want %d: %s%s", args, exit, want, out, err)
		}
		return out + err
	}
	if out := ask(0, "apply", full); !strings.Contains(out, "configs") || !strings.Contains(out, "workload") {
		t.Errorf("what changed is not told: %s", out)
	}
	if out := ask(8, "apply", part); !strings.Contains(out, "part.yaml names no workload") || !strings.Contains(out, "--without-workload") {
		t.Errorf("a workload that would go: %s", out)
	}
	if out := ask(0, "show", "--scope", "ring"); !strings.Contains(out, "\nname: w\n") || !strings.Contains(out, "configs:\n- x_2p\n") {
		t.Errorf("settings for people: %s", out)
	}
	if out := ask(0, "apply", part, "--without-workload"); !strings.Contains(out, "changed: configs, daemons.TRAINING_TRIGGER, workload\n") {
		t.Errorf("what changed is not told: %s", out)
	}
	ask(0, "apply", part)
	bad := write("bad.yaml", "timing: dev\nvotes: 1\n")
	if out := ask(2, "apply", bad); !strings.Contains(out, bad+": [2:1] unknown field \"votes\"\n") || !strings.Contains(out, "\n>  2 | votes: 1\n") {
		t.Errorf("the place in the file is not shown line by line: %s", out)
	}
}
