package main

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/internal/id"
)

func TestNormalise(t *testing.T) {
	app := newApp(strings.NewReader(""), &bytes.Buffer{}, &bytes.Buffer{})
	for _, c := range []struct{ in, want string }{
		{"members", "members"},
		{"join SEED --json", "--json join SEED"},
		{"join SEED --node-name n1 SEED2", "join --node-name n1 SEED SEED2"},
		{"events tail -f --type=TRAINING_*", "events tail -f --type=TRAINING_*"},
		{"--data-dir D events publish T --payload -", "--data-dir D events publish --payload - T"},
		{"data get abcd --out F --data-dir D", "--data-dir D data get --out F abcd"},
		{"validate -- -odd.yaml", "validate -- -odd.yaml"},
		{"leader transfer n2 --timeout 5s", "--timeout 5s leader transfer n2"},
		{"help events tail", "events tail --help"},
		{"--version --json", "--json version"},
	} {
		got, err := normalise(app, append([]string{"ringagent"}, strings.Fields(c.in)...), false)
		if err != nil {
			t.Errorf("%s: %v", c.in, err)
			continue
		}
		if diff := cmp.Diff(strings.Fields(c.want), got[1:]); diff != "" {
			t.Errorf("%s: %s", c.in, diff)
		}
	}
}

