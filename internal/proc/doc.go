// Package proc runs external commands that must not be believed: it starts each one under a shim, a tiny process of our
// own binary, which outlives the agent, holds the command to its deadlines, leaves none of its processes behind and
// writes down how it ended. The package also checks what a command claims to have produced.
//
// # The shim
//
// The agent calls Runner.Start; that executes Runner.Shim with the job's directory as last argument, and the shim calls
// ShimMain. From then on the two share nothing but files in the job's directory:
//
//	spec.json      what to run; written before the shim starts and never changed
//	lock           an flock that the runner takes and the shim inherits: held means that a shim lives or is being born
//	shim.json      pid, start time and boot id of the shim and of the command
//	stop.json      a wish of the owner to end the job; the shim looks for it ten times a second
//	progress.json  the largest progress number seen, and when
//	log, log.1     the end of the command's output, at most 8 MiB together
//	status.json    how it ended; written atomically, last
//	out/           where the command leaves its outputs; its TMPDIR is tmp/, which is removed at the end
//
// So an agent that was killed or replaced finds its jobs again (Runner.Adopt) instead of killing or doubling them. A
// process counts as the one written down only if pid, start time and the kernel's boot id all agree; a pid that was used
// again is neither adopted nor signalled.
//
// On Linux the shim is a subreaper: a child that forks twice and leaves its session is still found and killed, and when
// the shim itself dies the kernel kills the command, and whatever else carries the job's mark in its environment is
// killed when the job is next looked at. macOS has neither subreaper nor parent-death signal: there, processes that leave
// both the process group and the line of parents escape, and a command outlives its shim until the job is looked at.
//
// # Rules
//
// The package owns job directories and processes. It must not know queues, claims, artifacts or what a game is: the owner
// keeps its own record inside the Job, and hands in validators by kind. The agent's worker calls it. A Runner and its
// Handles are safe for concurrent use; one Runner at a time may work in a directory.
package proc
