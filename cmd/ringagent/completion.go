package main

import (
	"fmt"

	"github.com/urfave/cli/v2"
)

const bashCompletion = `# ringagent completion for bash; load it with: source <(ringagent completion bash)
_ringagent() {
  local cur opts
  cur="${COMP_WORDS[COMP_CWORD]}"
  opts=$("${COMP_WORDS[@]:0:$COMP_CWORD}" --generate-bash-completion 2>/dev/null)
  COMPREPLY=($(compgen -W "${opts}" -- "${cur}"))
}
complete -o bashdefault -o default -F _ringagent ringagent
`

const zshCompletion = `#compdef ringagent
# ringagent completion for zsh; load it with: source <(ringagent completion zsh)
_ringagent() {
  local -a opts
  opts=("${(@f)$(${words[@]:0:#words[@]-1} --generate-bash-completion 2>/dev/null)}")
  compadd -- $opts
}
compdef _ringagent ringagent
`

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
