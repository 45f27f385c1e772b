// Package training holds the daemons that keep the loop turning: who plays what (SELFPLAY_COORDINATOR), when games become
// a dataset (AUTO_EXPORT), when a dataset is trained on (TRAINING_TRIGGER), and who notices that a stage hangs
// (DATA_PIPELINE). Each is one pure function of the replicated state.
//
// They ask for work and never run it; they know neither games nor networks nor commands. The registry lists them; the
// supervisor runs each on one node of the ring. Concurrency: a step at a time, by the kit's Loop.
package training
