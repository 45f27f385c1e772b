// Package rpc is how agents call each other: HTTP/2 on one held connection per peer, JSON or raw bodies, server streams,
// typed errors, and a table that says which class may call what.
//
// What a peer can make a server hold is bounded: connections, calls and streams at once, request bodies, and answers that it does
// not read. An answer of which no piece is taken for a minute ends.
//
// It owns methods, bodies, deadlines and held connections. It must not know how a peer is reached or admitted (it is given
// connections with a wire.Peer) nor what a method means. It is called by package mesh. Server and Client are safe for
// concurrent use; methods are registered before the first connection is served.
package rpc
