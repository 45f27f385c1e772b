// Package api is the contract between an agent and whoever asks it: the JSON shapes of the command line and the HTTP API,
// the error codes with their exit codes, and a client that speaks to an agent over its socket.
//
// It owns shapes and transport, no behaviour. The agent fills the shapes, the command line prints them; neither side may
// invent a field elsewhere. Field names are relied on by outsiders: adding is free, changing is not. A pointer that is nil
// means unknown and is written as null, never as 0. A Client may be used from several goroutines.
package api
