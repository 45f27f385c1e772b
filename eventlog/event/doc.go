// Package event is the leaf of the event log: what an event is, how it is written down, and the catalogue of the types
// that may be published.
//
// It owns the envelope (Draft as published, Record as placed in the log, Line as shown), their one binary form, the hash
// chain over records, and the typed catalogue: one Kind per type, whose Make and Read are the only way in which daemons
// write and read payloads, so that a field's name is spelled once. It knows nothing of files, networks or Raft, so that
// the state machine, the replicas, the daemons and the command line can all share it. Values are immutable once made and
// safe for concurrent use.
package event
