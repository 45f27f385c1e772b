// Package place decides which node runs which singleton: a pure function of who may, who can, who is ready and who runs
// what already.
//
// It owns the rules (sticky, standby first, then the least loaded, standbys in another failure domain) and knows no clock,
// no lease, no Raft and no network. The coordinator's loop in package leader calls it. Everything is passed in and nothing
// is kept, so that any number of goroutines may call it.
package place
