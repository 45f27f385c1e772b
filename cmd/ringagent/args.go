package main

import (
	"strings"

	"github.com/urfave/cli/v2"
)

// normalise puts flags before arguments, because the flag parser underneath stops at the first argument and would drop
// what follows in silence, and refuses what is unknown with its nearest match, and what lacks a flag that must be there.
func normalise(app *cli.App, args []string, wantJSON bool) ([]string, error) {
	r := reading{global: app.Flags, commands: app.Commands, flags: app.Flags, given: map[string]string{}}
	r.level, r.out = []string{"ringagent"}, []string{args[0]}
	words := args[1:]
	for i := 0; i < len(words); i++ {
		w := words[i]
		if w == "--" {
			r.rest = append(r.rest, words[i+1:]...)
			break
		}
		if len(r.level) == 1 && (w == "--version" || w == "-v") {
			w = "version" // where people look for it first
		}
		if len(w) < 2 || w[0] != '-' {
			if err := r.word(w); err != nil {
				return nil, err
			}
			continue
		}
		used, err := r.flag(w, words[i+1:])
		if err != nil {
			return nil, err
		}
		i += used
	}
	return r.line(wantJSON)
}

// reading is a command line that is being read, word by word.
type reading struct {
	global []cli.Flag

	level    []string       // the program and the commands so far
	commands []*cli.Command // what may come next
	flags    []cli.Flag
	acts     bool // the command does something without a further one
	leaf     bool // no further one can come

	out   []string // what is read, up to this level
	own   []string // flags of this level
	given map[string]string
	rest  []string // arguments
	early []string // global flags found anywhere
	help  bool
}

func (r *reading) word(w string) error {
	if r.leaf {
		r.rest = append(r.rest, w)
		return nil
	}
	if w == "help" || w == "h" { // help X is X --help
		r.help = true
		return nil
	}
	c := find(r.commands, w)
	if c == nil {
		return unknownCommand(r.at(), w, r.commands)
	}
	r.out = append(append(r.out, r.own...), c.Name)
	r.own, r.given = nil, map[string]string{}
	r.level = append(r.level, c.Name)
	r.commands, r.flags, r.acts = c.Subcommands, c.Flags, c.Action != nil
	r.leaf = len(r.commands) == 0
	return nil
}

// flag takes a flag and says how many of the words after it belong to it.
func (r *reading) flag(w string, after []string) (used int, err error) {
	name, value, joined := strings.Cut(strings.TrimLeft(w, "-"), "=")
	switch name {
	case "help", "h":
		r.help = true
		return 0, nil
	}
	f, isGlobal := lookup(r.flags, name), false
	if f == nil {
		f, isGlobal = lookup(r.global, name), true
	}
	if f == nil {
		return 0, unknownFlag(r.at(), w, append(append([]cli.Flag{}, r.flags...), r.global...))
	}
	found := []string{w}
	if !joined && takesValue(f) {
		if len(after) == 0 {
			return 0, usage("%s: flag %s needs a value", r.verb(), w)
		}
		used, value = 1, after[0]
		found = append(found, value)
	}
	if isGlobal {
		r.early = append(r.early, found...)
		return used, nil
	}
	r.own = append(r.own, found...)
	r.given[f.Names()[0]] = value
	return used, nil
}

// line is the whole command line in the order that the flag parser needs.
func (r *reading) line(wantJSON bool) ([]string, error) {
	if r.help {
		return append(r.out, "--help"), nil
	}
	if err := r.complete(wantJSON); err != nil {
		return nil, err
	}
	out := append(append([]string{r.out[0]}, r.early...), r.out[1:]...)
	out = append(out, r.own...)
	if len(r.rest) > 0 && strings.HasPrefix(r.rest[0], "-") {
		out = append(out, "--")
	}
	return append(out, r.rest...), nil
}

// complete refuses a line that lacks something for which the library would print a page of help.
func (r *reading) complete(wantJSON bool) error {
	if !r.leaf && !r.acts && wantJSON {
		var names []string
		for _, c := range visible(r.commands) {
			names = append(names, c.Name)
		}
		return usage("%s needs one of %s", r.verb(), strings.Join(names, ", "))
	}
	for _, f := range r.flags {
		if must, ok := f.(cli.RequiredFlag); ok && must.IsRequired() && r.given[f.Names()[0]] == "" {
			return usage("%s needs --%s %s", r.verb(), f.Names()[0], placeholder(f))
		}
	}
	return nil
}

func (r *reading) at() string { return strings.Join(r.level, " ") }

// verb is the command without the program's name, which stands before every error anyway.
func (r *reading) verb() string {
	if len(r.level) == 1 {
		return "the command line"
	}
	return strings.Join(r.level[1:], " ")
}

// placeholder is what a flag's usage calls its value.
func placeholder(f cli.Flag) string {
	d, ok := f.(cli.DocGenerationFlag)
	if !ok {
		return "VALUE"
	}
	if parts := strings.SplitN(d.GetUsage(), "`", 3); len(parts) == 3 {
		return parts[1]
	}
	return "VALUE"
}

func find(commands []*cli.Command, name string) *cli.Command {
	for _, c := range commands {
		if c.HasName(name) {
			return c
		}
	}
	return nil
}

func lookup(flags []cli.Flag, name string) cli.Flag {
	for _, f := range flags {
		for _, n := range f.Names() {
			if n == name {
				return f
			}
		}
	}
	return nil
}

func takesValue(f cli.Flag) bool {
	d, ok := f.(cli.DocGenerationFlag)
	return !ok || d.TakesValue()
}

func unknownCommand(level, word string, commands []*cli.Command) error {
	hint := ""
	if s := nearest(visible(commands), word); s != "" {
		hint = "; did you mean " + s + "?"
	}
	return usage("unknown command %q for %s%s", word, level, hint)
}

// nearest is the command that word most resembles. The library's own search for flags does it: the one for commands offers its
// shorthand "h" to whatever has an h in it.
func nearest(commands []*cli.Command, word string) string {
	var names []cli.Flag
	for _, c := range commands {
		names = append(names, &cli.BoolFlag{Name: c.Name})
	}
	return strings.TrimLeft(cli.SuggestFlag(names, word, true), "-")
}

func unknownFlag(level, word string, flags []cli.Flag) error {
	hint := ""
	if s := cli.SuggestFlag(flags, strings.TrimLeft(word, "-"), true); s != "" {
		hint = "; did you mean " + s + "?"
	}
	name, _, _ := strings.Cut(word, "=")
	return usage("unknown flag %s for %s%s", name, level, hint)
}

func visible(commands []*cli.Command) []*cli.Command {
	var out []*cli.Command
	for _, c := range commands {
		if !c.Hidden {
			out = append(out, c)
		}
	}
	return out
}
