package eventlog

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"syscall"

	bolt "go.etcd.io/bbolt"
)

// fail tells everybody who waits for a commit, and a group besides, that it could not be stored, and stops storing until the file
// can be trusted again. The numbers may be on their way, so the records stay in memory and are the first to be written then: a
// number never gets other bytes.
func (o *Outbox) fail(err error, group []*put) {
	o.mu.Lock()
	o.degraded = err
	group = append(o.takeAll(), group...)
	for _, u := range group {
		o.forget(u)
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

// tick writes acknowledgements down, or tries to get out of a failure. quiet says that there was nothing to do.
func (o *Outbox) tick() (quiet bool) {
	o.mu.Lock()
	bad, db := o.degraded, o.db
	quiet = bad == nil && o.acked == o.last && o.acked == o.stored && len(o.seqs) == 0
	o.mu.Unlock()
	if bad == nil {
		o.store(nil)
		return quiet
	}
	if err := o.mend(db, bad); err != nil {
		o.opt.Log.Warn().Err(err).Msg("outbox cannot be mended yet")
		if outOfSpace(bad) && !outOfSpace(err) { // now nobody knows which pages are on the disk
			o.mu.Lock()
			if o.db != nil { // else nothing was written
				o.degraded = err
			}
			o.mu.Unlock()
		}
		return false
	}
	o.mu.Lock()
	o.degraded = nil
	for p := range o.early {
		o.tell(p)
	}
	for _, u := range o.plain {
		o.tellPlain(u)
	}
	o.mu.Unlock()
	o.alarms.clear(AlarmOutboxDegraded, "outbox stores events again")
	o.nudge()
	return false
}

func (o *Outbox) mend(db *bolt.DB, why error) error {
	if db != nil {
		_ = guard(o.opt.Path, db.Close)
		o.mu.Lock()
		o.db = nil
		o.mu.Unlock()
	}
	db, s, err := o.reopen(why)
	if err != nil && !damaged(err) {
		return err
	}
	o.mu.Lock()
	have, made := s.last(), o.unsure != nil && o.unsure.done(s)
	if err == nil && outOfSpace(why) && (made || have > o.durable) {
		// What failed was its last fsync, and the system may take for written since what is not. It is copied at the next try.
		o.db = db
		o.mu.Unlock()
		return errUnsynced
	}
	if made {
		o.unsure.settle()
	}
	o.unsure = nil
	if err == nil && (s.head.Origin != o.origin || have < o.durable) {
		s.addKeys(db)
		err = &DamagedError{Path: o.opt.Path, Detail: fmt.Sprintf("it ends at %d instead of %d", have, o.durable)}
	}
	if bad := (*DamagedError)(nil); errors.As(err, &bad) {
		defer o.mu.Unlock()
		if db != nil {
			_ = guard(o.opt.Path, db.Close)
		}
		return o.beginAgain(o.merge(s), bad)
	}
	// The failed commit may have reached the disk after all; then it is the same records.
	o.db, o.base, o.baseHash, o.bytes, o.stored = db, s.head.Base, s.head.BaseHash, s.bytes, s.head.Acked
	o.durable = max(o.durable, have)
	o.unkeyed = slices.DeleteFunc(o.unkeyed, func(u *put) bool { return u.place.number <= have })
	o.mu.Unlock()
	return o.commit()
}

// reopen opens the file again after the failure why. With a *DamagedError it still returns what is good; db may be nil then.
func (o *Outbox) reopen(why error) (*bolt.DB, salvage, error) {
	if !outOfSpace(why) {
		dir := o.opt.Quarantine
		if errors.Is(why, errUnsynced) {
			dir = "" // nothing of it is bad, and there was no space
		}
		err := o.kept.rewrite(o.opt.Path, dir, o.opt.Now(), outboxBuckets...)
		if damaged(err) {
			s, err := saveOutbox(o.opt.Path, err)
			return nil, s, err
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, salvage{}, err
		}
	}
	db, _, err := openFile(o.opt.Path, outboxBuckets...)
	if damaged(err) {
		s, err := saveOutbox(o.opt.Path, err)
		return nil, s, err
	}
	if err != nil {
		return nil, salvage{}, err
	}
	s, err := load(db)
	if err != nil && !damaged(err) {
		return nil, s, errors.Join(err, db.Close())
	}
	return db, s, err
}

// merge adds to what could be read of the file what is still in memory. The caller holds mu.
func (o *Outbox) merge(s salvage) salvage {
	out := salvage{head: outboxHead{Origin: o.origin, Acked: min(o.acked, o.last)}, keys: s.keys, lost: s.lost}
	if o.suspect {
		out.head.Acked = 0 // acknowledgements of another life are not ours
	}
	ours := func(k kept) bool { return k.of == o.origin }
	if s.head.Origin != o.origin && (s.head.CarryOf == o.origin || slices.ContainsFunc(s.carry, ours)) {
		// The file was begun again already, and then something failed: all was in it. What cannot be read of it may be in memory.
		have := map[place]bool{}
		for _, k := range slices.Concat(s.carry, o.carry) {
			if p := (place{k.of, k.number}); !have[p] && (!ours(k) || k.number > out.head.Acked) {
				have[p] = true
				out.carry = append(out.carry, k)
			}
		}
		for _, k := range o.tail {
			if !have[place{o.origin, k.number}] {
				out.records = append(out.records, k)
			}
		}
		return out
	}
	out.carry = o.carry
	first := o.last + 1
	if len(o.tail) > 0 {
		first = o.tail[0].number
	}
	for _, k := range s.records {
		if cmp.Or(s.head.Origin, o.origin) == o.origin && k.number < first {
			out.records = append(out.records, k)
		}
	}
	out.records = append(out.records, o.tail...)
	return out
}

// errUnsynced says that a change which failed is in the file, and that nobody knows whether it is on the disk.
var errUnsynced = errors.New("a change for which there was no space is in the file, but was not synced")

func outOfSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
