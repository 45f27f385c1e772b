package agent

import (
	"runtime/debug"
	"strings"

	"github.com/ringagent/ringagent/leader/state"
)

// Version is the release; the commit comes from the Go tool's build information.
const Version = "0.1.0"

// Protocol is the version of what agents say to each other.
const Protocol = 1

// StateVersion is the newest version of the replicated state's commands that this binary can apply.
const StateVersion = state.Version

// Commit is the revision that the Go tool wrote into the binary, "unknown" where it did not.
func Commit() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	rev, dirty := "unknown", ""
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			rev = s.Value
		case "vcs.modified":
			if s.Value == "true" {
				dirty = "-dirty"
			}
		}
	}
	return rev + dirty
}

// Build is the version by which two builds of one release can be told apart.
func Build() string { return buildOf(Commit()) }

func buildOf(commit string) string {
	rev, dirty := strings.CutSuffix(commit, "-dirty")
	if rev == "unknown" {
		return Version
	}
	out := Version + "+" + rev[:min(len(rev), 12)]
	if dirty {
		out += "-dirty"
	}
	return out
}
