// Package connect4 is the built-in workload: the rules of Connect Four, a small value and policy network with its
// trainer, the search that the network guides, and the five stages (self-play, export, train, evaluate, move) that the
// agent runs as external commands like anybody else's.
//
// It owns the game, the network, the model file and the format of what a stage prints. It must know nothing of rings,
// nodes, events, leases or work items: it sees argv, files, an environment and a signal. cmd/ringagent hangs Command
// into the tree "workload connect4"; nobody else imports it.
//
// Every stage is a plain function with an options struct (Selfplay, Export, Train, Evaluate, ChooseMove), ends soon after
// its context does, leaves no half-written file under a final name, and is a function of its inputs and its seed, except
// for the times that it writes down. One stage runs on one goroutine; a Network is read-only once made and may be shared,
// an Evaluator and a Search belong to one goroutine each.
package connect4
