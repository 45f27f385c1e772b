// Package core holds the daemons that every node needs: the built-in parts that carry events and answer probes
// (EVENT_ROUTER, CROSS_PROCESS_POLLER, HEALTH_SERVER), the one that delivers dead letters after all (DLQ_RETRY) and the one
// that notices a daemon without progress (DAEMON_WATCHDOG).
//
// They know nothing of games, work or models. DAEMON_WATCHDOG judges and cancels; restarting is the supervisor's alone.
// Concurrency: a step at a time, by the kit's Loop.
package core
