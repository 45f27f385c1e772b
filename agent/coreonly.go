package agent

import (
	"strings"

	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/internal/id"
)

// namedCores is how many core nodes a hint names.
const namedCores = 5

// forCore refuses on an edge node what only core nodes may ask of the ring, in words for people. The coordinator would refuse it
// too, by the names of its own commands.
func (a *Agent) forCore(what string) error {
	if a.node.Class == id.Core {
		return nil
	}
	var names []string
	for _, m := range a.roster.file().Members {
		if m.Class == id.Core && m.Serves() && len(names) < namedCores {
			names = append(names, m.Name)
		}
	}
	return notForEdge(what, names)
}

func notForEdge(what string, cores []string) error {
	hint := "ask on a core node"
	if len(cores) > 0 {
		hint += ": " + strings.Join(cores, ", ")
	}
	return api.Errorf(api.CodeUnauthorised, "an edge node may not %s", what).WithHint(hint)
}
