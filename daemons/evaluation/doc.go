// Package evaluation holds the daemons that measure candidates (EVALUATION) and decide on them (AUTO_PROMOTION). The one
// asks for games and the other reads them: a promotion rests on the stored matches alone, never on what a run printed or an
// event said.
//
// They know no games and start no process. The registry lists them; the supervisor runs each on one node of the ring.
// Concurrency: a step at a time, by the kit's Loop.
package evaluation
