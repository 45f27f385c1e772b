package eventlog

import (
	"errors"
	"fmt"

	bolt "go.etcd.io/bbolt"

	"github.com/ringagent/ringagent/eventlog/event"
)

// Layout of events.db. All values are sealed.
var (
	bucketLog  = []byte("log")  // seq → running hash and record
	bucketInfo = []byte("info") // infoHead → replicaHead
	infoHead   = []byte("head")

	replicaBuckets = [][]byte{bucketLog, bucketInfo}
)

// replicaHead is written with every change of the file.
type replicaHead struct {
	Cut     uint64     `json:"cut"`      // the highest seq that is no longer kept
	CutHash event.Hash `json:"cut_hash"` // the running hash after it
	// CutUnsure says that a peer alone has vouched for CutHash so far.
	CutUnsure bool   `json:"cut_unsure,omitempty"`
	Verified  uint64 `json:"verified"` // up to here the log agrees with a voter's state
	Bytes     int64  `json:"bytes"`    // of the kept records
	Last      uint64 `json:"last"`
}

func (r *Replica) open() error {
	db, whole, err := openFile(r.opt.Path, replicaBuckets...)
	if err != nil {
		return err
	}
	if !whole {
		r.alarms.raise(AlarmReplicaCorrupt, 0, "one of the two heads of the copy of the log is bad; what its last change added is pulled again")
	}
	var head replicaHead
	var last []byte
	var e Encoded
	err = guard(r.opt.Path, func() error {
		return db.View(func(tx *bolt.Tx) error {
			if tx.Bucket(bucketInfo).Get(infoHead) != nil && !getJSON(tx.Bucket(bucketInfo), infoHead, &head) {
				return &DamagedError{Path: r.opt.Path, Detail: "its head fails the check"}
			}
			var v []byte
			if last, v = tx.Bucket(bucketLog).Cursor().Last(); last == nil {
				if head.Last != head.Cut {
					return &DamagedError{Path: r.opt.Path, Detail: fmt.Sprintf("it is empty, but should end at %d", head.Last)}
				}
				return nil
			}
			var ok bool
			if e, ok = decodeStored(last, v, true); !ok || e.Seq != head.Last {
				return &CorruptError{Seq: head.Last, Detail: "the newest record fails the check"}
			}
			e.Bytes = nil
			return nil
		})
	})
	if bad := (*CorruptError)(nil); errors.As(err, &bad) {
		// One bad record is no reason to throw the file away: it ends before it, and the rest is pulled again.
		if err = r.dropLast(db, &head, &e); err == nil {
			r.alarms.raise(AlarmReplicaCorrupt, bad.Seq, fmt.Sprintf("%v; pulling it again", bad))
		}
	}
	if err != nil {
		_ = guard(r.opt.Path, db.Close)
		return err
	}
	r.db, r.head = db, head
	r.lastHash = head.CutHash
	if head.Last > head.Cut {
		r.lastHash = e.Hash
	}
	r.target = max(r.target, head.Last)
	r.durable.Store(head.Last)
	return nil
}

// dropLast takes records off the end until a good one is the last. They are bad, so nothing is lost by it.
func (r *Replica) dropLast(db *bolt.DB, head *replicaHead, e *Encoded) error {
	return guard(r.opt.Path, func() error {
		return db.Update(func(tx *bolt.Tx) error {
			b := tx.Bucket(bucketLog)
			head.Last = head.Cut
			var bad [][]byte
			c := b.Cursor()
			for key, v := c.Last(); key != nil; key, v = c.Prev() {
				if good, ok := decodeStored(key, v, true); ok && good.Seq > head.Cut {
					*e = good
					e.Bytes = nil
					head.Last = good.Seq
					break
				}
				head.Bytes -= int64(len(v))
				bad = append(bad, append([]byte(nil), key...))
			}
			for _, key := range bad {
				if err := b.Delete(key); err != nil {
					return err
				}
			}
			head.Verified = min(head.Verified, head.Last)
			return putJSON(tx.Bucket(bucketInfo), infoHead, head)
		})
	})
}

func encodeStored(e Encoded) (key, value []byte) {
	key = beKey(e.Seq)
	body := make([]byte, 0, len(e.Hash)+len(e.Bytes))
	body = append(body, e.Hash[:]...)
	return key, seal(key, append(body, e.Bytes...))
}

// decodeStored reads a stored record. Its bytes alias v.
func decodeStored(key, v []byte, crc bool) (Encoded, bool) {
	var e Encoded
	if len(key) != 8 || len(v) < crcSize+len(e.Hash) {
		return e, false
	}
	body, ok := unseal(key, v)
	if !ok && crc {
		return e, false
	}
	if !ok {
		body = v[crcSize:]
	}
	for _, c := range key {
		e.Seq = e.Seq<<8 | uint64(c)
	}
	copy(e.Hash[:], body)
	e.Bytes = body[len(e.Hash):]
	return e, true
}
