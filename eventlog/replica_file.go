package eventlog

import (
	"errors"
	"fmt"

	bolt "go.etcd.io/bbolt"

	"github.com/ringagent/ringagent/eventlog/event"
)

// Layout of events.db. All values are sealed.
var (
	bucketLog  = []byte("blocks") // running hash and record of each event
	bucketInfo = []byte("info")   // infoHead and infoAgain → replicaHead
	infoHead   = []byte("head")
	infoAgain  = []byte("again") // the same once more, so that a flipped bit does not cost the log

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
	// BytesUnsure says that Bytes was counted where blocks were bad or missing.
	BytesUnsure bool `json:"bytes_unsure,omitempty"`
}

// replicaFile is the file as it was when it was opened.
type replicaFile struct {
	db       *bolt.DB
	head     replicaHead
	lastHash event.Hash
	opened   bool // by bbolt, whatever it holds
}

// openOrBegin opens the file. What can be read of one that is damaged, or is known to be, is saved in a new one; if nothing
// can, it is moved to quarantine with an alarm, and the log is pulled anew.
func (r *Replica) openOrBegin(known error) (replicaFile, error) {
	f, err := replicaFile{opened: true}, known
	if known == nil {
		f, err = r.open()
	}
	bad := (*DamagedError)(nil)
	if errors.As(err, &bad) && !f.opened {
		to, cannot := rewriteFile(r.opt.Path, r.opt.Quarantine, r.opt.Now(), replicaBuckets...)
		if cannot == nil {
			r.alarms.raise(AlarmReplicaCorrupt, 0, fmt.Sprintf("copy of the log is damaged (%s): moved to %s, what can be read of it is kept", bad.Detail, to))
			f, err = r.open()
		} else if !damaged(cannot) {
			err = cannot
		}
	}
	if errors.As(err, &bad) {
		var to string
		if to, err = quarantine(r.opt.Path, r.opt.Quarantine, r.opt.Now()); err == nil {
			r.alarms.raise(AlarmReplicaCorrupt, 0, fmt.Sprintf("copy of the log cannot be read (%s): moved to %s, pulling it anew", bad.Detail, to))
			f, err = r.open()
		}
	}
	return f, err
}

// readHead is the file's head; that of a new file is empty. It says false when it fails the check.
func readHead(tx *bolt.Tx) (head replicaHead, ok bool) {
	b := tx.Bucket(bucketInfo)
	for _, key := range [][]byte{infoHead, infoAgain} {
		if getJSON(b, key, &head) {
			return head, true
		}
	}
	key, _ := b.Cursor().First()
	return replicaHead{}, key == nil
}

// headWhole says whether both are good. One is enough to go on with.
func headWhole(tx *bolt.Tx) bool {
	b := tx.Bucket(bucketInfo)
	for _, key := range [][]byte{infoHead, infoAgain} {
		if b.Get(key) != nil && !getJSON(b, key, new(replicaHead)) {
			return false
		}
	}
	return true
}

func writeHead(tx *bolt.Tx, head replicaHead) error {
	b := tx.Bucket(bucketInfo)
	return errors.Join(putJSON(b, infoHead, head), putJSON(b, infoAgain, head))
}

