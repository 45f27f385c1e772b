package eventlog

import (
	"errors"
	"fmt"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/ringagent/ringagent/eventlog/event"
)

const (
	cutAtOnce = 1000
	// futureSlack is how far ahead of our clock a record's time may be before it is taken for nonsense, which must not keep
	// the log for ever.
	futureSlack = time.Hour
)

// retain drops what need not be kept, oldest first, in transactions of a bounded size. The hash at the cut is kept, so
// that the rest can still be verified.
func (r *Replica) retain() error {
	if r.opt.Retention == nil || r.db == nil || r.broken() || r.diverged != nil {
		return nil
	}
	rule := r.opt.Retention()
	floor, live := uint64(0), false
	if r.opt.Floor != nil {
		floor, live = r.opt.Floor()
	}
	now := r.opt.Now()
	for {
		head, cut := r.head, 0
		err := guard(r.opt.Path, func() error {
			return update(r.db, func(tx *bolt.Tx) error {
				b := tx.Bucket(bucketLog)
				records, rule := readRecords(b, true), rule
				if behind(records, head, now) {
					rule.Age = 0
				}
				for cut < cutAtOnce && head.Cut < head.Verified {
					e, v, bad := oldestFrom(b, records, head.Cut+1, head.Verified)
					if v == nil && cut == 0 {
						return bad
					}
					if v == nil {
						break
					}
					then := head
					if then.Cut = e.Seq - 1; bad != nil {
						then.Bytes, then.BytesUnsure = countBytes(b, then)
					}
					if !r.droppable(e, then, rule, now, floor, live) {
						if bad != nil && cut == 0 {
							return bad
						}
						break
					}
					head = then
					head.Cut, head.CutHash = e.Seq, e.Hash
					head.Bytes -= int64(len(v))
					cut++
				}
				if cut == 0 {
					return errNothingToDrop
				}
				if err := dropBefore(b, head.Cut+1); err != nil {
					return err
				}
				return writeHead(tx, head)
			})
		})
		if bad := (*CorruptError)(nil); errors.As(err, &bad) {
			r.noteCorrupt(bad)
			return nil
		}
		if errors.Is(err, errNothingToDrop) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("drop old events: %w", err)
		}
		r.mu.Lock()
		r.head = head
		r.mu.Unlock()
		if cut < cutAtOnce {
			return nil
		}
	}
}

// oldestFrom is the oldest record from seq on that can be read, with its stored form; nil if there is none up to last. bad says
// that it is not seq itself. A record that nobody can repair goes with those behind it, or the log would grow for ever.
func oldestFrom(b *bolt.Bucket, records *reader, seq, last uint64) (e Encoded, v []byte, bad error) {
	for n := seq; n <= last; {
		v := records.get(n)
		e, ok := decodeStored(n, v, true)
		if ok {
			return e, v, bad
		}
		if bad == nil {
			bad = &CorruptError{Seq: n, Detail: "it fails the check"}
		}
		if n++; v == nil {
			key, _ := b.Cursor().Seek(beKey(n))
			if key == nil {
				break
			}
			n = max(n, numberOf(key))
		}
	}
	return Encoded{}, nil, bad
}

// clockSamples are the records, spread over what is kept, by which our own clock is judged.
const clockSamples = 9

// behind says that most of what is kept is ahead of our clock, as on a machine that has not set it yet: by such a clock nothing is
// old, nor nonsense. The newest records may be this machine's own, of such a time.
func behind(records *reader, head replicaHead, now time.Time) bool {
	kept, read, ahead := head.Verified-head.Cut, 0, 0
	for i := range min(clockSamples, kept) {
		seq := head.Cut + 1 + i*(kept-1)/clockSamples
		e, ok := decodeStored(seq, records.get(seq), true)
		if !ok {
			continue
		}
		if rec, err := event.DecodeRecord(e.Bytes); err == nil {
			if read++; rec.Time.After(now.Add(futureSlack)) {
				ahead++
			}
		}
	}
	return 2*ahead > read
}

// errNothingToDrop rolls an empty transaction back, which saves its fsync.
var errNothingToDrop = errors.New("nothing to drop")

func (r *Replica) droppable(e Encoded, head replicaHead, rule Retention, now time.Time, floor uint64, live bool) bool {
	if rule.Bytes > 0 && head.Bytes > rule.Bytes {
		return true // the disk comes before the slowest subscriber, who is told the gap
	}
	if live && e.Seq > floor {
		return false
	}
	if rule.Count > 0 && head.Last-head.Cut > rule.Count {
		return true
	}
	if rule.Age > 0 {
		rec, err := event.DecodeRecord(e.Bytes)
		return err != nil || rec.Time.Before(now.Add(-rule.Age)) || rec.Time.After(now.Add(futureSlack))
	}
	return false
}
