package eventlog

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/ringagent/ringagent/eventlog/event"
)

const findAgain = 100 * time.Millisecond

// standing returns the drafts that stand in the log under the numbers from…to of an origin. The log is known to have got
// past to; it waits for this node's replica to get there too, for a while.
func (o *Outbox) standing(ctx context.Context, origin event.Origin, from, to uint64) (map[uint64]event.Record, error) {
	out := map[uint64]event.Record{}
	if from > to || o.opt.Finder == nil || o.opt.hooks.noFind {
		return out, nil
	}
	ctx, cancel := context.WithTimeout(ctx, o.opt.FindTimeout)
	defer cancel()
	for {
		found, complete, err := o.opt.Finder.Find(ctx, origin, from, to)
		for _, r := range found {
			out[r.Number] = r
		}
		if complete && err == nil {
			return out, nil
		}
		select {
		case <-time.After(findAgain):
		case <-ctx.Done():
			if context.Cause(ctx) == context.Canceled {
				return nil, ctx.Err()
			}
			// Losing an event would be worse than having it twice.
			o.opt.Log.Warn().Err(err).Str("origin", string(origin)).Uint64("from", from).Uint64("to", to).
				Msg("the replica lacks the place of events; those not found are published again")
			return out, nil
		}
	}
}

// inWriter runs f in the writer, between two commits.
func (o *Outbox) inWriter(ctx context.Context, f func() error) error {
	done := make(chan error, 1)
	select {
	case o.control <- func() { done <- f() }:
	case <-ctx.Done():
		return ctx.Err()
	}
	return <-done
}

// changing runs f in the writer, which holds mu, unless nothing can be stored. When f could not write the file, the outbox
// stops storing until that can be trusted again.
func (o *Outbox) changing(ctx context.Context, f func() error) error {
	return o.inWriter(ctx, func() error {
		o.mu.Lock()
		err := o.degraded
		if err == nil {
			err = f()
		}
		failed := o.unsure != nil && o.degraded == nil
		o.mu.Unlock()
		if failed {
			o.fail(err, nil)
		}
		return err
	})
}

// change writes the file and then makes settle's changes to what is known of it. When that fails the file may have changed all
// the same: mend then finds out by done. It runs in the writer, which holds mu.
func (o *Outbox) change(do func(tx *bolt.Tx) error, done func(s salvage) bool, settle func()) error {
	if err := o.update(o.db, do); err != nil {
		o.unsure = &change{done, settle}
		return err
	}
	settle()
	return nil
}

// reorigin gives the outbox a new origin. What stands in the log under the old one (up to number placed) with the same
// bytes is acknowledged; everything else is published again, in order, under new numbers.
func (o *Outbox) reorigin(ctx context.Context, old event.Origin, placed uint64) error {
	o.mu.Lock()
	from, to := o.acked+1, min(placed, o.last)
	if o.suspect {
		from = o.base + 1 // acknowledgements of another life are not ours
	}
	o.mu.Unlock()
	stands, err := o.standing(ctx, old, from, to)
	if err != nil {
		return err
	}
	return o.changing(ctx, func() error {
		if o.origin != old {
			return errAgain
		}
		var all []kept
		for n := o.base + 1; n <= o.last; {
			run, err := o.readFile(n, groupEvents, groupBytes)
			if err != nil {
				return err
			}
			all = append(all, run...)
			n += uint64(len(run))
		}
		var again []kept
		seqs := map[uint64]uint64{}
		for _, k := range all {
			r, ok := stands[k.number]
			switch {
			case ok && bytes.Equal(r.Draft.Encode(), k.draft):
				seqs[k.number] = r.Seq
			case k.number < from && k.number <= placed:
				// acknowledged in an earlier session
			default:
				again = append(again, k)
			}
		}
		return o.renumber(again, seqs)
	})
}

// renumber replaces the file's content by again, under a new origin. seqs are the places of records that are found to
// stand under the old one. It runs in the writer, which holds mu.
func (o *Outbox) renumber(again []kept, seqs map[uint64]uint64) error {
	old, origin := o.origin, o.opt.hooks.newOrigin()
	moved := map[uint64]uint64{} // old number to new
	fresh := make([]kept, 0, len(again))
	var h event.Hash
	var size int64
	for i, k := range again {
		h = h.Next(k.draft)
		moved[k.number] = uint64(i + 1)
		k.number, k.hash = uint64(i+1), h
		size += k.size()
		fresh = append(fresh, k)
	}
	err := o.change(func(tx *bolt.Tx) error {
		if err := errors.Join(tx.DeleteBucket(bucketDrafts), makeBuckets(tx, [][]byte{bucketDrafts})); err != nil {
			return err
		}
		drafts, keys := tx.Bucket(bucketDrafts), tx.Bucket(bucketKeys)
		if _, err := putRecords(&o.blocks, drafts, 1, fresh); err != nil {
			return err
		}
		if err := o.moveKeys(keys, origin, map[event.Origin]*fate{old: {moved: moved, seqs: seqs}}); err != nil {
			return err
		}
		return putHead(tx, outboxHead{Origin: origin, CarryOf: o.carryOf})
	}, func(s salvage) bool { return s.head.Origin == origin }, func() {
		o.renumbered(origin, moved, seqs)
		o.last, o.lastHash, o.durable, o.bytes = uint64(len(fresh)), h, uint64(len(fresh)), size
		o.tail, o.tailed = fresh, size
		o.shorten()
	})
	if err != nil {
		return fmt.Errorf("begin a new origin: %w", err)
	}
	o.opt.Log.Warn().Str("old", string(old)).Str("origin", string(origin)).Int("again", len(fresh)).Int("stood", len(seqs)).
		Msg("outbox has a new origin")
	return nil
}

