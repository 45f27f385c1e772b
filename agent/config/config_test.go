package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestBadFilesAreNamedWithTheirPlace(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ text, want string }{
		"unknown key":        {"node_name: a\nnode_nam: b\n", "[2:1] unknown field"},
		"unknown nested key": {"log:\n  level: info\n  colour: red\n", "[3:"},
		"doubled key":        {"listen: ':1'\nlisten: ':2'\n", "[2:1]"},
		"text for a list":    {"join: 5\n", "[1:"},
		"no YAML":            {"node_name: [\n", "[1:"},
		"a list":             {"- a\n", "[1:"},
		"number too large":   {"slots:\n  cpu: 99999999999999999999\n", "[2:"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := write(t, c.text)
			_, _, err := Load("/data", path)
			if err == nil {
				t.Fatal("accepted")
			}
			if !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("error %q\nshould name the file and %q", err, c.want)
			}
		})
	}
}

func TestWhatIsNoFileIsRefusedAtOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Skipf("no FIFO here: %v", err)
	}
	large := filepath.Join(dir, "large")
	if err := os.WriteFile(large, make([]byte, MaxFile+1), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{fifo, dir, large, filepath.Join(dir, "missing")} {
		done := make(chan error, 1)
		go func() {
			_, _, err := Load("/data", path)
			done <- err
		}()
		select {
		case err := <-done:
			if err == nil {
				t.Errorf("%s: accepted", path)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%s: hangs", path)
		}
	}
}

func TestOddButSoundFiles(t *testing.T) {
	t.Parallel()
	want := Default("/data")
	want.NodeName, want.Join = "n1", []string{"a:1", "b"}
	for name, text := range map[string]string{
		"plain":    "node_name: n1\njoin: [a:1, b]\n",
		"BOM":      "\xef\xbb\xbfnode_name: n1\njoin: [a:1, b]\n",
		"CRLF":     "node_name: n1\r\njoin: [a:1, b]\r\n",
		"comments": "# mine\nnode_name: n1 # short\njoin:\n  - a:1\n  - b\n",
	} {
		got, origins, err := Load("/data", write(t, text))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if origins["node_name"] == "" || origins["listen"] != "" {
			t.Errorf("%s: origins %v", name, origins)
		}
	}
	for _, text := range []string{"", "\n", "  \n\n", "# node_name: n1\n", "---\n", "\xef\xbb\xbf"} {
		if got, _, err := Load("/data", write(t, text)); err != nil || !cmp.Equal(got, Default("/data")) {
			t.Errorf("empty file %q: %v", text, err)
		}
	}
}

func TestValidateNamesTheField(t *testing.T) {
	t.Parallel()
	labels := func(n int) map[string]string {
		all := map[string]string{}
		for i := range n {
			all[fmt.Sprint("key", i)] = "x"
		}
		return all
	}
	for name, c := range map[string]struct {
		change func(*Config)
		want   string // "" = sound
	}{
		"default":             {func(*Config) {}, ""},
		"any port":            {func(c *Config) { c.Listen = "127.0.0.1:0" }, ""},
		"IPv6":                {func(c *Config) { c.Listen = "[::1]:8770"; c.Advertise = "[::1]:8770" }, ""},
		"name with a space":   {func(c *Config) { c.NodeName = "a b" }, "node_name"},
		"no name":             {func(c *Config) { c.NodeName = "" }, "node_name"},
		"no data dir":         {func(c *Config) { c.DataDir = "" }, "data_dir"},
		"listen without port": {func(c *Config) { c.Listen = "127.0.0.1" }, "listen"},
		"port too large":      {func(c *Config) { c.Listen = ":70000" }, "listen"},
		"port is a word":      {func(c *Config) { c.Listen = ":http" }, "listen"},
		"advertise nobody":    {func(c *Config) { c.Advertise = "0.0.0.0:8770" }, "advertise"},
		"advertise many":      {func(c *Config) { c.Advertise = "224.0.0.1:8770" }, "advertise"},
		"advertise loopback":  {func(c *Config) { c.Advertise = "127.0.0.1:8770" }, "advertise"},
		"advertise no port":   {func(c *Config) { c.Advertise = "host" }, "advertise"},
		"advertise port 0":    {func(c *Config) { c.Advertise = "host:0" }, "advertise"},
		"advertise no host":   {func(c *Config) { c.Advertise = ":8770" }, "advertise"},
		"loopback on both":    {func(c *Config) { c.Listen = "127.0.0.1:1"; c.Advertise = "127.0.0.1:1" }, ""},
		"empty seed":          {func(c *Config) { c.Join = []string{""} }, "join"},
		"seed port":           {func(c *Config) { c.Join = []string{"a:0"} }, "join"},
		"class":               {func(c *Config) { c.Class = "king" }, "class"},
		"profile":             {func(c *Config) { c.Profile = "all" }, "profile"},
		"gossip":              {func(c *Config) { c.Gossip = "slow" }, "gossip"},
		"level":               {func(c *Config) { c.Log.Level = "loud" }, "log.level"},
		"format":              {func(c *Config) { c.Log.Format = "xml" }, "log.format"},
		"domain of two words": {func(c *Config) { c.FailureDomain = "rack 7" }, "failure_domain"},
		"domain of a control": {func(c *Config) { c.FailureDomain = "rack\x00" }, "failure_domain"},
		"domain":              {func(c *Config) { c.FailureDomain = "vast/eu:rack-7" }, ""},
		"long domain":         {func(c *Config) { c.FailureDomain = strings.Repeat("r", 129) }, "failure_domain"},
		"label without a key": {func(c *Config) { c.Labels = map[string]string{"": "x"} }, "labels"},
		"label of two lines":  {func(c *Config) { c.Labels = map[string]string{"gpu": "a\nb"} }, "labels.gpu"},
		"32 labels":           {func(c *Config) { c.Labels = labels(32) }, ""},
		"33 labels":           {func(c *Config) { c.Labels = labels(33) }, "labels: want at most 32"},
		"label":               {func(c *Config) { c.Labels = map[string]string{"gpu": "RTX 4090"} }, ""},
		"slots of everything": {func(c *Config) { c.Slots.RAMMiB = 1 << 40 }, "slots.ram_mib"},
		"negative slots":      {func(c *Config) { c.Slots.CPU = -1 }, "slots.cpu"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conf := Default("/data")
			conf.NodeName = "n1"
			c.change(&conf)
			err := conf.Validate()
			switch {
			case c.want == "" && err != nil:
				t.Errorf("refused: %v", err)
			case c.want != "" && err == nil:
				t.Error("accepted")
			case c.want != "" && !strings.Contains(err.Error(), c.want):
				t.Errorf("error %q does not name %s", err, c.want)
			}
		})
	}
}

