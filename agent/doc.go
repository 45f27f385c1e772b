// Package agent puts one node together: it opens the parts in the order in which they stand on each other, joins them by
// adapters, runs them, and stops them in the reverse order.
//
// It owns the data dir's layout, the order of start and stop, and the adapters between mesh, leader, eventlog, worker,
// supervisor and daemons, which know each other only through interfaces that are met here. It holds no policy: what is to
// be decided is decided by daemons, the coordinator or the state machine. cmd/ringagent and agent/dev call it.
//
// Concurrency: New starts nothing; Run starts everything and returns when all of it has ended. Handlers of the API and of
// other nodes' calls run concurrently and share only what is safe for it.
package agent
