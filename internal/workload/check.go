package workload

import (
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"

	"github.com/ringagent/ringagent/internal/id"
)

var (
	nameSyntax    = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$`)
	envSyntax     = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	counterSyntax = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)
)

// checker turns the raw file into a Workload and gathers every fault on the way.
type checker struct {
	file     string
	tree     *ast.File
	stored   bool // taken by the ring before: what an older version took is not refused
	problems []error
}

func (c *checker) report(field, fix, format string, args ...any) {
	line, column := position(c.tree, field)
	c.problems = append(c.problems, &Problem{
		File: c.file, Line: line, Column: column, Field: field, Text: fmt.Sprintf(format, args...), Fix: fix,
	})
}

func (c *checker) workload(raw rawWorkload) *Workload {
	w := &Workload{Version: raw.Version, Name: raw.Name, Stages: make(map[string]Stage, len(raw.Stages))}
	if raw.Version != Version {
		c.report("version", fmt.Sprintf("write version: %d", Version), "is %d", raw.Version)
	}
	if !nameSyntax.MatchString(raw.Name) {
		c.report("name", "1 to 63 letters, digits, dashes or underscores", "%q is not a workload name", raw.Name)
	}
	if len(raw.Configs) == 0 {
		c.report("configs", "such as [connect4_2p]", "is missing or empty")
	}
	for i, s := range raw.Configs {
		field := fmt.Sprintf("configs[%d]", i)
		cfg, err := id.ParseConfig(s)
		switch {
		case err != nil:
			c.report(field, "", "%v", err)
		case w.HasConfig(cfg):
			c.report(field, "", "%q is there twice", s)
		}
		w.Configs = append(w.Configs, cfg)
	}
	if len(raw.Stages) == 0 {
		c.report("stages", "one or more of "+strings.Join(StageNames(), ", "), "is missing or empty")
	}
	for _, name := range sortedKeys(raw.Stages) {
		field := "stages." + name
		if !slices.Contains(StageNames(), name) {
			fix := suggest(name, StageNames())
			if fix == "" {
				fix = "the stages are " + strings.Join(StageNames(), ", ")
			}
			c.report(field, fix, "unknown stage")
			continue
		}
		w.Stages[name] = c.stage(field, raw.Stages[name])
		if c.stored {
			count(name, w.Stages[name].Outputs)
		} else {
			c.product(field+".outputs", name, raw.Stages[name].Outputs)
		}
	}
	return w
}

func (c *checker) stage(field string, raw rawStage) Stage {
	s := Stage{Argv: raw.Argv, Env: raw.Env, Dir: raw.Dir}
	c.argv(field+".argv", raw.Argv)
	for _, name := range sortedKeys(raw.Env) {
		at := field + ".env." + name
		switch {
		case !envSyntax.MatchString(name):
			c.report(at, "letters, digits and underscores", "%q is not a variable's name", name)
		case strings.HasPrefix(name, "RINGAGENT_"):
			c.report(at, "choose another name", "names that begin with RINGAGENT_ belong to the agent")
		}
		c.placeholders(at, raw.Env[name])
	}
	if raw.Dir != "" && !filepath.IsAbs(raw.Dir) {
		c.report(field+".dir", "write an absolute path, or leave it out for the output directory", "%q is relative", raw.Dir)
	}
	s.Needs = c.slots(field+".needs", raw.Needs)
	s.Timeout = c.duration(field+".timeout", raw.Timeout, 0, MaxTimeout)
	if raw.NoProgress != "" {
		s.NoProgress = c.duration(field+".no_progress", raw.NoProgress, 0, MaxTimeout)
		if raw.Progress == "" {
			c.report(field+".no_progress", "add progress: a regular expression with a named group",
				"cannot be watched without a progress pattern")
		}
	}
	s.Grace = DefaultGrace
	if raw.Grace != "" {
		s.Grace = c.duration(field+".grace", raw.Grace, 0, maxGrace)
	}
	if raw.Progress != "" {
		s.Progress = c.progress(field+".progress", raw.Progress)
	}
	if len(raw.Outputs) == 0 {
		c.report(field+".outputs", "name at least one file: a run that leaves nothing cannot be judged", "is missing or empty")
	}
	if len(raw.Outputs) > maxOutputs {
		c.report(field+".outputs", "", "has more than %d entries", maxOutputs)
	}
	seen := make(map[string]bool, len(raw.Outputs))
	required := false
	for i, o := range raw.Outputs {
		at := fmt.Sprintf("%s.outputs[%d]", field, i)
		s.Outputs = append(s.Outputs, c.output(at, o))
		if seen[filepath.Clean(o.Path)] {
			c.report(at+".path", "", "%q is there twice", o.Path)
		}
		seen[filepath.Clean(o.Path)] = true
		required = required || !o.Optional
	}
	if len(raw.Outputs) > 0 && !required {
		c.report(field+".outputs", "at least one must not be optional", "are all optional")
	}
	return s
}

// product demands that a run which passes the checks here is a success for the ring too: without what its stage is for, its
// answer would be refused each time.
func (c *checker) product(field, stage string, outputs []rawOutput) {
	kind, counter := product(stage)
	strange := func(o rawOutput) bool { return !slices.Contains(Kinds(), o.Kind) }
	if slices.ContainsFunc(outputs, strange) || !slices.ContainsFunc(outputs, func(o rawOutput) bool { return !o.Optional }) {
		return // said already
	}
	found := false
	for i, o := range outputs {
		if o.Kind != kind && o.Kind != KindGames && o.Kind != KindFile {
			c.report(fmt.Sprintf("%s[%d].kind", field, i), fmt.Sprintf("make it kind: %s, %s or %s", kind, KindGames, KindFile), "%s is not what %s is for", o.Kind, stage)
		}
		if o.Kind != kind || o.Optional {
			continue
		}
		found = true
		if _, counted := o.Min[counter]; counter != "" && len(o.Min) > 0 && !counted {
			c.report(fmt.Sprintf("%s[%d].min", field, i), fmt.Sprintf("add %s: 1", counter), "does not ask for %s: %s without any is no success", counter, stage)
		}
	}
	if !found {
		c.report(field, fmt.Sprintf("give one of them kind: %s, not optional", kind), "have none of kind %s, which is what %s is for", kind, stage)
	}
}

// count asks for the counter that a success must show where product would demand that the file asks for it.
func count(stage string, outputs []Output) {
	kind, counter := product(stage)
	for _, o := range outputs {
		if o.Kind == kind && !o.Optional && counter != "" && o.Min[counter] == 0 {
			o.Min[counter] = 1
		}
	}
}

func (c *checker) argv(field string, argv []string) {
	if len(argv) == 0 || argv[0] == "" {
		c.report(field, argvFix, "names no program")
		return
	}
	if len(argv) > maxArgs {
		c.report(field, "", "has more than %d arguments", maxArgs)
		return
	}
	for i, arg := range argv {
		c.placeholders(fmt.Sprintf("%s[%d]", field, i), arg)
	}
	for _, name := range placeholdersIn(argv[0]) {
		if p, ok := known(name); ok && !p.always {
			c.report(field+"[0]", "the program's own path may use {self} and {config} only",
				"{%s} does not always have a value", name)
		}
	}
}

func (c *checker) placeholders(field, text string) {
	for _, name := range placeholdersIn(text) {
		if _, ok := known(name); ok {
			continue
		}
		fix := suggest(name, Placeholders())
		if fix == "" {
			fix = "there are {" + strings.Join(Placeholders(), "}, {") + "}"
		}
		c.report(field, fix, "unknown placeholder {%s}", name)
	}
}

func (c *checker) slots(field string, raw rawSlots) Slots {
	s := Slots{CPU: 1, GPU: raw.GPU, VRAMMiB: raw.VRAMMiB, RAMMiB: raw.RAMMiB, DiskMiB: raw.DiskMiB}
	if raw.CPU != nil {
		s.CPU = *raw.CPU
	}
	check := func(name string, v int64) {
		if v < 0 || v > maxSlotNumber {
			c.report(field+"."+name, "", "is %d, want 0 to %d", v, maxSlotNumber)
		}
	}
	check("cpu", s.CPU)
	check("gpu", s.GPU)
	check("vram_mib", s.VRAMMiB)
	check("ram_mib", s.RAMMiB)
	check("disk_mib", s.DiskMiB)
	if s.CPU == 0 && s.GPU == 0 {
		c.report(field, "ask for one cpu at least", "takes neither a cpu nor a gpu")
	}
	return s
}

// duration parses text and demands least < d ≤ most.
func (c *checker) duration(field, text string, least, most time.Duration) time.Duration {
	if text == "" {
		c.report(field, "such as 10m", "is missing")
		return 0
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		c.report(field, "write a number with a unit, such as 90s or 10m", "%q is not a duration", text)
		return 0
	}
	if d <= least || d > most {
		c.report(field, "", "is %s, want more than %s and at most %s", d, least, most)
	}
	return d
}

func (c *checker) progress(field, text string) *regexp.Regexp {
	re, err := regexp.Compile(text)
	if err != nil {
		c.report(field, "", "does not compile: %v", err)
		return nil
	}
	if ProgressGroup(re) == 0 {
		c.report(field, `such as games=(?P<games>\d+)`, "has no named group")
	}
	return re
}

// ProgressGroup is the index of the first named group of re, the one that holds the progress number; 0 means there is
// none.
func ProgressGroup(re *regexp.Regexp) int {
	return max(0, slices.IndexFunc(re.SubexpNames(), func(n string) bool { return n != "" }))
}

func (c *checker) output(field string, raw rawOutput) Output {
	o := Output{Path: raw.Path, Kind: raw.Kind, Min: raw.Min, Optional: raw.Optional}
	if raw.Path == "" || !filepath.IsLocal(raw.Path) || filepath.Clean(raw.Path) == "." {
		c.report(field+".path", "name a file relative to {out}", "%q does not stay inside the output directory", raw.Path)
	}
	if len(placeholdersIn(raw.Path)) > 0 {
		c.report(field+".path", "give the file a fixed name", "placeholders are not allowed here")
	}
	if !slices.Contains(Kinds(), raw.Kind) {
		fix := suggest(raw.Kind, Kinds())
		if fix == "" {
			fix = "the kinds are " + strings.Join(Kinds(), ", ")
		}
		c.report(field+".kind", fix, "unknown kind %q", raw.Kind)
		return o
	}
	for _, name := range sortedKeys(raw.Min) {
		switch {
		case !counterSyntax.MatchString(name):
			c.report(field+".min", "", "%q is not a counter's name", name)
		case raw.Min[name] < 1:
			c.report(field+".min."+name, "", "is %d, want 1 or more: nothing at all is never a success", raw.Min[name])
		}
	}
	if len(raw.Min) == 0 {
		o.Min = DefaultMin(raw.Kind)
	}
	return o
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
