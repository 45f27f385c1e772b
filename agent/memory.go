package agent

import (
	"os"
	"runtime/debug"
)

// gcPercent is how much garbage may gather, in percent of what is live, before it is collected. An idle agent has about
// 5 MiB live: with Go's default of 100 a busy one would spend a tenth of its CPU time collecting, over and over, a heap
// that fits into 10 MiB. With 300 an idle agent still stays well under 40 MiB.
const gcPercent = 300

// TuneMemory sets the collector for a process that is an agent. GOGC in the environment goes before it; GOMEMLIMIT is
// obeyed as Go does by itself, and none is set by default, since the limit of a machine is its operator's to know.
func TuneMemory() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
}
