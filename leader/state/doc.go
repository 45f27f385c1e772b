// Package state is the replicated state of a ring as a pure function of its Raft log: the same entries give the same
// state, the same answers and the same event records on every voter, whenever and wherever they are applied.
//
// It owns what a command means: fences, compare-and-set, claims, epochs, the place of every event. It must not know Raft,
// the network, a file, a logger or a clock; proposers stamp Command.At, and nothing else is time here. It imports the plain
// records of internal/ring, the typed ids and the event leaf.
//
// Package leader feeds a Machine with committed entries and hands the records that each entry placed to the replica of the
// event log. Everybody else reads a State: Machine.View returns the newest one without a lock.
//
// Concurrency: Apply and Restore are called by one goroutine at a time (Raft's). A State is immutable and may be read,
// kept, digested and written as a snapshot by any number of goroutines; its values share maps and slices with it and must
// not be changed in place.
//
// # Which events the machine makes itself
//
// Facts about an effect are placed in the effect's own entry. WORK_*, SELFPLAY_COMPLETE, NPZ_EXPORT_COMPLETE,
// TRAINING_STARTED, TRAINING_COMPLETED, TRAINING_FAILED, P2P_NODE_DEAD, HOST_ONLINE, HOST_OFFLINE, NODE_REVOKED and
// LEADER_ELECTED are made here and refused from anybody else. EVALUATION_COMPLETED, ELO_UPDATED and MODEL_PROMOTED are made
// here too, unless the proposer brings its own in Command.Events, which then must agree with the effect.
//
// # How an evaluation states its figures
//
// ring.WorkResult of an item of type "evaluate" has Counters "games" (all games), "vs:<opponent>:games",
// "vs:<opponent>:wins", "vs:<opponent>:draws" and "vs:<opponent>:losses", and Values "elo". The candidate is the input of
// role "candidate". Without "elo" there is no ELO_UPDATED and EVALUATION_COMPLETED says null.
package state
