package workload

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/ringagent/ringagent/internal/id"
)

const good = `version: 1
name: connect4
configs: [connect4_2p]
stages:
  selfplay:
    argv: ["{self}", workload, connect4, selfplay, --games, "{games}", --model, "{model}", --out, "{out}/games.db", --seed, "{seed}"]
    env: {MODE: quick, CHAMPION: "{champion}"}
    needs: {cpu: 1, ram_mib: 256, disk_mib: 64, gpu: 0}
    timeout: 10m
    no_progress: 60s
    grace: 5s
    progress: 'games=(?P<games>\d+)'
    outputs: [{path: games.db, kind: games, min: {games: 1}}]
  train:
    argv: [python, -m, app.train, --fast, "{model}", --epochs=20]
    timeout: 2h
    outputs:
      - {path: model.bin, kind: model}
      - {path: curve.csv, kind: file, optional: true}
`

func TestParseGood(t *testing.T) {
	t.Parallel()
	for _, form := range []string{good, "\xef\xbb\xbf" + good, strings.ReplaceAll(good, "\n", "\r\n")} {
		w, err := Parse([]byte(form), "w.yaml")
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]id.Config{"connect4_2p"}, w.Configs); diff != "" {
			t.Error(diff)
		}
		play, train := w.Stages[Selfplay], w.Stages[Train]
		if diff := cmp.Diff(Slots{CPU: 1, RAMMiB: 256, DiskMiB: 64}, play.Needs); diff != "" {
			t.Error(diff)
		}
		if play.Timeout != 10*time.Minute || play.NoProgress != time.Minute || play.Grace != 5*time.Second {
			t.Errorf("durations: %v %v %v", play.Timeout, play.NoProgress, play.Grace)
		}
		if train.Needs.CPU != 1 || train.Grace != DefaultGrace {
			t.Errorf("defaults: %+v", train)
		}
		want := []Output{
			{Path: "model.bin", Kind: KindModel, Min: map[string]int64{"bytes": 1}},
			{Path: "curve.csv", Kind: KindFile, Min: map[string]int64{"bytes": 1}, Optional: true},
		}
		if diff := cmp.Diff(want, train.Outputs); diff != "" {
			t.Error(diff)
		}
	}
}

