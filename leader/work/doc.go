// Package work chooses what a node that asks for work gets next, and which claims and items are over. It is pure: it reads
// a view of the replicated state and the caller's clock readings, and changes nothing; the coordinator proposes what it
// answers, and the state machine checks it again.
//
// It must not know Raft, the network or a clock. The coordinator calls it; everything is safe for concurrent use because
// views are immutable.
package work
