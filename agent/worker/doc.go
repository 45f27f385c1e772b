// Package worker turns the ring's work queue into runs on this node.
//
// It owns the node's slot ledger, the loop that asks for work, the heartbeats of what is claimed, and the way of a claim
// from its inputs through the command to its verified outputs and its answer. It must not know how the queue is kept, how
// artifacts travel or what a game is: those come in through the interfaces in ports.go, which the agent implements. The
// agent calls it, and the sync daemons ask it where games are being written (JobDatabases) and tell it when a job's games
// are safe (Release).
//
// # A claim's way
//
//	claimed → staging → running → judging → publishing → finishing → kept
//
// Outputs are stored here first, and the ring learns of them from the answer: a late one leaves nothing that others would act on.
//
// Slots are held from the grant until the outputs are judged, and given back exactly once. Nothing runs before the job's
// directory is whole, and no answer is sent before it is on disk, so that an agent that dies at any point goes on from
// there: its next start adopts what still runs, judges what has ended, and repeats the answer with the same claim id until
// it is heard. A claim that the queue refuses ends its run; its bytes are kept for inspection and change nothing.
//
// Without a coordinator nothing is claimed, what runs goes on, and answers wait. What this node cannot do (program
// missing, disk full, a template that exits 2 at once) goes back with its reason, and the node stops asking for that type
// for a while that doubles up to five minutes.
//
// # Concurrency
//
// One goroutine claims, one beats, one a run. All exported methods are safe for concurrent use. Run ends with its context
// and leaves commands running for the next start; only Leave ends them.
package worker
