package eventlog

import "time"

// admit opens or shuts the door through which publishers number their records themselves. Nobody is waited for after it.
func (o *Outbox) admit(open bool) {
	o.mu.Lock()
	o.admits = open || o.opt.hooks.doorOpen
	o.returns.target = 0
	o.mu.Unlock()
	o.nudge()
}

// enter numbers a record in its publisher's goroutine, so that it is on its way while an earlier commit still runs. It says false
// of what is the writer's to number: records with a key, and everything while nothing can be stored, too much waits for that, or
// the writer changes more than it adds.
func (o *Outbox) enter(u *put) bool {
	if u.key != "" {
		return false
	}
	now := o.opt.Now()
	o.mu.Lock()
	if !o.admits || o.degraded != nil || len(o.fresh) >= groupEvents || o.freshBytes >= groupBytes {
		o.mu.Unlock()
		return false
	}
	o.number(u, now)
	gathering := o.gathers()
	o.mu.Unlock()
	if !gathering {
		o.nudge()
		poke(o.work)
	}
	return true
}

// number gives a record its number. The caller holds mu.
func (o *Outbox) number(u *put, now time.Time) {
	o.last++
	o.lastHash = o.lastHash.Next(u.draft)
	u.place = place{o.origin, o.last}
	k := kept{number: o.last, hash: o.lastHash, at: now, key: u.key, draft: u.draft}
	o.tail, o.tailed = append(o.tail, k), o.tailed+k.size()
	o.fresh, o.freshBytes = append(o.fresh, u), o.freshBytes+len(u.draft)
	o.await(u)
}

// takeStored returns who has been fsynced and is to be told. The caller holds mu.
func (o *Outbox) takeStored() []*put {
	n := 0
	for n < len(o.fresh) && o.fresh[n].place.number <= o.durable {
		o.freshBytes -= len(o.fresh[n].draft)
		n++
	}
	stored := o.fresh[:n:n]
	o.fresh = o.fresh[n:]
	return stored
}

// takeAll returns everybody who was not told yet. The caller holds mu.
func (o *Outbox) takeAll() []*put {
	all := o.fresh
	o.fresh, o.freshBytes = nil, 0
	return all
}

// gathers says whether to go on waiting for those who were told, now that one more record has its number. The caller holds mu.
func (o *Outbox) gathers() bool {
	if !o.returns.awaited() {
		return false
	}
	if o.returns.number(o.last, len(o.fresh)) {
		return true
	}
	o.moment.Stop()
	return false
}

// expect has the next commit and the next batch wait a moment for publishers who were told just now. The caller holds mu.
func (o *Outbox) expect(told int) {
	if len(o.fresh) >= returnMost || !o.returns.expect(o.last, told) {
		return
	}
	if o.moment == nil {
		o.moment = time.AfterFunc(returnTime, o.giveUp)
	} else {
		o.moment.Reset(returnTime)
	}
}

// giveUp ends the wait for those who have not come back.
func (o *Outbox) giveUp() {
	o.mu.Lock()
	o.returns.late(o.last)
	o.mu.Unlock()
	o.nudge()
	poke(o.work)
}

func (o *Outbox) nudge() { poke(o.wake) }

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

const (
	// returnTime is how long those who were told are waited for. 64 goroutines are back within a third of it on two busy cores.
	returnTime = time.Millisecond
	// returnFewest is how many must have been told at once, and returnMost how many waiting records are enough in any case.
	returnFewest, returnMost = 2, 128
	// returnPause bounds how often in a row nobody is waited for after those before did not come back.
	returnPause = 63
)

// returners are publishers who were told at once that their events are stored or placed. Those who wait for each event publish the
// next one now, one after the other. With a commit and a batch as soon as the first of them is back there would be two of each to
// a round: one of the first few, and one of all others, who come while that is under way. Every commit costs its fsyncs and every
// batch an entry of the ring's, so these wait a moment for the others; less often while that was in vain.
type returners struct {
	target uint64 // the number at which all are back; 0: nobody is waited for
	asked  int    // how many are
	pause  int    // how often nobody will be waited for
	vain   int    // how often that was after the last in vain
}

// awaited says whether somebody is waited for.
func (r *returners) awaited() bool { return r.target != 0 }

// expect notes that n publishers were told, with last the highest number given. It says whether a wait begins.
func (r *returners) expect(last uint64, n int) bool {
	switch {
	case n == 0:
		return false
	case r.target != 0:
		r.target, r.asked = r.target+uint64(n), r.asked+n
		return false
	case n < returnFewest:
		return false
	case r.pause > 0:
		r.pause--
		return false
	}
	r.target, r.asked = last+uint64(n), n
	return true
}

// number notes that a number was given while somebody is waited for, with waiting records that are not stored. It says whether to
// go on.
func (r *returners) number(last uint64, waiting int) bool {
	if last < r.target && waiting < returnMost {
		return true
	}
	r.target, r.vain = 0, 0
	return false
}

// late ends a wait whose time is over. It was in vain if more than a quarter did not come back.
func (r *returners) late(last uint64) {
	if r.target > last && int(r.target-last) > r.asked/4 {
		r.vain = min(2*r.vain+1, returnPause)
		r.pause = r.vain
	}
	r.target = 0
}