// TestManners runs whole command lines that need no agent, one after another: the flag library keeps package-level state
// that two apps at once would race for.
func TestManners(t *testing.T) {
	none := t.TempDir()
	for _, c := range []struct {
		name   string
		args   string
		exit   int
		stdout string // must contain
		stderr string // must contain
	}{
		{"version", "version", 0, "ringagent ", ""},
		{"version as JSON", "version --json", 0, `"state_version"`, ""},
		{"no argument wanted", "version extra", 2, "", "takes no argument"},
		{"unknown command", "membres", 2, "", "members"},
		{"unknown flag", "members --statsu alive", 2, "", "--status"},
		{"unknown flag before the command", "--jsno members", 2, "", "--json"},
		{"flag without its value", "members --status", 2, "", "needs a value"},
		{"bad value", "members --status dead", 2, "", "want alive"},
		{"bad duration", "token create --ttl 1d", 2, "", `"1d" for flag --ttl: want a duration like`},
		{"bad global duration", "members --timeout never", 2, "", "--timeout: want a duration like"},
		{"bad number", "events tail --after -1", 2, "", `"-1" for flag --after: want a whole number`},
		{"negative timeout", "members --timeout -5s", 2, "", "--timeout -5s: want"},
		{"later verb", "top", 2, "", "unknown command"},
		{"no agent", "members --data-dir " + none, 3, "", "no agent answers"},
		{"no agent, as JSON", "members --json --data-dir " + none, 3, "", `"code":"unreachable"`},
		{"agent on a folder of no ring", "agent --data-dir " + none, 8, "", "belongs to no ring"},
		{"join without a seed", "join", 2, "", "SEED"},
		{"join without a token", "join 127.0.0.1:1 --data-dir " + none, 9, "", "no join token"},
		{"missing argument", "work show", 2, "", "exactly one"},
		{"bad hash", "data where xyz", 2, "", "hex"},
		{"two starts", "events tail --after 3 --from-start", 2, "", "choose one"},
		{"bad payload", "events publish OPERATOR_NOTE --payload [] --data-dir " + none, 2, "", "JSON object"},
		{"completion", "completion bash", 0, "complete ", ""},
		{"completion of nothing", "completion tcsh", 2, "", "want bash"},
		{"event types", "events types MODEL_PROMOTED", 0, "sha256", ""},
		{"unknown event type", "events types NO_SUCH", 4, "", "no event type"},
		{"validate nothing there", "validate /does/not/exist", 2, "", ""},
		{"dev with too many", "dev --nodes 99", 2, "", "--nodes"},
		{"flag that must be there", "data put FILE", 2, "", "data put needs --kind KIND"},
		{"flag that must be there, as JSON", "data get abcd --json", 2, "", `{"error":{"code":"usage","message":"data get needs --out FILE"`},
		{"flag that must be there, empty", "work add selfplay --config=", 2, "", "work add needs --config CONFIG"},
		{"help for what lacks a flag", "data put --help", 0, "--kind", ""},
		{"help for a verb of a verb", "help events tail", 0, "--from-start", ""},
		{"help for nothing known", "help bogus", 2, "", `unknown command "bogus" for ringagent; did you mean `},
		{"no verb", "daemon", 0, "explain", ""},
		{"no verb, for machines", "daemon --json", 2, "", `"daemon needs one of start, stop, restart, explain"`},
		{"no command, for machines", "--json", 2, "", "needs one of init, agent, "},
		{"a command that acts without a verb", "leader --json --data-dir " + none, 3, "", "unreachable"},
		{"origins of the ring's settings", "config show --scope ring --effective --data-dir " + none, 2, "", "--effective is for --scope node"},
		{"version as a flag", "--version", 0, "ringagent ", ""},
		{"version as a letter", "-v", 0, "ringagent ", ""},
		{"nearest of the commands", "dashboard", 2, "", `did you mean da`},
		{"name said once", "token revoke", 2, "", "ringagent: token revoke needs"},
		{"number below 0", "events tail --limit -1", 2, "", "want a whole number, 0 or more"},
		{"an argument too many", "leader transfer a b", 2, "", "takes at most one NODE, got 2"},
		{"a hash too many", "data verify abcd abce", 2, "", "takes at most one SHA256, got 2"},
		{"no HTML in errors", "events types <board> --json", 4, "", `"no event type \"<board>\""`},
		{"bad value, as JSON", "members --timeout never --json", 2, "", `"code":"usage"`},
		{"move without a model, as JSON", "workload connect4 move --moves 4 --json", 2, "", `{"error":{"code":"usage","message":"move: want either --model or --untrained"}}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			exit := run(t.Context(), append([]string{"ringagent"}, strings.Fields(c.args)...), strings.NewReader(""), &stdout, &stderr)
			if exit != c.exit {
				t.Errorf("exit %d, want %d\nstdout: %s\nstderr: %s", exit, c.exit, &stdout, &stderr)
			}
			if !strings.Contains(stdout.String(), c.stdout) || !strings.Contains(stderr.String(), c.stderr) {
				t.Errorf("stdout: %s\nstderr: %s", &stdout, &stderr)
			}
			if exit == 2 && strings.Count(stderr.String(), "\n") > 2 {
				t.Errorf("a usage error is a line, not a page: %s", &stderr)
			}
		})
	}
}

// TestVariables: an empty one is none, and what is wrong with one is said of the variable.
func TestVariables(t *testing.T) {
	t.Setenv("RINGAGENT_DATA_DIR", "")
	t.Setenv("RINGAGENT_TIMEOUT", "")
	if exit, out, err := said("version"); exit != 0 {
		t.Errorf("empty variables: exit %d: %s%s", exit, out, err)
	}
	for _, f := range []string{"--data-dir", "--socket"} {
		if exit, _, err := said("members", f, ""); exit != 2 || !strings.Contains(err, f) {
			t.Errorf("empty %s: exit %d: %s", f, exit, err)
		}
	}
	t.Setenv("RINGAGENT_ENROL_ONLY", "perhaps")
	if exit, _, err := said("join", "127.0.0.1:1", "--data-dir", t.TempDir()); exit != 2 || !strings.Contains(err, "RINGAGENT_ENROL_ONLY") {
		t.Errorf("--enrol-only has no variable: exit %d: %s", exit, err)
	}
	t.Setenv("RINGAGENT_ENROL_ONLY", "")
	file := filepath.Join(t.TempDir(), "mine.yaml")
	if err := os.WriteFile(file, []byte("node_name: a\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("RINGAGENT_CONFIG", file)
	if exit, out, err := said("validate", "--data-dir", t.TempDir()); exit != 0 || !strings.Contains(out, file+": ok (config)") {
		t.Errorf("validate of what a variable names: exit %d: %s%s", exit, out, err)
	}
	t.Setenv("RINGAGENT_TIMEOUT", "abc")
	if exit, out, err := said("version"); exit != 2 || out != "" || err != "ringagent: RINGAGENT_TIMEOUT=\"abc\": want a duration like 90s, 5m or 24h\n" {
		t.Errorf("bad variable: exit %d: %s%s", exit, out, err)
	}
}

// TestBadValueIsBlamedOnWhereItCameFrom: whoever gave a bad flag finds nothing wrong in the file.
func TestBadValueIsBlamedOnWhereItCameFrom(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "config.yaml")
	blamed := func(text, want string, args ...string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if exit, _, err := said(append([]string{"config", "show", "--data-dir", dir}, args...)...); exit != 2 || !strings.HasPrefix(err, "ringagent: "+want) {
			t.Errorf("exit %d, want %q: %s", exit, want, err)
		}
	}
	good := "listen: 127.0.0.1:1\n"
	blamed("listen: foo\n", file+`: listen: "foo"`)
	blamed(good, `--listen: listen: "foo"`, "--listen", "foo")
	blamed(good, "--log-level: log.level", "--log-level", "loud")
	t.Setenv("RINGAGENT_LISTEN", "foo")
	blamed(good, `RINGAGENT_LISTEN: listen: "foo"`)
}

type fullDisk struct{ left int }

func (f *fullDisk) Write(p []byte) (int, error) {
	if f.left -= len(p); f.left < 0 {
		return 0, syscall.ENOSPC
	}
	return len(p), nil
}

// TestAnswerThatIsCutShort: half a table is no success, whichever part of it is missing.
func TestAnswerThatIsCutShort(t *testing.T) {
	good := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(good, []byte("node_name: a\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"version"}, {"version", "--json"}, {"events", "types"}, {"validate", good}, {"config", "show"}, {"help"}, {"completion", "zsh"}} {
		for _, room := range []int{0, 10} {
			var stderr bytes.Buffer
			exit := run(t.Context(), append([]string{"ringagent"}, args...), strings.NewReader(""), &fullDisk{room}, &stderr)
			if exit != 1 || !strings.Contains(stderr.String(), syscall.ENOSPC.Error()) {
				t.Errorf("%q with room for %d: exit %d: %s", args, room, exit, &stderr)
			}
		}
	}
}

// TestHalfALineIsNotPrinted: whoever reads JSON lines must not get one that ends in its middle.
func TestHalfALineIsNotPrinted(t *testing.T) {
	var out bytes.Buffer
	err := copyLines(&out, io.MultiReader(strings.NewReader("{\"seq\":1}\n{\"se"), cutOff{}), true, nil)
	if err == nil || out.String() != "{\"seq\":1}\n" {
		t.Errorf("%q, %v", out.String(), err)
	}
}

// TestEmptyAndOddArguments: a variable that a script never set, or a path, names nothing and stands for nothing else.
func TestEmptyAndOddArguments(t *testing.T) {
	none := t.TempDir()
	for _, verb := range []string{
		"daemon stop", "daemon start", "daemon restart", "daemon explain", "work show", "work cancel", "work retry", "dlq show", "dlq retry",
		"token revoke", "force-leave", "leader transfer", "events publish", "data where", "config apply",
	} {
		odd := []string{""}
		if !slices.Contains([]string{"force-leave", "leader transfer", "events publish", "config apply"}, verb) {
			odd = append(odd, ".", "..")
		}
		for _, arg := range odd {
			args := append([]string{"--data-dir", none}, append(strings.Fields(verb), arg)...)
			if exit, out, err := said(args...); exit != 2 || out != "" {
				t.Errorf("%q: exit %d, want 2: %s%s", args, exit, out, err)
			}
		}
	}
}

func TestExitCodes(t *testing.T) {
	t.Parallel()
	for code, want := range map[api.Code]int{
		api.CodeFailed: 1, api.CodeUsage: 2, api.CodeInvalid: 2, api.CodeUnreachable: 3, api.CodeNotFound: 4, api.CodeNoQuorum: 5,
		api.CodeTimeout: 6, api.CodePartial: 7, api.CodeRefused: 8, api.CodeConflict: 8, api.CodeStale: 8, api.CodeLocked: 8, api.CodeUnauthorised: 9,
	} {
		var stderr bytes.Buffer
		if got := report(api.Errorf(code, "x").WithHint("y"), true, &stderr); got != want {
			t.Errorf("%s: exit %d, want %d", code, got, want)
		}
		var env api.Envelope
		if err := json.Unmarshal(stderr.Bytes(), &env); err != nil || env.Error.Code != code || env.Error.Hint != "y" {
			t.Errorf("%s: %s (%v)", code, &stderr, err)
		}
	}
}

func TestPrintableDisarmsTerminals(t *testing.T) {
	t.Parallel()
	if got := printable("a\x1b[31mb\nc\td\u202e"); strings.ContainsAny(got, "\x1b\n\t") {
		t.Errorf("got %q", got)
	}
}

// People know nodes by their names; an id stands where there is none, and JSON passes as it is.
func TestEventLinesNameNodes(t *testing.T) {
	line := []byte(`{"seq":7,"id":"a-1","type":"OPERATOR_NOTE","node":"1dcb10bcb85c1e08","time":"2026-11-27T17:54:31Z","payload":{"text":"x"}}` + "\n")
	for _, c := range []struct {
		json  bool
		names map[id.Node]string
		want  string
	}{
		{false, map[id.Node]string{"1dcb10bcb85c1e08": "gpu7"}, "OPERATOR_NOTE                gpu7      -  {"},
		{false, nil, "OPERATOR_NOTE                1dcb10bcb85c1e08  -  {"},
		{true, map[id.Node]string{"1dcb10bcb85c1e08": "gpu7"}, string(line)},
	} {
		var out bytes.Buffer
		if err := copyLines(&out, bytes.NewReader(line), c.json, c.names); err != nil || !strings.Contains(out.String(), c.want) {
			t.Errorf("%q, %v; want %q", out.String(), err, c.want)
		}
		if day := time.Date(2026, 11, 27, 17, 54, 31, 0, time.UTC).Local().Format(time.DateOnly); !strings.Contains(out.String(), day) {
			t.Errorf("%q does not say on which day it was", out.String()) // a log of weeks is read
		}
	}
}

// What a shell asks is answered and never done, wherever the cursor stands.
func TestCompletionDoesNothing(t *testing.T) {
	home := t.TempDir()
	t.Chdir(home)
	t.Setenv("HOME", home)
	for _, c := range []struct{ line, want, lacks string }{
		{"", "members", ""},
		{"work", "cancel", "selfplay"},
		{"work add selfplay", "--param", "members"},
		{"--data-dir d work cancel w1 --reason", "", ""},
		{"data get 3730 --out", "", ""},
		{"init --ring", "", ""},
		{"init --ring r", "--ring-config", ""},
		{"init", "--data-dir", ""},
		{"events publish OPERATOR_NOTE --payload {} --cause", "", ""},
		{"leave --drain", "--limit", ""},
		{"validate --", "", ""},
		{"nonsense", "members", ""},
	} {
		var out, stderr bytes.Buffer
		args := append(append([]string{"ringagent"}, strings.Fields(c.line)...), "--generate-bash-completion")
		exit := run(t.Context(), args, strings.NewReader(""), &out, &stderr)
		words := strings.Fields(out.String())
		if exit != 0 || stderr.Len() > 0 || c.want == "" && len(words) > 0 || c.want != "" && !slices.Contains(words, c.want) || slices.Contains(words, c.lacks) {
			t.Errorf("%q: exit %d, %q, %s; want %q", c.line, exit, words, &stderr, c.want)
		}
	}
	if left, err := os.ReadDir(home); err != nil || len(left) > 0 {
		t.Errorf("something was done: %v, %v", left, err)
	}
}

// Of several --tag all must match, also where they are of one key.
func TestTagsAllMatch(t *testing.T) {
	keep, err := memberFilter("", "", []string{"gpu=A.*", "gpu=.*100", "rack=r1"})
	if err != nil {
		t.Fatal(err)
	}
	for gpu, want := range map[string]bool{"A100": true, "A40": false, "H100": false} {
		if got := keep(api.Member{Tags: map[string]string{"gpu": gpu, "rack": "r1"}}); got != want {
			t.Errorf("%s: kept %v", gpu, got)
		}
	}
}

// TestHangupEndsDev: a terminal that goes leaves no agents behind, and a second hangup does not cut short how they are stopped.
func TestHangupEndsDev(t *testing.T) {
	ctx, stop := untilHangup(t.Context(), false) // whatever the tests run under
	defer stop()
	for range 3 {
		if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(10 * time.Second):
			t.Fatal("it goes on")
		}
	}
}

// A value of a flag that may be repeated may hold a comma.
func TestRepeatedFlags(t *testing.T) {
	for _, c := range []struct{ line, want string }{
		{"work add evaluate --config c4_2p --param opponents=random,heuristic", "no agent answers"},
		{"work add evaluate --config c4_2p --param games=1 --param games=2", `--param games: is given twice, as "1" and "2"`},
		{"work add evaluate --config c4_2p --param games=1 --param x", `--param "x": want NAME=VALUE`},
		{"work add evaluate --config c4_2p --input x", `--input "x": want ROLE=SHA256`},
		{"members --tag a=x{1,2} --tag b", `--tag "b": want KEY=REGEXP`},
		{"members --tag a=x{1,2}", "no agent answers"},
	} {
		var out, stderr bytes.Buffer
		exit := run(t.Context(), append([]string{"ringagent", "--data-dir", t.TempDir()}, strings.Fields(c.line)...), strings.NewReader(""), &out, &stderr)
		if exit == 0 || !strings.Contains(stderr.String(), c.want) {
			t.Errorf("%q: exit %d, %s", c.line, exit, &stderr)
		}
	}
}
