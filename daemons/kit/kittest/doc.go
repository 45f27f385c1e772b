// Package kittest is a ring in memory for the tests of daemons: fakes that behave. The state refuses older epochs, names
// move by compare-and-set only, work is added once per key, events get one position each and are checked against the
// catalogue and their owners, durable subscribers retry and give up into dead letters, stores hold real files under their
// hashes, and a fetch order really copies them and states a receipt.
//
// What a test can do to it: withhold events, take the quorum away, stop nodes, make fetches fail or hang, move a singleton.
// It owns no policy. Tests import it, nothing else does. All of it runs inside a testing/synctest bubble; methods may be
// called from several goroutines.
package kittest
