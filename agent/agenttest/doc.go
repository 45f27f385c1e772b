// Package agenttest runs rings of whole agents in one process: real Raft, real databases, real jobs, and a network in memory
// that can be cut.
//
// It owns the nodes' folders, their addresses and their lives; it knows the agent only by New, Run, Init and Enrol, and asks
// it over its socket as an operator would. Tests of package agent use it. A Ring belongs to one test; its methods may be
// called from any goroutine of that test, but one node is started and ended by one goroutine at a time.
package agenttest
