// Package eventlog is a node's share of the ring's one event log: publishing into it, keeping a copy of it, reading it and
// being told of it.
//
// It owns two files of the data dir. outbox.db holds what this node has published until it has a place in the log (Outbox),
// events.db is this node's replica (Replica); both are bbolt files whose records, many to a value (blocks.go), carry
// checksums, since bbolt's pages carry none. On the replica stand tails, and durable named subscriptions (Dispatcher) with their
// cursors and dead letters, which live in the agent's state.db or, for singletons, wherever the given stores put them.
//
// An outbox numbers its events under an origin, a random name, and an event's id is both. It begins a new origin, under which what
// has no place yet is numbered anew, when its file is found damaged, and when the log holds other events under its numbers: the
// directory was copied or set back, or a kill came between the sending of events and their fsync.
//
// It must not know Raft, gossip, peers or daemons: it reaches them through the small interfaces Sequencer, Peers, Heads,
// CursorStore and Letters, which the agent implements. Order is decided by the sequencer alone; this package never invents
// a seq.
//
// Concurrency: all exported methods are safe for concurrent use. Each file has exactly one writing goroutine, the one that
// runs Outbox.Run or Replica.Run; records get their numbers in the goroutines of those who publish them. Every subscription has a
// goroutine of its own. All of them end with the context that they were given.
package eventlog
