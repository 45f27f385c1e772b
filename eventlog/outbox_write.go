package eventlog

import (
	"context"
	"fmt"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/ringagent/ringagent/internal/pace"
)

const (
	groupEvents = 1024
	groupBytes  = 1 << 20
	tickEvery   = 250 * time.Millisecond // acknowledgements are written down this often when nothing is published
	tickIdle    = 2 * time.Second        // and looked for this often when there were none
	trimAtOnce  = 2048
	tailEvents  = 4096 // kept in memory for the sender
	tailBytes   = 8 << 20
)

// write is the only goroutine that changes the file. What arrives while a commit runs is stored by the next one.
func (o *Outbox) write(ctx context.Context) error {
	tick, period := time.NewTimer(pace.Until(tickEvery)), tickEvery
	defer tick.Stop()
	every := func(d time.Duration) { // not at every turn: a timer that is put back all the time never fires
		if d != period {
			period = d
			tick.Reset(pace.Until(d))
		}
	}
	rest, stored := time.NewTimer(commitPause), time.Time{}
	defer rest.Stop()
	o.admit(true)
	for {
		select {
		case <-ctx.Done():
			o.admit(false)
			o.store(nil) // and acknowledgements; without them the next start asks again
			return nil
		case u := <-o.puts:
			o.store(o.gather(u))
			every(tickEvery)
		case <-o.work:
			o.mu.Lock()
			now := o.last > o.durable && !o.returns.awaited() // the end of the wait will say so once more
			pause := time.Duration(0)
			if now && o.unhurried() {
				pause = commitPause - time.Since(stored)
			}
			o.mu.Unlock()
			switch {
			case pause > 0:
				rest.Reset(pause)
			case now:
				o.store(nil)
				stored = time.Now()
				every(tickEvery)
			}
		case <-rest.C:
			poke(o.work)
		case f := <-o.control:
			o.admit(false)
			o.store(nil)
			f()
			o.admit(true)
		case <-tick.C:
			period = tickEvery
			if o.tick() {
				period = tickIdle
			}
			tick.Reset(pace.Until(period))
		}
	}
}

func (o *Outbox) gather(first *put) []*put {
	group, size := []*put{first}, len(first.draft)
	for len(group) < groupEvents && size < groupBytes {
		select {
		case u := <-o.puts:
			group = append(group, u)
			size += len(u.draft)
		default:
			return group
		}
	}
	return group
}

