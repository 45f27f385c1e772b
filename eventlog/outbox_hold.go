package eventlog

import "time"

// Every batch may be an entry of the ring's, with fsyncs on each voter, and every commit has fsyncs of its own. What follows keeps
// their number down where nobody has an event sooner for more of them.
const (
	// holdEvents and holdBytes are from how much on, if that is less than a whole batch, a second one is under way beside the first.
	// With less, two groups of publishers who wait for each event would take turns for ever, each waiting for the other's entry as
	// well as for its own. So those who come while batches are under way go with those whom the last answer sets free.
	holdEvents, holdBytes = 128, 64 << 10
	// holdTime bounds that: over a slow link the answer is long in coming.
	holdTime = 20 * time.Millisecond
	// commitPause is the least from one small commit to the next while much is under way, if all in it wait for the ring's answer, which
	// takes longer then: a publisher who is answered sooner waits for so much more at most.
	commitPause = 3 * time.Millisecond
)

// holds says that what there is to send from number n on is to wait for a batch under way.
func (o *Outbox) holds(n uint64) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if n > o.last || o.last-o.acked >= holdEvents || len(o.tail) == 0 || n < o.tail[0].number {
		return false
	}
	run, size := o.tail[n-o.tail[0].number:], 0
	for _, k := range run {
		size += len(k.draft)
	}
	return len(run) < o.opt.BatchEvents && size < min(holdBytes, o.opt.BatchBytes)
}

// unhurried says that the next commit may come later than at once. The caller holds mu.
func (o *Outbox) unhurried() bool {
	if o.last-o.acked < 2*holdEvents || len(o.fresh) >= holdEvents {
		return false
	}
	for _, u := range o.fresh {
		if !u.wait {
			return false
		}
	}
	return true
}
