// Package resources holds the daemons that keep the work queue fed: QUEUE_POPULATOR fills it with self-play by the plan of
// SELFPLAY_COORDINATOR, and nothing else.
//
// It decides from the queue's depth as the state has it, and knows neither games nor nodes' slots. The registry lists it; the
// supervisor runs it on one node of the ring. Concurrency: a step at a time, by the kit's Loop.
package resources
