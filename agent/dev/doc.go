// Package dev runs a ring of real agent processes on one machine, so that the whole loop can be watched, broken and
// understood within minutes.
//
// It owns the layout of its folder (D/<node>/ as each node's data dir, D/nodes.jsonl, D/dev.json), starting and stopping
// the processes, and the summary. It restarts nothing by itself: a killed agent stays down until somebody starts it. It
// knows the agents only through their command line and their sockets, as an operator would. One Ring is used by one
// goroutine.
package dev
