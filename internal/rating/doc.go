// Package rating turns sets of matches into ratings, and paired games into the decision to stop a test.
//
// It owns the Match record and its file form (JSON lines), the estimator behind every Elo figure (Fold), what is remembered of
// files that are rated again and again (Book), the sequential test (SPRT) and the interval shown beside a win
// rate. It knows nothing of models, files of other kinds, or who plays.
//
// Fold is a function of the set of matches and the pins: not of their order, nor of the machine. The same set gives the same
// bits on every processor, so the arithmetic here uses only operations that are exactly rounded everywhere: products are
// rounded before they are added (a compiler may fuse them otherwise), and the exponential is its own.
//
// Who calls it: the built-in workload (evaluation) and, through the agent, the daemons that measure and decide.
//
// Concurrency: functions are pure; a Book is anybody's; an SPRT belongs to one goroutine.
package rating