// What a ring took before its stages had to promise what they are for goes on, and is asked for what makes it a success.
func TestStoredWorkloadsStayUsable(t *testing.T) {
	t.Parallel()
	for name, old := range map[string]string{
		"no counter":         strings.Replace(good, "{games: 1}", "{bytes: 1}", 1),
		"not what it is for": strings.Replace(good, "kind: model}", "kind: file}", 1),
		"optional product": strings.Replace(good, "[{path: games.db, kind: games, min: {games: 1}}]",
			"[{path: games.db, kind: games, optional: true}, {path: x, kind: file}]", 1),
	} {
		if _, err := Parse([]byte(old), "w.yaml"); err == nil {
			t.Errorf("%s: an operator may give it", name)
		}
		w, err := ParseStored([]byte(old), "w.yaml")
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if diff := cmp.Diff(map[string]int64{"bytes": 1, "games": 1}, w.Stages[Selfplay].Outputs[0].Min); name == "no counter" && diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff(map[string]int64{"games": 1}, w.Stages[Selfplay].Outputs[0].Min); name != "no counter" && diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	if _, err := ParseStored([]byte(strings.Replace(good, "version: 1", "version: 2", 1)), "w.yaml"); err == nil {
		t.Error("a workload of another version is read")
	}
	w, err := ParseStored([]byte(good), "w.yaml")
	fresh, _ := Parse([]byte(good), "w.yaml")
	if err != nil || cmp.Diff(fresh.Stages[Selfplay].Outputs, w.Stages[Selfplay].Outputs) != "" {
		t.Errorf("a good one reads as %+v, %v", w, err)
	}
}

func TestParseFaults(t *testing.T) {
	t.Parallel()
	edit := func(old, new string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("no %q in the good file", old)
		}
		return strings.Replace(good, old, new, 1)
	}
	for name, c := range map[string]struct {
		text string
		want []string // parts of the error
	}{
		"empty":                {"", []string{"w.yaml: is empty"}},
		"not yaml":             {"version: [", []string{"w.yaml:1:"}},
		"version":              {edit("version: 1", "version: 2"), []string{"w.yaml:1:10: version: is 2", "write version: 1"}},
		"unknown top key":      {good + "stagse: {}\n", []string{`w.yaml:20:1: unknown key "stagse"`, `did you mean "stages"?`}},
		"unknown stage key":    {edit("timeout: 10m", "time_out: 10m"), []string{`w.yaml:9:5: unknown key "time_out"`, `"timeout"`}},
		"unknown slot":         {edit("ram_mib: 256", "ram_mb: 256"), []string{`w.yaml:8:21: unknown key "ram_mb"`}},
		"duplicate key":        {edit("grace: 5s", "timeout: 5s"), []string{"w.yaml:11:5", "already defined"}},
		"name":                 {edit("name: connect4", "name: a b"), []string{"w.yaml:2:7: name"}},
		"config":               {edit("[connect4_2p]", "[connect4]"), []string{"w.yaml:3:11: configs[0]", "<board>_<n>p"}},
		"config twice":         {edit("[connect4_2p]", "[connect4_2p, connect4_2p]"), []string{"w.yaml:3:24: configs[1]", "twice"}},
		"unknown stage":        {edit("  train:", "  trian:"), []string{"w.yaml:15:5: stages.trian", `did you mean "train"?`}},
		"unknown placeholder":  {edit(`"{seed}"`, `"{sede}"`), []string{"stages.selfplay.argv[11]: unknown placeholder {sede}", `did you mean "seed"?`}},
		"far placeholder":      {edit(`"{seed}"`, `"{password}"`), []string{"w.yaml:6:125:", "{password}", "there are {self}, {out}"}},
		"placeholder in env":   {edit("{champion}", "{champ}"), []string{"stages.selfplay.env.CHAMPION: unknown placeholder {champ}"}},
		"optional program":     {edit(`["{self}"`, `["{model}"`), []string{"stages.selfplay.argv[0]", "does not always have a value"}},
		"no program":           {edit(`[python, -m, app.train, --fast, "{model}", --epochs=20]`, "[]"), []string{"stages.train.argv: names no program"}},
		"regex":                {edit(`(?P<games>\d+)`, `(?P<games>\d+`), []string{"w.yaml:12:15: stages.selfplay.progress: does not compile"}},
		"no group":             {edit(`(?P<games>\d+)`, `(\d+)`), []string{"has no named group"}},
		"no pattern":           {edit("    progress: 'games=(?P<games>\\d+)'\n", ""), []string{"stages.selfplay.no_progress: cannot be watched"}},
		"duration no unit":     {edit("10m", "5"), []string{"w.yaml:9:14: stages.selfplay.timeout", "number with a unit"}},
		"duration zero":        {edit("10m", "0s"), []string{"stages.selfplay.timeout: is 0s"}},
		"duration negative":    {edit("60s", "-1s"), []string{"stages.selfplay.no_progress: is -1s"}},
		"duration huge":        {edit("10m", "1e99h"), []string{"stages.selfplay.timeout"}},
		"timeout missing":      {edit("    timeout: 2h\n", ""), []string{"w.yaml:15:5: stages.train.timeout: is missing"}},
		"kind":                 {edit("kind: games", "kind: game"), []string{`unknown kind "game"`, `did you mean "games"?`}},
		"escape":               {edit("path: games.db", "path: ../games.db"), []string{"does not stay inside"}},
		"absolute":             {edit("path: games.db", "path: /etc/passwd"), []string{"does not stay inside"}},
		"zero is enough":       {edit("{games: 1}", "{games: 0}"), []string{"outputs[0].min.games: is 0", "never a success"}},
		"no outputs":           {edit("[{path: games.db, kind: games, min: {games: 1}}]", "[]"), []string{"stages.selfplay.outputs: is missing"}},
		"all optional":         {edit("kind: model}", "kind: model, optional: true}"), []string{"are all optional"}},
		"not what it is for":   {edit("kind: model}", "kind: file}"), []string{"w.yaml:18:", "stages.train.outputs: have none of kind model", "give one of them kind: model"}},
		"another stage's kind": {edit("[{path: games.db, kind: games, min: {games: 1}}]", "[{path: games.db, kind: games, min: {games: 1}}, {path: x, kind: model}]"), []string{"stages.selfplay.outputs[1].kind: model is not what selfplay is for", "make it kind: games, games or file"}},
		"product is optional":  {edit("[{path: games.db, kind: games, min: {games: 1}}]", "[{path: games.db, kind: games, optional: true}, {path: x, kind: file}]"), []string{"stages.selfplay.outputs: have none of kind games", "not optional"}},
		"no counter":           {edit("{games: 1}", "{bytes: 1}"), []string{"w.yaml:13:51: stages.selfplay.outputs[0].min: does not ask for games", "add games: 1"}},
		"same output twice":    {edit("curve.csv", "./model.bin"), []string{"twice"}},
		"negative slots":       {edit("ram_mib: 256", "ram_mib: -1"), []string{"stages.selfplay.needs.ram_mib: is -1"}},
		"no slots":             {edit("{cpu: 1,", "{cpu: 0,"), []string{"neither a cpu nor a gpu"}},
		"agent's variable":     {edit("MODE:", "RINGAGENT_TOKEN:"), []string{"belong to the agent"}},
		"variable name":        {edit("MODE:", "MO-DE:"), []string{"is not a variable's name"}},
		"relative dir":         {edit("    timeout: 2h", "    dir: here\n    timeout: 2h"), []string{"stages.train.dir", "relative"}},
		"two documents":        {good + "---\n" + good, []string{"more than one YAML document"}},
		"not utf-8":            {edit("quick", "\xff"), []string{"w.yaml:7:1: is not UTF-8"}},
		"nul":                  {edit("quick", "\x00"), []string{"w.yaml:7:17: holds a NUL"}},
		"deep flow":            {"a: " + strings.Repeat("[", 10_000), []string{"line is longer"}},
		"deep flow, in lines":  {"a: " + strings.Repeat("[\n", 10_000), []string{"nested too deeply"}},
		"deep dashes":          {strings.Repeat("- ", 2000) + "x", []string{"nested too deeply"}},
		"large":                {strings.Repeat("# x\n", MaxFileBytes), []string{"larger than 64 KiB"}},
		"several at once":      {strings.Replace(edit("version: 1", "version: 7"), "10m", "x", 1), []string{"version: is 7", `"x" is not a duration`}},
		"wrong type":           {edit("configs: [connect4_2p]", "configs: {a: b}"), []string{"w.yaml:3:", "configs: want a list, not a table"}},
		"command in one word":  {edit(`[python, -m, app.train, --fast, "{model}", --epochs=20]`, `"python -m"`), []string{"w.yaml:15:11: stages.train.argv: want a list, not text", `(such as ["{self}", …])`}},
		"list for a table":     {edit("    timeout: 2h", "    needs: [1]\n    timeout: 2h"), []string{"stages.train.needs: want a table, not a list"}},
		"word for a number":    {edit("version: 1", "version: one"), []string{"w.yaml:1:10: version: want a whole number, not text"}},
		"word for a slot":      {edit("    timeout: 2h", "    needs: {cpu: many}\n    timeout: 2h"), []string{"stages.train.needs.cpu: want a whole number, not text"}},
		"fraction":             {edit("    timeout: 2h", "    needs: {cpu: 1.9}\n    timeout: 2h"), []string{"1.9: want a whole number"}},
		"fraction of a count":  {edit("version: 1", "version: 1.5"), []string{"1.5: want a whole number"}},
		"text like a number":   {edit("    timeout: 2h", "    env: {LR: 1.10}\n    timeout: 2h"), []string{`1.10 would be read as 1.1`, `"1.10"`}},
		"nothing behind it":    {edit("version: 1", "version: one") + "---\n", []string{"version: want a whole number, not text"}},
		"table for a text":     {edit("    timeout: 2h", "    timeout: {a: b}"), []string{"stages.train.timeout: want text, not a table"}},
		"number for a program": {edit("[python,", "[~,"), []string{"stages.train.argv"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, err := Parse([]byte(c.text), "w.yaml")
			if err == nil {
				t.Fatalf("accepted: %+v", w)
			}
			for _, part := range c.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("error %q lacks %q", err, part)
				}
			}
			var p *Problem
			if !errors.As(err, &p) {
				t.Errorf("error is a %T, not a Problem", err)
			}
		})
	}
}

