// Package id holds the typed names that every part of ringagent passes around, so that a node id cannot be handed over
// where a digest is wanted.
//
// It owns their syntax and nothing else: no lookup, no I/O, no state. Everybody may import it; it imports only the
// standard library. All values are immutable and safe for concurrent use.
package id