// store gives a group its numbers, lets the sender have those without a key, and fsyncs it with all that has its number already.
// Only then are its publishers told.
func (o *Outbox) store(group []*put) {
	now := o.opt.Now()
	o.mu.Lock()
	var known map[string]keyRecord
	err := o.degraded
	if err == nil {
		known, err = o.lookKeys(group)
	}
	if err != nil {
		bad := o.degraded == nil && damaged(err)
		o.mu.Unlock()
		if bad {
			o.fail(err, group)
			return
		}
		for _, u := range group {
			u.done <- putResult{err: fmt.Errorf("%w: %w", ErrNotStored, err)}
		}
		return
	}
	var keyed, again []*put
	for _, u := range group {
		if u.key != "" {
			if k, ok := known[u.key]; ok {
				if k.Digest != u.digest {
					u.done <- putResult{err: fmt.Errorf("key %q: %w", u.key, ErrKeyTaken)}
					continue
				}
				u.place = place{k.Origin, k.Number}
				for _, s := range o.seqs { // the file has an older one: the ring went back
					if s.place == u.place {
						k.Seq = s.seq
					}
				}
				if seq := max(k.Seq, o.early[u.place]); seq != 0 {
					o.early[u.place] = seq
				} else {
					o.search()
				}
				again = append(again, u)
				o.await(u)
				continue
			}
		}
		o.number(u, now)
		if u.key != "" {
			known[u.key] = keyRecord{Origin: o.origin, Number: o.last, Digest: u.digest, At: now}
			o.keyed[u.place] = u.key
			keyed = append(keyed, u)
		}
	}
	if o.opt.hooks.ackEarly {
		for _, u := range o.fresh {
			if !u.wait {
				u.done <- putResult{place: u.place}
			}
		}
	}
	o.mu.Unlock()
	if len(group) > 0 {
		o.nudge()
	}
	if err := o.commit(keyed...); err != nil {
		o.unkeyed = keyed
		o.fail(err, again)
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	told := 0
	for _, u := range append(o.takeStored(), again...) {
		switch u.stored = true; {
		case !u.wait:
			if !o.opt.hooks.ackEarly {
				u.done <- putResult{place: u.place}
				if u.key == "" {
					told++
				}
			}
		case u.key == "":
			told += o.tellPlain(u)
		}
		if u.key != "" {
			o.tell(u.place)
		}
	}
	o.expect(told)
	if len(keyed) > 0 { // they travel from now on
		o.nudge()
	}
	if o.last > o.durable { // who came during the commit
		poke(o.work)
	}
}

// await enters a publisher that wants to know its seq. The caller holds mu.
func (o *Outbox) await(u *put) {
	switch {
	case !u.wait || u.left:
	case u.key == "":
		o.plain[u.place.number] = u
	default:
		o.waiters[u.place] = append(o.waiters[u.place], u)
	}
}

// tellPlain is tell for a publisher without a key, of which there is one to a record. It returns how many were told. The caller
// holds mu.
func (o *Outbox) tellPlain(u *put) int {
	// Between the fsync and this the answer may have come and told it.
	if u.seq == 0 || u.place.number > o.durable || o.plain[u.place.number] != u {
		return 0
	}
	u.done <- putResult{place: u.place, seq: u.seq}
	delete(o.plain, u.place.number)
	return 1
}

// tell answers who waits for p, if its seq is known and its record is fsynced. The caller holds mu.
func (o *Outbox) tell(p place) {
	seq := o.early[p]
	if seq == 0 || p.origin == o.origin && p.number > o.durable {
		return
	}
	for _, u := range o.waiters[p] {
		u.done <- putResult{place: p, seq: seq}
	}
	delete(o.waiters, p)
	delete(o.early, p)
	if key, ok := o.keyed[p]; ok {
		o.seqs = append(o.seqs, keySeq{key, p, seq})
		delete(o.keyed, p)
	}
}

// learn notes the seq of a number, if anybody cares, and returns how many without a key were told. The caller holds mu.
func (o *Outbox) learn(p place, seq uint64) (told int) {
	if u := o.plain[p.number]; u != nil && seq != 0 && p.origin == o.origin {
		u.seq = seq
		told = o.tellPlain(u)
	}
	if seq == 0 || len(o.waiters) == 0 && len(o.keyed) == 0 || len(o.waiters[p]) == 0 && o.keyed[p] == "" {
		return told
	}
	o.early[p] = seq
	o.tell(p)
	return told
}

// commit writes everything that is not in the file yet: records, the keys of those that have one, seqs, acknowledgements; and drops
// what need not be kept longer.
func (o *Outbox) commit(keyed ...*put) error {
	o.mu.Lock()
	db := o.db
	head := outboxHead{Origin: o.origin, Base: o.base, BaseHash: o.baseHash, Acked: min(o.acked, o.last), CarryOf: o.carryOf}
	first := len(o.tail)
	for first > 0 && o.tail[first-1].number > o.durable {
		first--
	}
	records := o.tail[first:len(o.tail):len(o.tail)]
	if len(o.unkeyed) > 0 {
		keyed = slices.Concat(o.unkeyed, keyed)
	}
	seqs := o.seqs
	size := o.bytes
	idle := len(records) == 0 && len(seqs) == 0 && head.Acked == o.stored && !o.trimmable()
	o.mu.Unlock()
	if idle || db == nil {
		return nil
	}
	for _, k := range records {
		size += k.size()
	}
	err := o.update(db, func(tx *bolt.Tx) error {
		drafts, keys := tx.Bucket(bucketDrafts), tx.Bucket(bucketKeys)
		if len(records) > 0 {
			if _, err := putRecords(&o.blocks, drafts, records[0].number, records); err != nil {
				return err
			}
		}
		for _, u := range keyed {
			if err := putJSON(keys, []byte(u.key), keyRecord{Origin: u.place.origin, Number: u.place.number, Digest: u.digest, At: o.opt.Now()}); err != nil {
				return err
			}
		}
		if err := writeSeqs(keys, seqs); err != nil {
			return err
		}
		if err := o.trim(tx, &head, &size); err != nil {
			return err
		}
		return putHead(tx, head)
	})
	if err != nil {
		return err
	}
	if f := o.opt.hooks.afterStore; f != nil {
		f(head.Acked)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.base, o.baseHash, o.bytes, o.stored = head.Base, head.BaseHash, size, head.Acked
	o.seqs, o.unkeyed = o.seqs[len(seqs):], nil
	if n := len(records); n > 0 {
		o.durable = records[n-1].number
	}
	o.shorten()
	return nil
}

// shorten lets go of the oldest records in memory, all of which are in the file. The caller holds mu.
func (o *Outbox) shorten() {
	over := 0
	for over < len(o.tail) && (len(o.tail)-over > tailEvents || o.tailed > tailBytes) {
		o.tailed -= o.tail[over].size()
		over++
	}
	if over > 0 {
		clear(o.tail[:over])
		o.tail = o.tail[over:]
	}
}

// update is a transaction of the file.
func (o *Outbox) update(db *bolt.DB, do func(tx *bolt.Tx) error) error {
	return guard(o.opt.Path, func() error {
		if f := o.opt.hooks.commit; f != nil {
			if err := f(); err != nil {
				return err
			}
		}
		if err := update(db, do); err != nil {
			return err
		}
		if f := o.opt.hooks.committed; f != nil {
			return f()
		}
		return nil
	})
}

// trimmable says whether there may be something to drop. Age is looked at once a minute. The caller holds mu.
func (o *Outbox) trimmable() bool {
	if o.base >= o.acked {
		return false
	}
	if now := o.opt.Now(); now.After(o.nextTrim) {
		o.nextTrim = now.Add(time.Minute)
		return true
	}
	return o.bytes > o.opt.KeepBytes
}

// trim drops acknowledged records from the front that are too old or too much. To drop a few writes again the leaf in which they
// are, so it is not done at every commit: what is too old goes once a minute, and once there is too much, a sixteenth of what may
// be kept goes.
func (o *Outbox) trim(tx *bolt.Tx, head *outboxHead, size *int64) error {
	drafts, keys := tx.Bucket(bucketDrafts), tx.Bucket(bucketKeys)
	oldest, records, before := o.opt.Now().Add(-o.opt.Keep).Truncate(time.Minute), readRecords(drafts, true), head.Base
	keep := o.opt.KeepBytes
	low := keep - keep/16
	if o.trimming = o.trimming || *size > keep; o.trimming {
		keep = low
	}
	for head.Base < head.Acked && head.Base < before+trimAtOnce {
		k, ok := decodeKept(head.Base+1, records.get(head.Base+1))
		if !ok {
			return &DamagedError{Path: o.opt.Path, Detail: fmt.Sprintf("record %d fails the check", head.Base+1)}
		}
		if *size <= keep && !k.at.Before(oldest) {
			break
		}
		head.Base, head.BaseHash = k.number, k.hash
		*size -= k.size()
		var kr keyRecord
		if k.key != "" && getJSON(keys, []byte(k.key), &kr) && kr.Origin == head.Origin && kr.Number == k.number {
			if err := keys.Delete([]byte(k.key)); err != nil {
				return err
			}
		}
	}
	o.trimming = o.trimming && *size > low
	if head.Base == before {
		return nil
	}
	return dropBefore(drafts, head.Base+1)
}
