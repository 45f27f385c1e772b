package eventlog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/ringagent/ringagent/eventlog/event"
)

const (
	groupEvents = 1024
	groupBytes  = 1 << 20
	tickEvery   = 250 * time.Millisecond // acknowledgements are written down this often when nothing is published
	trimAtOnce  = 2048
	tailEvents  = 4096 // kept in memory for the sender
)

// write is the only goroutine that changes the file. What arrives while a commit runs is stored by the next one.
func (o *Outbox) write(ctx context.Context) error {
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			o.mu.Lock()
			idle := o.degraded != nil
			o.mu.Unlock()
			if !idle {
				_ = o.commit() // acknowledgements only; without them the next start asks again
			}
			return nil
		case u := <-o.puts:
			o.store(o.gather(u))
		case f := <-o.control:
			f()
		case <-tick.C:
			o.tick()
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

// store gives a group its numbers, lets the sender have it, and fsyncs it. Only then are its publishers told.
func (o *Outbox) store(group []*put) {
	now := o.opt.Now()
	o.mu.Lock()
	if err := o.degraded; err != nil {
		o.mu.Unlock()
		for _, u := range group {
			u.done <- putResult{err: fmt.Errorf("%w: %w", ErrNotStored, err)}
		}
		return
	}
	known, err := o.lookKeys(group)
	if err != nil {
		o.mu.Unlock()
		for _, u := range group {
			u.done <- putResult{err: fmt.Errorf("%w: %w", ErrNotStored, err)}
		}
		return
	}
	var fresh, again []*put
	for _, u := range group {
		if u.key != "" {
			if k, ok := known[u.key]; ok {
				if k.Digest != u.digest {
					u.done <- putResult{err: fmt.Errorf("key %q: %w", u.key, ErrKeyTaken)}
					continue
				}
				u.place = place{k.Origin, k.Number}
				if seq := max(k.Seq, o.early[u.place]); seq != 0 {
					o.early[u.place] = seq
				}
				again = append(again, u)
				o.await(u)
				continue
			}
		}
		o.last++
		o.lastHash = o.lastHash.Next(u.draft)
		u.place = place{o.origin, o.last}
		o.tail = append(o.tail, kept{number: o.last, hash: o.lastHash, at: now, key: u.key, draft: u.draft})
		if u.key != "" {
			known[u.key] = keyRecord{Origin: o.origin, Number: o.last, Digest: u.digest, At: now}
			o.keyed[u.place] = u.key
		}
		fresh = append(fresh, u)
		o.await(u)
	}
	o.mu.Unlock()
	o.nudge()
	if o.opt.hooks.ackEarly {
		for _, u := range fresh {
			u.done <- putResult{place: u.place}
		}
	}
	if err := o.commit(fresh...); err != nil {
		o.fail(err, append(fresh, again...))
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, u := range append(fresh, again...) {
		if !o.opt.hooks.ackEarly {
			u.done <- putResult{place: u.place}
		}
		o.tell(u.place)
	}
}

// lookKeys reads what the keys of a group stand for. The caller holds mu.
func (o *Outbox) lookKeys(group []*put) (map[string]keyRecord, error) {
	known := map[string]keyRecord{}
	wanted := false
	for _, u := range group {
		wanted = wanted || u.key != ""
	}
	if !wanted {
		return known, nil
	}
	err := guard(o.opt.Path, func() error {
		return o.db.View(func(tx *bolt.Tx) error {
			b := tx.Bucket(bucketKeys)
			for _, u := range group {
				var k keyRecord
				if u.key != "" && getJSON(b, []byte(u.key), &k) {
					known[u.key] = k
				}
			}
			return nil
		})
	})
	return known, err
}

// await enters a publisher that wants to know its seq. The caller holds mu.
func (o *Outbox) await(u *put) {
	if u.wait {
		o.waiters[u.place] = append(o.waiters[u.place], u)
	}
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

// learn notes the seq of a number, if anybody cares. The caller holds mu.
func (o *Outbox) learn(p place, seq uint64) {
	if seq == 0 || len(o.waiters[p]) == 0 && o.keyed[p] == "" {
		return
	}
	o.early[p] = seq
	o.tell(p)
}

// commit writes everything that is not in the file yet: records, keys, seqs, acknowledgements; and drops what need not be
// kept longer.
func (o *Outbox) commit(fresh ...*put) error {
	o.mu.Lock()
	db := o.db
	head := outboxHead{Origin: o.origin, Base: o.base, BaseHash: o.baseHash, Acked: min(o.acked, o.last), CarryOf: o.carryOf}
	first := len(o.tail)
	for first > 0 && o.tail[first-1].number > o.durable {
		first--
	}
	records := o.tail[first:len(o.tail):len(o.tail)]
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
	err := guard(o.opt.Path, func() error {
		if f := o.opt.hooks.commit; f != nil {
			if err := f(); err != nil {
				return err
			}
		}
		return db.Update(func(tx *bolt.Tx) error {
			drafts, keys := tx.Bucket(bucketDrafts), tx.Bucket(bucketKeys)
			drafts.FillPercent = 1 // numbers only grow
			for _, k := range records {
				if err := putSealed(drafts, beKey(k.number), k.encode()); err != nil {
					return err
				}
			}
			for _, u := range fresh {
				if u.key == "" {
					continue
				}
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
	o.seqs = o.seqs[len(seqs):]
	if n := len(records); n > 0 {
		o.durable = records[n-1].number
	}
	if over := len(o.tail) - tailEvents; over > 0 {
		o.tail = append([]kept(nil), o.tail[over:]...)
	}
	return nil
}

func writeSeqs(keys *bolt.Bucket, seqs []keySeq) error {
	for _, s := range seqs {
		var k keyRecord
		if !getJSON(keys, []byte(s.key), &k) || k.Origin != s.origin || k.Number != s.number {
			continue // its key was dropped with the record
		}
		k.Seq = s.seq
		if err := putJSON(keys, []byte(s.key), k); err != nil {
			return err
		}
	}
	return nil
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

// trim drops acknowledged records from the front that are too old or too much.
func (o *Outbox) trim(tx *bolt.Tx, head *outboxHead, size *int64) error {
	drafts, keys := tx.Bucket(bucketDrafts), tx.Bucket(bucketKeys)
	oldest := o.opt.Now().Add(-o.opt.Keep)
	for range trimAtOnce {
		key, v := drafts.Cursor().First()
		if key == nil {
			return nil
		}
		k, ok := decodeKept(key, v)
		if !ok {
			return &DamagedError{Path: o.opt.Path, Detail: fmt.Sprintf("record %d fails the check", head.Base+1)}
		}
		if k.number > head.Acked || *size <= o.opt.KeepBytes && !k.at.Before(oldest) {
			return nil
		}
		if err := drafts.Delete(bytes.Clone(key)); err != nil {
			return err
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
	return nil
}

// fail answers a group that could not be stored and stops storing until the file can be trusted again. Its numbers may be
// on their way, so its records stay in memory and are the first to be written then: a number never gets other bytes.
func (o *Outbox) fail(err error, group []*put) {
	o.mu.Lock()
	o.degraded = err
	for _, u := range group {
		o.waiters[u.place] = slices.DeleteFunc(o.waiters[u.place], func(w *put) bool { return w == u })
	}
	o.mu.Unlock()
	for _, u := range group {
		select {
		case u.done <- putResult{err: fmt.Errorf("%w: %w", ErrNotStored, err)}:
		default: // told already, by the broken variant
		}
	}
	o.alarms.raise(AlarmOutboxDegraded, 0, fmt.Sprintf("outbox cannot store events: %v", err))
}

// tick writes acknowledgements down, or tries to get out of a failure.
func (o *Outbox) tick() {
	o.mu.Lock()
	bad, db := o.degraded, o.db
	o.mu.Unlock()
	if bad == nil {
		if err := o.commit(); err != nil {
			o.fail(err, nil)
		}
		return
	}
	if err := o.mend(db, bad); err != nil {
		o.opt.Log.Warn().Err(err).Msg("outbox cannot be mended yet")
		return
	}
	o.mu.Lock()
	o.degraded = nil
	for p := range o.early {
		o.tell(p)
	}
	o.mu.Unlock()
	o.alarms.clear(AlarmOutboxDegraded, "outbox stores events again")
	o.nudge()
}

func (o *Outbox) mend(db *bolt.DB, why error) error {
	if db != nil {
		_ = guard(o.opt.Path, db.Close)
		o.mu.Lock()
		o.db = nil
		o.mu.Unlock()
	}
	if !outOfSpace(why) {
		if err := rewriteFile(o.opt.Path, o.opt.Quarantine, o.opt.Now(), outboxBuckets...); err != nil {
			return err
		}
	}
	db, err := openFile(o.opt.Path, outboxBuckets...)
	if err != nil {
		return err
	}
	s, err := load(db)
	o.mu.Lock()
	have := s.last()
	if err == nil && (s.head.Origin != o.origin || have < o.durable) {
		err = &DamagedError{Path: o.opt.Path, Detail: fmt.Sprintf("it ends at %d instead of %d", have, o.durable)}
	}
	if bad := (*DamagedError)(nil); errors.As(err, &bad) {
		defer o.mu.Unlock()
		_ = guard(o.opt.Path, db.Close)
		return o.beginAgain(o.merge(s), bad)
	}
	if err != nil {
		o.mu.Unlock()
		return errors.Join(err, db.Close())
	}
	// The failed commit may have reached the disk after all; then it is the same records.
	o.db, o.base, o.baseHash, o.bytes, o.stored = db, s.head.Base, s.head.BaseHash, s.bytes, s.head.Acked
	o.durable = max(o.durable, have)
	o.mu.Unlock()
	return o.commit()
}

// merge adds to what could be read of the file what is still in memory. The caller holds mu.
func (o *Outbox) merge(s salvage) salvage {
	out := salvage{head: outboxHead{Origin: o.origin, Acked: min(o.acked, o.last)}}
	first := o.last + 1
	if len(o.tail) > 0 {
		first = o.tail[0].number
	}
	for _, k := range s.records {
		if k.number < first {
			out.records = append(out.records, k)
		}
	}
	out.records = append(out.records, o.tail...)
	return out
}

func outOfSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

func (o *Outbox) nudge() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// hashAt is the running hash after number n, which must be kept or be the one before. The caller holds mu.
func (o *Outbox) hashAt(n uint64) (event.Hash, error) {
	switch {
	case n == o.last:
		return o.lastHash, nil
	case n == o.base:
		return o.baseHash, nil
	case len(o.tail) > 0 && n >= o.tail[0].number && n < o.last:
		return o.tail[n-o.tail[0].number].hash, nil
	}
	k, err := o.readFile(n, 1, 1)
	if err != nil {
		return event.Hash{}, err
	}
	return k[0].hash, nil
}

// readFile reads kept records from number n on, at least one. The caller holds mu.
func (o *Outbox) readFile(n uint64, events, size int) ([]kept, error) {
	if o.db == nil {
		return nil, ErrNotStored
	}
	var out []kept
	err := guard(o.opt.Path, func() error {
		return o.db.View(func(tx *bolt.Tx) error {
			c := tx.Bucket(bucketDrafts).Cursor()
			for key, v := c.Seek(beKey(n)); key != nil && len(out) < events && size > 0; key, v = c.Next() {
				k, ok := decodeKept(key, v)
				if !ok || k.number != n {
					return &DamagedError{Path: o.opt.Path, Detail: fmt.Sprintf("record %d fails the check", n)}
				}
				out = append(out, k)
				size -= len(k.draft)
				n++
			}
			if len(out) == 0 {
				return &DamagedError{Path: o.opt.Path, Detail: fmt.Sprintf("record %d is missing", n)}
			}
			return nil
		})
	})
	return out, err
}
