package eventlog

import (
	"context"
	"errors"
	"fmt"
	"slices"

	bolt "go.etcd.io/bbolt"

	"github.com/ringagent/ringagent/eventlog/event"
)

// corruptMost is how many bad seqs are remembered. More of them are found again when they are read again.
const corruptMost = 64

// noteCorrupt raises the alarm once and has the writer repair the record.
func (r *Replica) noteCorrupt(bad *CorruptError) {
	r.mu.Lock()
	at, known := slices.BinarySearch(r.corrupt, bad.Seq)
	known = known || len(r.corrupt) >= corruptMost
	if !known {
		r.corrupt = slices.Insert(r.corrupt, at, bad.Seq)
	}
	r.mu.Unlock()
	if !known {
		r.alarms.raise(AlarmReplicaCorrupt, bad.Seq, bad.Error())
		r.nudge()
	}
}

// nextBad is the seq whose repair is to be tried next, 0 for none: one after the other, since one that nobody has any more must
// not keep the others from being repaired.
func (r *Replica) nextBad() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.corrupt) == 0 {
		return 0
	}
	at, _ := slices.BinarySearch(r.corrupt, r.tried+1)
	r.tried = r.corrupt[at%len(r.corrupt)]
	return r.tried
}

// repair replaces the block of a record that fails its check by a peer's records, if those fit between its neighbours.
func (r *Replica) repair(ctx context.Context, seq uint64) error {
	if seq <= r.head.Cut || seq > r.head.Last {
		r.repaired(seq, seq, "is no longer kept")
		return nil
	}
	if r.opt.Sources == nil {
		return errNoSource
	}
	from, to, err := r.around(seq)
	if damaged(err) {
		r.fail(err) // in a new file all is in order
	}
	if err != nil {
		return err
	}
	prev, err := r.hashAt(from - 1) // if that one is bad, it is noted, and repaired first
	if err != nil {
		return fmt.Errorf("the event before it is corrupt too: %w", err)
	}
	peers, err := r.opt.Sources.Near(ctx)
	if err != nil {
		return fmt.Errorf("list replicas: %w", err)
	}
	errs := []error{errNoSource}
	for _, p := range peers {
		got, err := r.replacement(ctx, p, prev, from, to)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		head := r.head
		err = r.update(func(tx *bolt.Tx) error {
			b := tx.Bucket(bucketLog)
			if err := replaceRecords(&r.blocks, b, from, got); err != nil {
				return err
			}
			if v := readRecords(b, true).get(to); v == nil {
				return &DamagedError{Path: r.opt.Path, Detail: fmt.Sprintf("event %d is not found where it was stored", to)}
			}
			if !head.BytesUnsure {
				return nil
			}
			head.Bytes, head.BytesUnsure = countBytes(b, head)
			return writeHead(tx, head)
		})
		if err != nil {
			return err
		}
		r.mu.Lock()
		r.head = head
		r.mu.Unlock()
		r.repaired(from, to, "was repaired from a peer")
		return nil
	}
	return errors.Join(errs...)
}

// repaired notes that from…to are right again, or gone.
func (r *Replica) repaired(from, to uint64, how string) {
	r.mu.Lock()
	r.corrupt = slices.DeleteFunc(r.corrupt, func(n uint64) bool { return n >= from && n <= to })
	all := len(r.corrupt) == 0
	r.mu.Unlock()
	if all {
		r.alarms.clear(AlarmReplicaCorrupt, fmt.Sprintf("event %d %s", to, how))
		return
	}
	r.nudge() // there is more
}

// around is what has to be replaced so that seq is right again: all that its block holds or, where that cannot be told, what
// lies between the blocks beside it, but not more than one call fetches.
func (r *Replica) around(seq uint64) (from, to uint64, err error) {
	from, to = r.head.Cut+1, r.head.Last
	err = r.view(r.db, func(tx *bolt.Tx) error {
		c := tx.Bucket(bucketLog).Cursor()
		key, v := blockOf(c, seq)
		if key != nil {
			k, ok := readBlock(key, v, true)
			switch {
			case !ok:
				from = max(from, numberOf(key))
			case ok && k.has(seq):
				from, to = k.first, k.last()
				return nil
			case ok:
				from = max(from, k.last()+1)
			}
			key, _ = c.Next()
		} else {
			key, _ = c.First()
		}
		for key != nil && numberOf(key) <= seq { // its length was flipped: it lies in what is replaced
			key, _ = c.Next()
		}
		if key != nil {
			to = min(to, numberOf(key)-1)
		}
		return nil
	})
	if err == nil && (seq < from || seq > to) {
		err = &DamagedError{Path: r.opt.Path, Detail: fmt.Sprintf("the blocks around event %d are out of order", seq)}
	}
	return from, min(to, from+fetchAtOnce-1), err
}

// replacement gets the records from…to from a peer and makes sure that they fit.
func (r *Replica) replacement(ctx context.Context, p Puller, prev event.Hash, from, to uint64) ([]Encoded, error) {
	var all []Encoded
	for next := from; next <= to; next = all[len(all)-1].Seq + 1 {
		got, err := r.fetch(ctx, p, next-1, int(min(to-next+1, fetchAtOnce)))
		if err != nil {
			return nil, err
		}
		if len(got) == 0 || got[0].Seq != next {
			return nil, fmt.Errorf("peer has no event %d", next)
		}
		all = append(all, got...)
	}
	for _, e := range all {
		if prev = prev.Next(e.Bytes); prev != e.Hash {
			return nil, fmt.Errorf("a peer's event %d does not fit into our log", e.Seq)
		}
	}
	if last := all[len(all)-1]; last.Seq != to || !r.fits(last) {
		return nil, fmt.Errorf("a peer's event %d does not fit into our log", last.Seq)
	}
	return all, nil
}

// fits says whether our record after e follows on it.
func (r *Replica) fits(e Encoded) bool {
	if e.Seq == r.head.Last {
		return e.Hash == r.lastHash
	}
	next, err := r.stored(r.db, e.Seq+1)
	if err != nil {
		return true // that one is to be repaired next; the chain behind it decides
	}
	return e.Hash.Next(next.Bytes) == next.Hash
}