func TestSeed(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"host": "host:8770", "host:1": "host:1", "10.0.0.1": "10.0.0.1:8770", "[::1]:5": "[::1]:5", "[::1]": "[::1]:8770", "::1": "[::1]:8770",
	} {
		if got, err := Seed(in); err != nil || got != want {
			t.Errorf("Seed(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
}

func TestEffectiveSaysWhereFrom(t *testing.T) {
	t.Parallel()
	path := write(t, "node_name: n1\nlog:\n  level: debug\nlabels:\n  rack: r1\n")
	c, origins, err := Load("/data", path)
	if err != nil {
		t.Fatal(err)
	}
	all, err := Effective(c, origins)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]Value{}
	last := ""
	for _, v := range all {
		if v.Key <= last {
			t.Errorf("%s after %s", v.Key, last)
		}
		last = v.Key
		got[v.Key] = v
	}
	for key, want := range map[string]Value{
		"node_name":   {"node_name", "n1", path},
		"log.level":   {"log.level", "debug", path},
		"log.format":  {"log.format", "json", "default"},
		"labels.rack": {"labels.rack", "r1", path},
		"listen":      {"listen", ":8770", "default"},
	} {
		if diff := cmp.Diff(want, got[key]); diff != "" {
			t.Errorf("%s (-want +got):\n%s", key, diff)
		}
	}
}

func TestConfigIsReadAsItWasWritten(t *testing.T) {
	t.Parallel()
	want := Default("/data")
	open := false
	want.NodeName, want.Listen, want.Class, want.Labels = "n1", "127.0.0.1:5", id.Core, map[string]string{"a": "b: c", "d": "#e"}
	want.Slots, want.API.LoopbackOpen = ring.Slots{CPU: 2}, &open
	b, err := want.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	got, _, err := Load("/data", write(t, string(b)))
	if err != nil {
		t.Fatalf("%v\n%s", err, b)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func refuseAll(string, json.RawMessage) error { return errors.New("no such setting") }

func TestRingSettings(t *testing.T) {
	t.Parallel()
	s, err := ParseRing([]byte("timing: wan\nvoters: 5\nretention:\n  age: 2h\ncopies:\n  model: 3\n"), "ring.yaml", nil)
	if err != nil {
		t.Fatal(err)
	}
	if s.Timing != ring.TimingWAN || s.Voters != 5 || time.Duration(s.Retention.Age) != 2*time.Hour || s.CopiesOf(ring.KindModel) != 3 || s.CopiesOf(ring.KindPack) != 2 {
		t.Errorf("read %+v", s)
	}
	broken := write(t, "name: x\nconfigs: [x]\nstages: {}\n")
	for text, want := range map[string]string{
		"workload: " + broken + "\n":       broken + ":2:11: configs[0]", // the place in the workload's own file
		"retention: {bytes: 1GB}\n":        "want a whole number, not text",
		"daemons: {A: {}, B: {}}\n":        "ring.yaml: daemons.B", // all at once
		"voters: 2\n":                      "voters",
		"voters: 0\n":                      "voters 0",
		"voters: 3.7\n":                    "line 1: voters: 3.7: want a whole number",
		"copies: {model: 1.5}\n":           "want a whole number",
		"workload: [a]\n":                  "want text, not a list",
		"workload: {a: b}\n":               "want text, not a table",
		"timing: fast\n":                   "timing",
		"retention: {age: never}\n":        "retention.age",
		"retention: {age: -1h}\n":          "retention: age and bytes must not be negative",
		"retention: {age: 0s}\n":           "retention.age",
		"retention: {age: 1ns}\n":          "retention.age 1ns: want 1m0s to 87600h0m0s",
		"retention: {age: 99999h}\n":       "retention.age 99999h0m0s: want 1m0s to 87600h0m0s",
		"retention: {age: 300000000h}\n":   "at most 87600h0m0s",
		"retention: {bytes: 1}\n":          "retention.bytes 1: want at least 1048576",
		"retention: {bytes: -1}\n":         "retention: age and bytes must not be negative",
		"retention: {count: 1}\n":          "retention.count 1: want at least 1000, or 0",
		"copies: {model: 0}\n":             "copies",
		"configs: [connect4_2p]\n":         "configs",
		"workload: missing.yaml\n":         "workload",
		"voter: 3\n":                       "unknown field",
		"daemons: {AUTO_SYNC: {a: [1]}}\n": "daemons.AUTO_SYNC",
		"":                                 "empty",
		"# voters: 5\n":                    "empty",
		"voters: 3\n---\nvoters: 5\n":      "line 3: a second YAML document",
		"---\n---\nvoters: 5\n":            "empty",
		"voters: 3\n3: 5\n":                "line 2: unknown field 3",
		"? true\n: 5\n":                    "unknown field",
		"retention: {3: 5}\n":              "unknown field 3",
	} {
		_, err := ParseRing([]byte(text), "ring.yaml", refuseAll)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "ring.yaml") {
			t.Errorf("%q: error %v should name the file and %s", text, err, want)
		}
	}
}

// TestRingFileThatSaysLittle is read all the same.
func TestRingFileThatSaysLittle(t *testing.T) {
	t.Parallel()
	for text, voters := range map[string]int{
		"{}\n": 3, "---\nvoters: 5\n": 5, "voters: 5\n---\n": 5, "voters: 5\n...\n": 5, "%YAML 1.2\n---\nvoters: 5\n": 5, "# mine\n---\nvoters: 5\n": 5, "<<: {voters: 5}\n": 5,
		"copies: {}\nvoters: 5\n# the end\n": 5,
	} {
		if s, err := ParseRing([]byte(text), "ring.yaml", nil); err != nil || s.Voters != voters {
			t.Errorf("%q: %d voters, %v", text, s.Voters, err)
		}
	}
}

// TestEmptyWorkloadFileIsNone: a file that is named and says nothing must not take a ring's workload away.
func TestEmptyWorkloadFileIsNone(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "\n", "\xef\xbb\xbf", "# nothing\n"} {
		file := write(t, text)
		if _, err := ParseRing([]byte("workload: "+file+"\n"), "ring.yaml", nil); err == nil || !strings.Contains(err.Error(), "empty") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// TestLabelsMayBeNumbers: names that users give are not held to be keys of ours.
func TestLabelsMayBeNumbers(t *testing.T) {
	t.Parallel()
	c, _, err := Load("/data", write(t, "labels: {1: a}\n"))
	if err != nil || c.Labels["1"] != "a" {
		t.Errorf("%v, %v", c.Labels, err)
	}
	if _, _, err := Load("/data", write(t, "log: {1: a}\n")); err == nil {
		t.Error("a number as the name of a setting was taken")
	}
}

// A workload whose stages are misspelled is still a workload: being told that ring settings know no version would not help.
func TestValidateAnyKnowsAWorkloadByItsHead(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"version: 1\nname: x\nconfigs: [x_2p]\nstage: {}\n", "name: x\nconfigs: [x_2p]\n"} {
		kind, err := ValidateAny([]byte(text), "w.yaml", nil)
		if kind != "workload" || err == nil {
			t.Errorf("%q is taken for %q: %v", text, kind, err)
		}
	}
}

// A heading with nothing below it is an empty section; the settings that hold one, or held one before that, can be shown.
func TestSectionWithoutAWord(t *testing.T) {
	t.Parallel()
	s, err := ParseRing([]byte("daemons:\n  A:\n"), "ring.yaml", nil)
	if err != nil || string(s.Daemons["A"]) != "{}" {
		t.Errorf("read %s, %v", s.Daemons["A"], err)
	}
	s.Daemons["B"] = json.RawMessage("null")
	if b, err := MarshalRing(s); err != nil || !strings.Contains(string(b), "B: {}") {
		t.Errorf("shown as\n%s%v", b, err)
	}
}

// What is shown of a ring's settings can be applied again, with the line that names the workload.
func TestMarshalRingReadsBack(t *testing.T) {
	t.Parallel()
	text := "timing: wan\nvoters: 5\nretention: {age: 2h, count: 9000}\ncopies: {model: 3}\n" +
		"daemons: {A: {samples: 5000, cooldown: 20s, first: {\"2\": {random: 0.75}}}, B: {enabled: false}}\n"
	want, err := ParseRing([]byte(text), "ring.yaml", nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err := MarshalRing(want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseRing(b, "ring.yaml", nil)
	if err != nil || !cmp.Equal(got, want) {
		t.Errorf("%v; from\n%s\n%s", err, b, cmp.Diff(want, got))
	}
}