// renumbered has everybody know what their numbers have become under a new origin. The caller holds mu.
func (o *Outbox) renumbered(origin event.Origin, moved, seqs map[uint64]uint64) {
	old := o.origin
	o.setApart()
	waiters, keyed := o.waiters, o.keyed
	o.waiters, o.keyed, o.early = map[place][]*put{}, map[place]string{}, map[place]uint64{}
	o.origin, o.base, o.baseHash, o.acked, o.stored = origin, 0, event.Hash{}, 0, 0
	o.suspect, o.tail, o.tailed, o.seqs = false, nil, 0, nil
	for p, us := range waiters {
		to := p
		if n, ok := moved[p.number]; ok && p.origin == old {
			to = place{origin, n}
		}
		for _, u := range us {
			u.place = to
		}
		o.waiters[to] = us
	}
	for p, key := range keyed {
		if n, ok := moved[p.number]; ok && p.origin == old {
			o.keyed[place{origin, n}] = key
		} else {
			o.keyed[p] = key
		}
	}
	for n, seq := range seqs {
		o.learn(place{old, n}, seq)
	}
}

// setApart has those who wait be found by their origin, too, since their numbers are about to mean something else. The caller
// holds mu.
func (o *Outbox) setApart() {
	for n, u := range o.plain {
		p := place{o.origin, n}
		o.waiters[p] = append(o.waiters[p], u)
		if u.seq != 0 {
			o.early[p] = u.seq
		}
	}
	clear(o.plain)
}

// fate is what has become of the records of an origin that this outbox has left.
type fate struct {
	placed uint64 // the log has got past this number of it
	stands map[uint64]event.Record
	seqs   map[uint64]uint64 // by the number that they had
	moved  map[uint64]uint64 // the new number of those that are published again
}

// bringCarried publishes what was saved from damaged files, unless it stands in the log.
func (o *Outbox) bringCarried(ctx context.Context) error {
	o.mu.Lock()
	carry, of := o.carry, o.carryOf
	numbers := map[event.Origin]lostRange{}
	for p := range o.waiters {
		if p.origin != o.origin {
			numbers[p.origin] = lostRange{}
		}
	}
	o.mu.Unlock()
	if of == "" {
		return nil
	}
	for _, k := range carry {
		r := numbers[k.of]
		numbers[k.of] = lostRange{min(cmp.Or(r.from, k.number), k.number), max(r.to, k.number)}
	}
	fates := map[event.Origin]*fate{}
	for origin, r := range numbers {
		st, err := o.ask(ctx, origin)
		if err != nil {
			return err
		}
		f := &fate{placed: st.Next - 1, seqs: map[uint64]uint64{}, moved: map[uint64]uint64{}}
		if r.to > 0 {
			if f.stands, err = o.standing(ctx, origin, r.from, min(f.placed, r.to)); err != nil {
				return err
			}
		}
		fates[origin] = f
	}
	return o.changing(ctx, func() error {
		if o.carryOf != of {
			return errAgain // the file was begun again, or a change that failed was found to be made
		}
		last, h := o.last, o.lastHash
		var fresh []kept
		for _, k := range carry {
			f := fates[k.of]
			if r, ok := f.stands[k.number]; ok && bytes.Equal(r.Draft.Encode(), k.draft) {
				f.seqs[k.number] = r.Seq
				continue
			}
			last, h = last+1, h.Next(k.draft)
			f.moved[k.number] = last
			k.number, k.hash, k.of = last, h, ""
			fresh = append(fresh, k)
		}
		err := o.change(func(tx *bolt.Tx) error {
			if _, err := putRecords(&o.blocks, tx.Bucket(bucketDrafts), o.last+1, fresh); err != nil {
				return err
			}
			if err := errors.Join(tx.DeleteBucket(bucketCarry), makeBuckets(tx, [][]byte{bucketCarry})); err != nil {
				return err
			}
			if err := o.moveKeys(tx.Bucket(bucketKeys), o.origin, fates); err != nil {
				return err
			}
			return putHead(tx, outboxHead{Origin: o.origin, Base: o.base, BaseHash: o.baseHash, Acked: o.stored})
		}, func(s salvage) bool { return s.headed && s.head.CarryOf == "" }, func() {
			o.tail = append(o.tail, fresh...)
			for _, k := range fresh {
				o.bytes += k.size()
				o.tailed += k.size()
				if k.key != "" {
					o.keyed[place{o.origin, k.number}] = k.key
				}
			}
			o.last, o.lastHash, o.durable, o.carry, o.carryOf = last, h, last, nil, ""
			o.shorten()
			for origin, f := range fates {
				for n := range f.moved {
					delete(o.keyed, place{origin, n})
				}
				o.follow(origin, f)
			}
		})
		if err != nil {
			return fmt.Errorf("publish saved records again: %w", err)
		}
		return nil
	})
}

// follow has those who wait for records of a damaged file wait for what became of them: a seq, a new number or, when they could
// not be read, nothing, unless they are among those that the log has got past. The caller holds mu.
func (o *Outbox) follow(of event.Origin, f *fate) {
	for n, seq := range f.seqs {
		o.learn(place{of, n}, seq)
	}
	for p, us := range o.waiters {
		if p.origin != of {
			continue
		}
		n, again := f.moved[p.number]
		if !again && p.number <= f.placed {
			continue
		}
		delete(o.waiters, p)
		for _, u := range us {
			if u.place = (place{o.origin, n}); again {
				o.waiters[u.place] = append(o.waiters[u.place], u)
			} else {
				u.done <- putResult{err: fmt.Errorf("%w: its record was lost with a damaged file", ErrNotStored)}
			}
		}
	}
}