// The sample in the contract of the command line has to stay valid word for word.
func TestParseContractSample(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("testdata/contract.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Parse(data, "contract.yaml"); err != nil {
		t.Fatal(err)
	}
}

func TestRender(t *testing.T) {
	t.Parallel()
	base := func(more Values) Values {
		v := Values{"self": "/bin/ringagent", "out": "/j/1/out", "config": "connect4_2p"}
		for k, val := range more {
			v[k] = val
		}
		return v
	}
	for name, c := range map[string]struct {
		argv []string
		v    Values
		want []string
	}{
		"all there":               {[]string{"{self}", "--games", "{games}"}, base(Values{"games": "40"}), []string{"/bin/ringagent", "--games", "40"}},
		"pair dropped":            {[]string{"{self}", "--model", "{model}", "--seed", "7"}, base(nil), []string{"/bin/ringagent", "--seed", "7"}},
		"empty is absent":         {[]string{"{self}", "-m", "{model}"}, base(Values{"model": ""}), []string{"/bin/ringagent"}},
		"positional dropped":      {[]string{"{self}", "play", "{model}"}, base(nil), []string{"/bin/ringagent", "play"}},
		"attached value dropped":  {[]string{"{self}", "--fast", "--model={model}"}, base(nil), []string{"/bin/ringagent"}},
		"two in a row":            {[]string{"{self}", "--a", "{model}", "{champion}"}, base(nil), []string{"/bin/ringagent"}},
		"flag before other value": {[]string{"{self}", "--x", "1", "{model}"}, base(nil), []string{"/bin/ringagent", "--x", "1"}},
		"end of flags stays":      {[]string{"{self}", "--", "{model}"}, base(nil), []string{"/bin/ringagent", "--"}},
		"derived":                 {[]string{"x", "{board}:{players}:{config}"}, base(nil), []string{"x", "connect4:2:connect4_2p"}},
		"other braces stay":       {[]string{"x", `{"a": {}}`, "${}", "{}"}, base(nil), []string{"x", `{"a": {}}`, "${}", "{}"}},
		"values are not expanded": {[]string{"x", "{model}"}, base(Values{"model": "/m/{seed}"}), []string{"x", "/m/{seed}"}},
		"no shell":                {[]string{"x", "{model}"}, base(Values{"model": "/m/$(rm -rf /); `a` | b"}), []string{"x", "/m/$(rm -rf /); `a` | b"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			argv, _, err := Render(Stage{Argv: c.argv}, c.v)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, argv); diff != "" {
				t.Error(diff)
			}
		})
	}
	_, env, err := Render(Stage{Argv: []string{"x"}, Env: map[string]string{"B": "{out}", "A": "1", "C": "{champion}"}}, base(nil))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"A=1", "B=/j/1/out"}, env); diff != "" {
		t.Error(diff)
	}
}

