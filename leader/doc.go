// Package leader decides what must be decided once: Raft among the voters, the replicated state's way to everybody who
// reads it, who votes, who runs which singleton and for how long, and who has claimed which work.
//
// It owns the raft/ folder of a node, the coordinator's term and everything that lives only as long as one: renewals of
// leases and claims, pending assignments, the voters' plan. What commands mean is package state's, where singletons go is
// package place's, which work is next is package work's. It must not know the mesh, the event log or the daemons: they
// come in through the small interfaces of this package (Streams, Caller, ReplicaGate, Reach …), which package agent fills.
//
// In the code a coordinator's time in office is a term. Whoever runs only while this node coordinates takes the term's
// context, which ends at the latest when Raft says that the office is lost; what such code still sends is made harmless
// by the state machine, which refuses old epochs, and by leases, which are renewed only after a quorum was heard.
//
// The library decides elections, but not alone who may stand: see ballot. What a node reports of the voters is what was
// committed, not what Raft tries at this moment, so that a tolerance that is shown is one that holds: a ring that goes from
// one voter to three passes, within milliseconds, through two, of which neither can be spared.
//
// Concurrency: all methods of Node and Holder may be called by any goroutine. Open starts nothing that outlives Close; Run
// works until its context ends.
package leader
