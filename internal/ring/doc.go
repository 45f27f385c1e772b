// Package ring holds the records of the replicated state as plain data: the state machine owns and changes them, daemons
// and the command line read them, and the agent carries them between the two.
//
// It knows no Raft, no network and no file. Values read from a state are shared between goroutines and must never be
// changed in place: whoever wants another value makes a copy. It imports only the typed ids and the event leaf.
package ring