func TestRenderRefuses(t *testing.T) {
	t.Parallel()
	v := func(name, value string) Values {
		v := Values{"self": "/s", "out": "/o", "config": "connect4_2p"}
		v[name] = value
		return v
	}
	for name, values := range map[string]Values{
		"no self":            v("self", ""),
		"no out":             v("out", ""),
		"no config":          v("config", ""),
		"bad config":         v("config", "x"),
		"number is a flag":   v("seed", "-1"),
		"number is a word":   v("games", "all"),
		"opponent is a flag": v("opponents", "random,--evil"),
		"relative path":      v("model", "m.bin"),
		"unknown":            v("token", "x"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if argv, _, err := Render(Stage{Argv: []string{"x", "{games}"}}, values); !errors.Is(err, ErrValue) {
				t.Fatalf("got %q, %v", argv, err)
			}
		})
	}
}

// Whatever values there are: no placeholder is left over, the program stays first, and elements without placeholders
// that are not flags all survive in order.
func TestRenderKeepsPlainArguments(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		plain := rapid.StringMatching(`[a-z0-9]{1,5}`)
		var argv, words []string
		argv = append(argv, "prog")
		for range rapid.IntRange(0, 12).Draw(t, "n") {
			switch rapid.IntRange(0, 2).Draw(t, "what") {
			case 0:
				w := plain.Draw(t, "word")
				argv, words = append(argv, w), append(words, w)
			case 1:
				argv = append(argv, "--"+plain.Draw(t, "flag"))
			case 2:
				argv = append(argv, "{"+rapid.SampledFrom(Placeholders()).Draw(t, "p")+"}")
			}
		}
		v := Values{"self": "/s", "out": "/o", "config": "connect4_2p"}
		for _, n := range []string{"seed", "epochs", "games"} {
			if rapid.Bool().Draw(t, n) {
				v[n] = "12345678"
			}
		}
		got, _, err := Render(Stage{Argv: argv}, v)
		if err != nil {
			t.Fatal(err)
		}
		if got[0] != "prog" {
			t.Fatalf("program lost: %q", got)
		}
		i := 0
		for _, g := range got[1:] {
			if strings.Contains(g, "{") {
				t.Fatalf("left over: %q", got)
			}
			if i < len(words) && g == words[i] {
				i++
			}
		}
		if i != len(words) {
			t.Fatalf("argument lost: %q from %q", got, argv)
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte("a: &a [*a]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		w, err := Parse(data, "f")
		if err == nil && len(w.Stages) == 0 {
			t.Fatal("a workload without stages was accepted")
		}
	})
}
