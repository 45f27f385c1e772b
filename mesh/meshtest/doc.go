// Package meshtest is a network in memory for tests of whole meshes: hosts with addresses, links that delay, lose, or pass
// nothing in one direction or both, hosts that die with or without a word.
//
// It owns bytes in flight and nothing else; it knows neither mesh nor TLS, and is handed to a mesh as its wire.Network. It
// uses no socket and blocks only on condition variables and timers, so it works inside testing/synctest, where a
// partition of ten minutes takes no time. Everything is safe for concurrent use.
package meshtest
