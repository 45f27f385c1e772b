package workload

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/ringagent/ringagent/internal/id"
)

// Values gives placeholders their values, by name without braces. A name that is absent or empty has no value.
// {board} and {players} follow from {config} and are not to be given.
type Values map[string]string

// ErrValue is wrapped by every error of Render.
var ErrValue = errors.New("workload cannot be rendered")

// placeholder is one entry of the closed list.
type placeholder struct {
	name   string
	always bool
	check  func(string) error
}

var (
	bareWord      = regexp.MustCompile(`\{([A-Za-z_][A-Za-z0-9_]*)\}`)
	opponentsList = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.:@-]*(,[A-Za-z0-9_][A-Za-z0-9_.:@-]*)*$`)
)

// The closed list. Values come from the network, so each is checked for what it is: a "number" that begins with a dash
// would otherwise turn into a flag of somebody's program.
func placeholderList() []placeholder {
	return []placeholder{
		{"self", true, absolute}, {"out", true, absolute}, {"config", true, config}, {"board", true, nil}, {"players", true, nil},
		{"games", false, countOrPath}, {"seed", false, number}, {"model", false, absolute}, {"dataset", false, absolute},
		{"champion", false, absolute}, {"opponents", false, opponents}, {"simulations", false, number}, {"epochs", false, number},
	}
}

func known(name string) (placeholder, bool) {
	list := placeholderList()
	i := slices.IndexFunc(list, func(p placeholder) bool { return p.name == name })
	if i < 0 {
		return placeholder{}, false
	}
	return list[i], true
}

// Placeholders is the closed list of names.
func Placeholders() []string {
	var names []string
	for _, p := range placeholderList() {
		names = append(names, p.name)
	}
	return names
}

func absolute(s string) error {
	if !filepath.IsAbs(s) || strings.ContainsRune(s, 0) {
		return errors.New("want an absolute path")
	}
	return nil
}

func config(s string) error {
	_, err := id.ParseConfig(s)
	return err
}

func number(s string) error {
	if _, err := strconv.ParseUint(s, 10, 63); err != nil {
		return errors.New("want a whole number")
	}
	return nil
}

func countOrPath(s string) error {
	if number(s) == nil || absolute(s) == nil {
		return nil
	}
	return errors.New("want a whole number or an absolute path")
}

func opponents(s string) error {
	if !opponentsList.MatchString(s) {
		return errors.New("want names separated by commas")
	}
	return nil
}

// placeholdersIn lists the names in braces in s, known or not.
func placeholdersIn(s string) []string {
	var names []string
	for _, m := range bareWord.FindAllStringSubmatch(s, -1) {
		names = append(names, m[1])
	}
	return names
}

// Uses says whether a run of the stage is given the placeholder's value, as an argument or in its environment.
func (s Stage) Uses(name string) bool {
	in := func(text string) bool { return slices.Contains(placeholdersIn(text), name) }
	return slices.ContainsFunc(s.Argv, in) || slices.ContainsFunc(slices.Collect(maps.Values(s.Env)), in)
}

// Render puts values into the stage's argv and environment. No shell is involved anywhere: each element of argv reaches
// the program as it stands. An element with a placeholder that has no value is dropped, together with the element before
// it when that is a flag; such an environment variable is dropped too. env is sorted, as "NAME=value".
//
// Errors wrap ErrValue and name the placeholder: a value of the wrong form, an unknown name, or one that always exists
// ({self}, {out}, {config}) and was not given.
func Render(stage Stage, values Values) (argv, env []string, err error) {
	full, err := complete(values)
	if err != nil {
		return nil, nil, err
	}
	for i, arg := range stage.Argv {
		text, ok, err := expand(arg, full)
		switch {
		case err != nil:
			return nil, nil, err
		case ok:
			argv = append(argv, text)
		case i == 0:
			return nil, nil, fmt.Errorf("%w: the program %q has no value", ErrValue, arg)
		case len(argv) > 1 && isFlag(stage.Argv[i-1]) && argv[len(argv)-1] == stage.Argv[i-1]:
			argv = argv[:len(argv)-1]
		}
	}
	for _, name := range sortedKeys(stage.Env) {
		text, ok, err := expand(stage.Env[name], full)
		if err != nil {
			return nil, nil, err
		}
		if ok {
			env = append(env, name+"="+text)
		}
	}
	return argv, env, nil
}

// complete checks the values and adds what follows from them.
func complete(values Values) (Values, error) {
	full := make(Values, len(values)+2)
	for _, name := range sortedKeys(values) {
		p, ok := known(name)
		if !ok {
			return nil, fmt.Errorf("%w: there is no placeholder {%s}", ErrValue, name)
		}
		if values[name] == "" || p.check == nil {
			continue
		}
		if err := p.check(values[name]); err != nil {
			return nil, fmt.Errorf("%w: {%s} is %q: %w", ErrValue, name, values[name], err)
		}
		full[name] = values[name]
	}
	if c := id.Config(full["config"]); c != "" {
		full["board"], full["players"] = c.Board(), strconv.Itoa(c.Players())
	}
	for _, p := range placeholderList() {
		if p.always && full[p.name] == "" {
			return nil, fmt.Errorf("%w: {%s} has no value", ErrValue, p.name)
		}
	}
	return full, nil
}

// expand replaces the placeholders of s; ok is false when one of them has no value. A value is never expanded again.
func expand(s string, values Values) (text string, ok bool, err error) {
	ok = true
	text = bareWord.ReplaceAllStringFunc(s, func(m string) string {
		name := m[1 : len(m)-1]
		if _, is := known(name); !is {
			err = fmt.Errorf("%w: unknown placeholder {%s}", ErrValue, name)
		}
		v := values[name]
		ok = ok && v != ""
		return v
	})
	return text, ok, err
}

// isFlag says whether arg is a flag that takes its value from the next argument: one or two dashes and a name, no "=".
func isFlag(arg string) bool {
	return len(arg) > 1 && arg[0] == '-' && arg != "--" && !strings.ContainsAny(arg, "= {")
}
