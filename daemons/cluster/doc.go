// Package cluster holds the daemons about nodes: the mesh as a part with a row of its own (P2P_BACKEND), and each node's
// verdict on itself (NODE_HEALTH_MONITOR).
//
// What is a fact about another node is not decided here; it rides on the coordinator's roster entries. The registry lists
// these daemons; the supervisor runs them on every node. Concurrency: a step at a time, by the kit's Loop.
package cluster
