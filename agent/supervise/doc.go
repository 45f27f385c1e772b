// Package supervise starts, watches and stops the daemons of one node. It is the one owner of restarts.
//
// It owns every daemon's state, the reasons for it, the history of its failures and what an operator has switched off. It
// must not know what a daemon does, nor Raft, gossip or the log: it is handed Specs, a maker of Envs, a stream of leases
// for the singletons that this node holds, and one question it may ask about the rest of the ring (RingWide).
//
// Concurrency: one goroutine a daemon turns its states; Run owns them all. Methods of Supervisor may be called from any
// goroutine and do not block on daemons, except Drain. A singleton's context ends with its lease; a Run that does not end
// with its context is given a grace, then abandoned and reported: what it still tries is refused by the state machine,
// because its effects are fenced.
package supervise
