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
	if r.opt.Retention == nil || r.db == nil || r.degraded != nil || r.diverged != nil {
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
				records := readRecords(b, true)
				for cut < cutAtOnce && head.Cut < head.Verified {
					v := records.get(head.Cut + 1)
					e, ok := decodeStored(head.Cut+1, v, true)
					if !ok {
						return &CorruptError{Seq: head.Cut + 1, Detail: "it fails the check"}
					}
					if !r.droppable(e, head, rule, now, floor, live) {
						break
					}
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
				return putJSON(tx.Bucket(bucketInfo), infoHead, head)
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
