package eventlog

import (
	"bytes"
	"context"
	"time"

	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/pace"
)

// Observe tells the outbox of records that this node's replica has stored: answers that were lost on the way are found
// there.
func (o *Outbox) Observe(records []event.Record) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.plain) == 0 && len(o.waiters) == 0 && len(o.keyed) == 0 {
		return
	}
	for _, r := range records {
		if o.awaited(r) {
			o.learn(place{r.Origin, r.Number}, r.Seq)
		}
	}
}

// awaited says whether r is what those who wait for its number have published. When this directory was copied or set back, the
// log holds somebody else's event there. The caller holds mu.
func (o *Outbox) awaited(r event.Record) bool {
	u := o.plain[r.Number]
	if us := o.waiters[place{r.Origin, r.Number}]; len(us) > 0 {
		u = us[0]
	} else if r.Origin != o.origin {
		return true
	} else if u == nil {
		return r.Number <= o.acked // else nobody has compared it yet, and the answer will tell
	}
	switch {
	case r.Marks&event.MarkRefused != 0:
		return true // the ring states its reason instead
	case u.key != "":
		return u.digest == keyDigest(r.Draft)
	}
	return bytes.Equal(r.Draft.Encode(), u.draft)
}

const (
	resolveEvery = 500 * time.Millisecond
	resolveMost  = 10 * time.Second
	resolveIdle  = 5 * time.Second // while nobody is known to wait
)

// search has resolve look at once.
func (o *Outbox) search() {
	select {
	case o.lost <- struct{}{}:
	default:
	}
}

// resolve looks in the replica for the seqs of acknowledged records whose answer was lost, after a restart above all. What
// the replica stores later comes through Observe.
func (o *Outbox) resolve(ctx context.Context) error {
	if o.opt.Finder == nil {
		return nil
	}
	for wait, first := resolveEvery, true; ; first = false {
		select {
		case <-ctx.Done():
			return nil
		case <-o.lost:
			wait = resolveEvery / 2 // and soon again: the replica may still be on its way
		case <-time.After(pace.Until(wait)):
		}
		wait = min(2*wait, resolveMost)
		wanted := o.unresolved(first)
		if len(wanted) == 0 {
			wait = resolveIdle
		}
		for origin, r := range wanted {
			found, _, err := o.opt.Finder.Find(ctx, origin, r.from, r.to)
			if err != nil {
				o.opt.Log.Debug().Err(err).Msg("outbox cannot look into the replica")
				break
			}
			o.Observe(found)
		}
	}
}

// unresolved are the numbers, by origin, whose seq somebody waits for.
func (o *Outbox) unresolved(keys bool) map[event.Origin]lostRange {
	o.mu.Lock()
	defer o.mu.Unlock()
	out := map[event.Origin]lostRange{}
	add := func(p place) {
		if p.origin == o.origin && p.number > o.acked || o.early[p] != 0 {
			return
		}
		r, ok := out[p.origin]
		if !ok {
			r = lostRange{p.number, p.number}
		}
		out[p.origin] = lostRange{min(r.from, p.number), max(r.to, p.number)}
	}
	for n, u := range o.plain {
		if u.seq == 0 {
			add(place{o.origin, n})
		}
	}
	for p, us := range o.waiters {
		if len(us) > 0 {
			add(p)
		}
	}
	if keys || o.keysLost {
		o.keysLost = false
		for p := range o.keyed {
			add(p)
		}
	}
	return out
}
