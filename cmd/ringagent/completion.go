package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

const bashCompletion = `# ringagent completion for bash; load it with: source <(ringagent completion bash)
_ringagent() {
  local cur opts
  cur="${COMP_WORDS[COMP_CWORD]}"
  opts=$("${COMP_WORDS[0]}" "${COMP_WORDS[@]:1:$((COMP_CWORD - 1))}" --generate-bash-completion 2>/dev/null)
  [[ "${cur}" == -* ]] || opts=$(grep -v '^-' <<<"${opts}")
  COMPREPLY=($(compgen -W "${opts}" -- "${cur}"))
}
complete -o bashdefault -o default -F _ringagent ringagent
`

const zshCompletion = `#compdef ringagent
# ringagent completion for zsh; load it with: source <(ringagent completion zsh)
_ringagent() {
  local -a opts
  opts=("${(@f)$(${words[@]:0:$((CURRENT - 1))} --generate-bash-completion 2>/dev/null)}")
  [[ "${words[CURRENT]}" == -* ]] || opts=("${(@)opts:#-*}")
  compadd -- $opts || _files
}
compdef _ringagent ringagent
`

const completionFlag = "--generate-bash-completion"

// completing says whether a shell asks what may come next, and behind which words. It puts the flag last; there, it is never
// anything else, such as the value of the flag before it.
func completing(args []string) (words []string, asked bool) {
	if len(args) < 2 || args[len(args)-1] != completionFlag {
		return nil, false
	}
	return args[1 : len(args)-1], true
}

// suggestions are the commands, and behind them the flags, that may come next. There are none for the value of a flag, where the
// shell offers files.
func suggestions(app *cli.App, words []string) []string {
	commands, flags := app.Commands, []cli.Flag(nil)
	for i := 0; i < len(words); i++ {
		w := words[i]
		switch {
		case w == "--":
			return nil
		case len(w) > 1 && w[0] == '-':
			name, _, joined := strings.Cut(strings.TrimLeft(w, "-"), "=")
			f := lookup(flags, name)
			if f == nil {
				f = lookup(app.Flags, name)
			}
			if f != nil && takesValue(f) && !joined {
				if i++; i == len(words) {
					return nil
				}
			}
		default:
			if c := find(commands, w); c != nil {
				commands, flags = c.Subcommands, c.Flags
			}
		}
	}
	var out []string
	for _, c := range visible(commands) {
		out = append(out, c.Name)
	}
	for _, f := range slices.Concat(flags, app.Flags) {
		if v, ok := f.(cli.VisibleFlag); !ok || v.IsVisible() {
			out = append(out, "--"+f.Names()[0])
		}
	}
	return out
}

func completionCommand() *cli.Command {
	return &cli.Command{
		Name: "completion", Usage: "print a completion script", ArgsUsage: "bash|zsh|fish",
		Action: func(c *cli.Context) error {
			shell, err := oneArg(c, "shell: bash, zsh or fish")
			if err != nil {
				return err
			}
			switch shell {
			case "bash":
				_, err = fmt.Fprint(c.App.Writer, bashCompletion)
			case "zsh":
				_, err = fmt.Fprint(c.App.Writer, zshCompletion)
			case "fish":
				var s string
				if s, err = c.App.ToFishCompletion(); err == nil {
					_, err = fmt.Fprint(c.App.Writer, s)
				}
			default:
				return usage("completion %q: want bash, zsh or fish", shell)
			}
			return err
		},
	}
}
