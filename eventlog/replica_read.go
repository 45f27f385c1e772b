package eventlog

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/ringagent/ringagent/eventlog/event"
)

// A read transaction keeps pages from being used again, so none is held for longer than this.
const (
	readMost     = 1000
	readMostTime = 100 * time.Millisecond
	fetchBytes   = 4 << 20
)

// scan calls do for stored records after seq after, in order, at most limit (and readMost) of them, checking each. The
// record's bytes are valid only during the call. more says whether it ended before the log did.
func (r *Replica) scan(after uint64, limit int, do func(e Encoded) bool) (more bool, err error) {
	r.mu.Lock()
	head, db := r.head, r.db
	r.mu.Unlock()
	if db == nil {
		return false, r.away()
	}
	if after < head.Cut {
		return false, &Compacted{From: after + 1, To: head.Cut, Oldest: head.Cut + 1, Hash: head.CutHash}
	}
	if after >= head.Last {
		return false, nil
	}
	deadline := time.Now().Add(readMostTime)
	limit = min(limit, readMost)
	err = r.view(db, func(tx *bolt.Tx) error {
		next := after + 1
		records := readRecords(tx.Bucket(bucketLog), !r.opt.hooks.noCRC)
		for limit > 0 && next <= head.Last {
			e, ok := decodeStored(next, records.get(next), !r.opt.hooks.noCRC)
			if !ok {
				return r.gone(tx, next)
			}
			if !do(e) {
				more = true
				return nil
			}
			next, limit = next+1, limit-1
			if limit%64 == 0 && time.Now().After(deadline) {
				break
			}
		}
		more = next <= head.Last
		return nil
	})
	if bad := (*CorruptError)(nil); errors.As(err, &bad) {
		r.noteCorrupt(bad)
	}
	return more, err
}

// errReopening says that the file is being opened anew after a failure. Whoever asks again later is answered.
var errReopening = errors.New("the copy of the log is being opened anew")

// away tells why there is no file to look into.
func (r *Replica) away() error {
	select {
	case <-r.stopped:
		return ErrClosed
	default:
		return errReopening
	}
}

// gone tells why seq could not be read: it was cut meanwhile, or it is bad. It asks the file, as tx sees it: the writer tells
// others of a cut only after it has made it.
func (r *Replica) gone(tx *bolt.Tx, seq uint64) error {
	head, ok := readHead(tx)
	if !ok {
		return &CorruptError{Seq: seq, Detail: "the file's head fails the check"}
	}
	switch {
	case seq <= head.Cut:
		return &Compacted{From: seq, To: head.Cut, Oldest: head.Cut + 1, Hash: head.CutHash}
	case seq > head.Last:
		return nil // a tail that was moved away
	}
	return &CorruptError{Seq: seq, Detail: "it fails the check"}
}

// Read returns records after seq after, at most limit and at most 1 000, in order and without a gap. It returns none at the
// end, a *Compacted when the next one is no longer kept and a *CorruptError when it fails its check.
func (r *Replica) Read(after uint64, limit int) ([]event.Record, error) {
	records, _, err := r.read(after, limit, nil)
	return records, err
}

// read is Read for a reader who looks at payloads only where wanted says so, or at all of them if it is nil.
func (r *Replica) read(after uint64, limit int, wanted func(*event.Record) bool) (out []event.Record, more bool, err error) {
	var bad error
	var decoder event.Decoder
	more, err = r.scan(after, limit, func(e Encoded) bool {
		rec, err := decoder.Record(e.Bytes)
		if err != nil || rec.Seq != e.Seq {
			bad = &CorruptError{Seq: e.Seq, Detail: "it is no record of that seq"}
			return false
		}
		if wanted == nil || wanted(&rec) {
			rec.Payload = slices.Clone(rec.Payload) // the stored bytes are valid only here
		} else {
			rec.Payload = nil
		}
		out = append(out, rec)
		return true
	})
	if err == nil {
		err = bad
	}
	if len(out) > 0 {
		err = nil // what follows is told by the next read
	}
	return out, more, err
}

// Fetch is Puller for other nodes: this copy's records in their stored form, at most 4 MiB of them. Records after the last
// one that is known to be the ring's are not handed out.
func (r *Replica) Fetch(_ context.Context, after uint64, limit int) ([]Encoded, error) {
	r.mu.Lock()
	sure := r.head.Verified
	r.mu.Unlock()
	var out []Encoded
	size := 0
	_, err := r.scan(after, limit, func(e Encoded) bool {
		if e.Seq > sure || size > fetchBytes {
			return false
		}
		e.Bytes = slices.Clone(e.Bytes)
		size += len(e.Bytes)
		out = append(out, e)
		return true
	})
	if len(out) > 0 {
		err = nil
	}
	return out, err
}

// Find implements Finder by looking from the end of the log backwards. The numbers of an origin rise with the seq, so the
// search ends at the first one below from.
func (r *Replica) Find(ctx context.Context, origin event.Origin, from, to uint64) (found []event.Record, complete bool, err error) {
	r.mu.Lock()
	db, head := r.db, r.head
	r.mu.Unlock()
	if db == nil {
		return nil, false, r.away()
	}
	seq, done := head.Last, false
	var decoder event.Decoder
	for !done && seq > head.Cut {
		if err := ctx.Err(); err != nil {
			return found, false, err
		}
		err := r.view(db, func(tx *bolt.Tx) error {
			records := readRecords(tx.Bucket(bucketLog), !r.opt.hooks.noCRC)
			for range readMost {
				if seq <= head.Cut {
					return nil
				}
				e, ok := decodeStored(seq, records.get(seq), !r.opt.hooks.noCRC)
				if !ok {
					done = true
					if bad := (*CorruptError)(nil); errors.As(r.gone(tx, seq), &bad) {
						return bad
					}
					return nil // cut meanwhile
				}
				rec, err := decoder.Record(e.Bytes)
				if err != nil {
					return fmt.Errorf("event %d: %w", seq, err)
				}
				seq--
				if rec.Origin != origin {
					continue
				}
				complete = complete || rec.Number >= to
				if rec.Number < from {
					done = true
					return nil
				}
				if rec.Number <= to {
					rec.Payload = slices.Clone(rec.Payload)
					found = append(found, rec)
				}
			}
			return nil
		})
		if bad := (*CorruptError)(nil); errors.As(err, &bad) {
			r.noteCorrupt(bad) // not within the transaction, for which the end of Run may be waiting
		}
		if err != nil {
			return found, false, err
		}
	}
	return found, complete, nil
}
