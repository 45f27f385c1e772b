package main

import (
	"strings"

	"github.com/urfave/cli/v2"
)

// normalise puts flags before arguments, because the flag parser underneath stops at the first argument and would drop
// what follows in silence, and refuses what is unknown with its nearest match.
func normalise(app *cli.App, args []string) ([]string, error) {
	out := []string{args[0]}
	commands, flags := app.Commands, app.Flags
	level := "ringagent"
	var own, rest []string // flags of the level that is being read, and arguments
	global := app.Flags
	var early []string // global flags found anywhere
	words := args[1:]
	leaf := false
	for i := 0; i < len(words); i++ {
		w := words[i]
		if w == "--" {
			rest = append(rest, words[i+1:]...)
			break
		}
		if len(w) < 2 || w[0] != '-' {
			if !leaf {
				c := find(commands, w)
				if c == nil && (len(commands) == 0 || len(rest) > 0) {
					leaf = true
					rest = append(rest, w)
					continue
				}
				if c == nil && completing(words) {
					rest = append(rest, w)
					leaf = true
					continue
				}
				if c == nil {
					return nil, unknownCommand(level, w, commands)
				}
				out = append(append(out, own...), c.Name)
				own = nil
				level += " " + c.Name
				commands, flags = c.Subcommands, c.Flags
				leaf = len(commands) == 0
				continue
			}
			rest = append(rest, w)
			continue
		}
		name, _, joined := strings.Cut(strings.TrimLeft(w, "-"), "=")
		if name == "help" || name == "h" || name == "generate-bash-completion" {
			own = append(own, w)
			continue
		}
		f, isGlobal := lookup(flags, name), false
		if f == nil {
			f, isGlobal = lookup(global, name), true
		}
		if f == nil {
			return nil, unknownFlag(level, w, append(append([]cli.Flag{}, flags...), global...))
		}
		found := []string{w}
		if !joined && takesValue(f) {
			if i+1 >= len(words) {
				return nil, usage("%s: flag %s needs a value", level, w)
			}
			i++
			found = append(found, words[i])
		}
		if isGlobal {
			early = append(early, found...)
		} else {
			own = append(own, found...)
		}
	}
	out = append(out, own...)
	if len(rest) > 0 && strings.HasPrefix(rest[0], "-") {
		out = append(out, "--")
	}
	out = append(out, rest...)
	return append(append(out[:1:1], early...), out[1:]...), nil
}

func completing(words []string) bool {
	return len(words) > 0 && words[len(words)-1] == "--generate-bash-completion"
}

func find(commands []*cli.Command, name string) *cli.Command {
	for _, c := range commands {
		if c.HasName(name) {
			return c
		}
	}
	if name == "help" && len(commands) > 0 {
		return &cli.Command{Name: "help"}
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
	if s := cli.SuggestCommand(visible(commands), word); s != "" {
		hint = "; did you mean " + strings.TrimSuffix(strings.TrimPrefix(s, "Did you mean "), "?") + "?"
	}
	return usage("unknown command %q for %s%s", word, level, hint)
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