func (r *Replica) open() (f replicaFile, err error) {
	db, whole, err := openFile(r.opt.Path, replicaBuckets...)
	if err != nil {
		return f, err
	}
	f.opened = true
	if !whole {
		r.alarms.raise(AlarmReplicaCorrupt, 0, "one of the two heads of the copy of the log is bad; what its last change added is pulled again")
	}
	var head replicaHead
	var headBad bool
	var e Encoded
	err = guard(r.opt.Path, func() error {
		return db.View(func(tx *bolt.Tx) error {
			var ok bool
			if head, ok = readHead(tx); !ok {
				return &DamagedError{Path: r.opt.Path, Detail: "its head fails the check"}
			}
			headBad = !headWhole(tx)
			last, v := tx.Bucket(bucketLog).Cursor().Last()
			if last == nil {
				if head.Last != head.Cut {
					return &DamagedError{Path: r.opt.Path, Detail: fmt.Sprintf("it is empty, but should end at %d", head.Last)}
				}
				return nil
			}
			k, ok := readBlock(last, v, true)
			if ok = ok && k.last() == head.Last; ok {
				e, ok = decodeStored(head.Last, k.sealed(head.Last), true)
			}
			if !ok {
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
	if err == nil && headBad {
		r.opt.Log.Warn().Msg("one of the two heads of the copy of the log fails the check; it is written again")
		err = guard(r.opt.Path, func() error {
			return update(db, func(tx *bolt.Tx) error { return writeHead(tx, head) })
		})
	}
	if err != nil {
		_ = guard(r.opt.Path, db.Close)
		return f, err
	}
	f.db, f.head, f.lastHash = db, head, head.CutHash
	if head.Last > head.Cut {
		f.lastHash = e.Hash
	}
	return f, nil
}

// begin makes f, as it was opened, the replica's state.
func (r *Replica) begin(f replicaFile) {
	r.db, r.head, r.lastHash = f.db, f.head, f.lastHash
	r.target = max(r.target, f.head.Last)
	r.durable.Store(f.head.Last)
}

// dropLast takes records off the end until a good one is the last. They are bad, so nothing is lost by it.
func (r *Replica) dropLast(db *bolt.DB, head *replicaHead, e *Encoded) error {
	return guard(r.opt.Path, func() error {
		return update(db, func(tx *bolt.Tx) error {
			b := tx.Bucket(bucketLog)
			head.Last = head.Cut
			c := b.Cursor()
			for key, v := c.Last(); key != nil && head.Last == head.Cut; key, v = c.Prev() {
				k, ok := readBlock(key, v, true)
				if !ok {
					continue
				}
				for n := k.last(); n >= k.first && n > head.Cut; n-- {
					if good, ok := decodeStored(n, k.sealed(n), true); ok {
						*e = good
						e.Bytes = nil
						head.Last = n
						break
					}
				}
			}
			if err := dropAfter(b, head.Last); err != nil {
				return err
			}
			head.Verified = min(head.Verified, head.Last)
			head.Bytes, head.BytesUnsure = countBytes(b, *head)
			return writeHead(tx, *head)
		})
	})
}

// countBytes counts the bytes of the records from head.Cut to head.Last, each once. unsure says that some of them are bad or
// missing.
func countBytes(b *bolt.Bucket, head replicaHead) (n int64, unsure bool) {
	next, before := head.Cut+1, block{}
	c := b.Cursor()
	key, v := blockOf(c, next)
	if key == nil {
		key, v = c.First()
	}
	for ; key != nil; key, v = c.Next() {
		if first := numberOf(key); first < next && before.has(first) { // what follows is found in this block
			n -= int64(uint32(len(before.data)) - before.end(first-before.first))
			next = first
		}
		k, ok := readBlock(key, v, true)
		if ok && k.last() < next {
			continue
		}
		if ok && k.first < next {
			n -= int64(k.end(next - k.first))
		}
		n, before, unsure = n+storedBytes(key, v), k, unsure || !ok || k.first > next
		if ok {
			next = k.last() + 1
		}
	}
	return n, unsure || next != head.Last+1
}

// bodySize implements body.
func (e Encoded) bodySize() int { return len(e.Hash) + len(e.Bytes) }

// appendBody implements body.
func (e Encoded) appendBody(b []byte) []byte { return append(append(b, e.Hash[:]...), e.Bytes...) }

// decodeStored reads the sealed record of seq. Its bytes alias v.
func decodeStored(seq uint64, v []byte, crc bool) (Encoded, bool) {
	e := Encoded{Seq: seq}
	if len(v) < crcSize+len(e.Hash) {
		return e, false
	}
	body, ok := unseal(beKey(seq), v)
	if !ok && crc {
		return e, false
	}
	if !ok {
		body = v[crcSize:]
	}
	copy(e.Hash[:], body)
	e.Bytes = body[len(e.Hash):]
	return e, true
}
