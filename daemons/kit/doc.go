// Package kit is the contract between a daemon and the agent that runs it: what a daemon is (Spec), what it may use (Env),
// and the few shapes that daemons are made of (Loop, Planner, Spread, Decider, Monitor, Facade), so that a daemon is one
// file with one pure function and a table test.
//
// It owns no state and does no I/O of its own; everything reaches it through Env, whose narrow interfaces the agent
// fulfils. It must not know Raft, gossip, HTTP or bbolt. Daemons import kit, eventlog/event, internal/ring, internal/id and
// internal libraries; they never import each other.
//
// Concurrency: the supervisor calls New once per attempt and Run once per New, in one goroutine; Run returns when its
// context ends. A Loop never runs two steps at once. What Env hands out may be used from several goroutines.
package kit
