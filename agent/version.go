package agent

import "github.com/ringagent/ringagent/leader/state"

// Version is the release; the commit comes from the Go tool's build information.
const Version = "0.1.0"

// Protocol is the version of what agents say to each other.
const Protocol = 1

// StateVersion is the newest version of the replicated state's commands that this binary can apply.
const StateVersion = state.Version
