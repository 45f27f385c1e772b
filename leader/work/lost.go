package work

import (
	"time"

	"github.com/ringagent/ringagent/internal/ring"
)

// Missing is since when, by the coordinator's own monotonic clock, an input that an unfinished item was added with has been
// held by nobody who could give it, by work id.
type Missing map[string]time.Time

// Miss is missing for exactly the items of v that lack an input: known ones keep their time, new ones get now. A new
// coordinator thus gives each item the whole time again.
func Miss(v View, missing Missing, now time.Time) Missing {
	out := Missing{}
	for w := range v.WorkItems() {
		if w.State.Finished() {
			continue
		}
		if _, lacks := lacking(v, w); !lacks {
			continue
		}
		out[w.ID] = now
		if t, ok := missing[w.ID]; ok {
			out[w.ID] = t
		}
	}
	return out
}

// Hopeless is an item that waits for bytes which nobody has.
type Hopeless struct {
	Work  string
	Input ring.Input
}

// Lost is the pending items that have lacked an input for longer than after, for the coordinator to cancel: while one stays
// in the queue, whoever added it plans no other. An evaluation is not among them: the next candidate has one of its own, and
// this one may come back with the machine that trained it.
func Lost(v View, missing Missing, now time.Time, after time.Duration) []Hopeless {
	var out []Hopeless
	for w := range v.WorkItems() {
		since, missed := missing[w.ID]
		if w.Type == evaluate || w.State != ring.WorkPending || !missed || now.Sub(since) <= after {
			continue
		}
		if in, lacks := lacking(v, w); lacks {
			out = append(out, Hopeless{w.ID, in})
		}
	}
	return out
}

// lacking is the first of an item's inputs that cannot be had. Of a claimed item the champion is one of them: its loss is
// not the item's own, but the claim goes back first, and only what the item was added with is left then.
func lacking(v View, w ring.WorkItem) (ring.Input, bool) {
	for _, in := range w.Inputs {
		if !available(v, in.Digest) {
			return in, true
		}
	}
	return ring.Input{}, false
}
