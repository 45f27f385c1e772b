// Package mesh is who is there and how to reach them: a node's identity and its way into the ring, one port, one way to
// dial, membership, and calls between agents.
//
// It owns certificates and their renewal, connections, gossip and the transport of calls. It must not know what is
// replicated: the roster, the counting of tokens and the ring's generation are asked of interfaces that package agent
// fills. It is called by agent and, for `init` and `join`, by the command line.
//
// The parts: mesh/identity makes and reads certificates and tokens; mesh/wire listens, dials and admits; mesh/rpc carries
// calls; mesh/gossip keeps the members. This package puts them together; users need no other. mesh/meshtest is a network in
// memory.
//
// A Mesh is safe for concurrent use. Handlers and listeners are registered between Open and Run; everything that runs
// ends with the context of Run.
package mesh
