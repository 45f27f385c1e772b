package eventlog

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/ringagent/ringagent/eventlog/event"
)

// Layout of outbox.db. All values are sealed.
var (
	bucketDrafts = []byte("blocks") // of records
	bucketKeys   = []byte("keys")   // idempotency key → keyRecord
	bucketCarry  = []byte("carry")  // number in a damaged file and its origin → sealed record
	bucketMeta   = []byte("meta")

	metaHead   = []byte("head")   // outboxHead
	metaOrigin = []byte("origin") // the origin once more, so that a flipped bit in the head does not lose it

	outboxBuckets = [][]byte{bucketDrafts, bucketKeys, bucketCarry, bucketMeta}
)

type outboxHead struct {
	Origin   event.Origin `json:"origin"`
	Base     uint64       `json:"base"`
	BaseHash event.Hash   `json:"base_hash"`
	Acked    uint64       `json:"acked"`
	CarryOf  event.Origin `json:"carry_of,omitempty"`
}

// bodySize implements body.
func (k kept) bodySize() int {
	var n [binary.MaxVarintLen64]byte
	return len(k.hash) + 8 + binary.PutUvarint(n[:], uint64(len(k.key))) + len(k.key) + len(k.draft)
}

// appendBody implements body.
func (k kept) appendBody(b []byte) []byte {
	b = append(b, k.hash[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(k.at.UnixMilli()))
	b = binary.AppendUvarint(b, uint64(len(k.key)))
	b = append(b, k.key...)
	return append(b, k.draft...)
}

// decodeKept copies what it returns out of the sealed record number.
func decodeKept(number uint64, v []byte) (kept, bool) { return decodeSaved(beKey(number), v) }

// decodeSaved is decodeKept for a record that was saved from a damaged file. Its origin is "" when its key has none.
func decodeSaved(key, v []byte) (kept, bool) {
	body, ok := unseal(key, v)
	k := kept{number: numberOf(key)}
	if len(key) > 8 {
		k.of = event.Origin(key[8:])
	}
	if !ok || len(body) < len(k.hash)+8 {
		return k, false
	}
	copy(k.hash[:], body)
	body = body[len(k.hash):]
	k.at = time.UnixMilli(int64(binary.BigEndian.Uint64(body)))
	body = body[8:]
	n, used := binary.Uvarint(body)
	if used <= 0 || n > uint64(len(body)-used) {
		return k, false
	}
	k.key = string(body[used : used+int(n)])
	k.draft = append([]byte(nil), body[used+int(n):]...)
	return k, true
}

// size is what a record counts against KeepBytes.
func (k kept) size() int64 { return int64(len(k.draft) + len(k.key) + len(k.hash) + 8 + crcSize) }

func putSealed(b *bolt.Bucket, key, body []byte) error { return b.Put(key, seal(key, body)) }

func putJSON(b *bolt.Bucket, key []byte, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return putSealed(b, key, body)
}

func getJSON(b *bolt.Bucket, key []byte, v any) bool {
	body, ok := unseal(key, b.Get(key))
	return ok && json.Unmarshal(body, v) == nil
}

func putHead(tx *bolt.Tx, h outboxHead) error {
	m := tx.Bucket(bucketMeta)
	return errors.Join(putJSON(m, metaHead, h), putSealed(m, metaOrigin, []byte(h.Origin)))
}

// walkHead walks the bucket: where one of its two names is bad, and so out of order, a search might find neither. The values are
// sealed with their right names.
func walkHead(m *bolt.Bucket) (h outboxHead, ok bool, origin []byte) {
	_ = m.ForEach(func(_, v []byte) error {
		if body, sealed := unseal(metaHead, v); sealed {
			ok = json.Unmarshal(body, &h) == nil
		} else if body, sealed := unseal(metaOrigin, v); sealed {
			origin = bytes.Clone(body)
		}
		return nil
	})
	return h, ok, origin
}

// salvage is what could be read of a file.
type salvage struct {
	head    outboxHead
	records []kept // good ones, in order
	carry   []kept
	lost    map[place]bool       // saved records that fail the check
	keys    map[string]keyRecord // good ones, if the file is not whole
	headed  bool                 // its head could be read
	bytes   int64
}

func (s salvage) last() uint64 {
	if n := len(s.records); n > 0 {
		return s.records[n-1].number
	}
	return s.head.Base
}

// load reads a whole outbox file. With a *DamagedError it still returns what is good.
func load(db *bolt.DB) (salvage, error) {
	s := salvage{lost: map[place]bool{}}
	var bad error
	damaged := func(format string, args ...any) {
		if bad == nil {
			bad = &DamagedError{Path: db.Path(), Detail: fmt.Sprintf(format, args...)}
		}
	}
	err := guard(db.Path(), func() error {
		return db.View(func(tx *bolt.Tx) error {
			var origin []byte
			s.head, s.headed, origin = walkHead(tx.Bucket(bucketMeta))
			if !s.headed {
				damaged("its head fails the check")
				s.head = outboxHead{Origin: event.Origin(origin)}
			}
			h, next := s.head.BaseHash, s.head.Base+1
			c := tx.Bucket(bucketDrafts).Cursor()
			for key, v := c.First(); key != nil; key, v = c.Next() {
				run, ok := readBlock(key, v, true)
				if !ok {
					damaged("the records from %d on fail the check", numberOf(key))
					continue
				}
				for n := run.first; run.has(n); n++ {
					k, ok := decodeKept(n, run.sealed(n))
					switch {
					case !ok:
						damaged("record %d fails the check", n)
						continue
					case n != next || h.Next(k.draft) != k.hash:
						damaged("record %d does not follow the one before", n)
					}
					h, next = k.hash, n+1
					s.bytes += k.size()
					s.records = append(s.records, k)
				}
			}
			if s.head.Acked >= next {
				damaged("it ends before number %d, which was acknowledged", s.head.Acked)
			}
			c = tx.Bucket(bucketCarry).Cursor()
			for key, v := c.First(); key != nil; key, v = c.Next() {
				k, ok := decodeSaved(key, v)
				if k.of = cmp.Or(k.of, s.head.CarryOf); ok {
					s.carry = append(s.carry, k)
				} else {
					damaged("a saved record fails the check")
					s.lost[place{k.of, k.number}] = true
				}
			}
			c = tx.Bucket(bucketKeys).Cursor()
			for key, v := c.First(); key != nil; key, v = c.Next() {
				if _, ok := readKey(key, v); !ok {
					damaged("an idempotency key fails the check")
				}
			}
			return nil
		})
	})
	if err == nil {
		err = bad
	}
	if damaged := (*DamagedError)(nil); errors.As(err, &damaged) {
		s.addKeys(db)
	}
	return s, err
}

// saveOutbox is what can be read of a file that is damaged, as why says. It returns why, unless nobody could look.
func saveOutbox(path string, why error) (salvage, error) {
	db, err := openDamaged(path)
	if damaged(err) {
		return salvage{}, why
	}
	if err != nil {
		return salvage{}, err
	}
	s, err := load(db)
	if err == nil {
		s.addKeys(db)
	}
	_ = guard(path, db.Close)
	if err == nil || damaged(err) {
		err = why
	}
	return s, err
}

// open opens the file at the start of the agent.
func (o *Outbox) open() error {
	db, whole, err := openFile(o.opt.Path, outboxBuckets...)
	if err == nil {
		fresh := false
		if err = guard(o.opt.Path, func() error {
			return db.View(func(tx *bolt.Tx) error {
				fresh = tx.Bucket(bucketMeta).Stats().KeyN == 0 && tx.Bucket(bucketDrafts).Stats().KeyN == 0
				return nil
			})
		}); err == nil && fresh {
			err = update(db, func(tx *bolt.Tx) error { return putHead(tx, outboxHead{Origin: o.opt.hooks.newOrigin()}) })
		}
	}
	var s salvage
	if damaged(err) {
		if db != nil {
			_ = guard(o.opt.Path, db.Close)
			db = nil
		}
		s, err = saveOutbox(o.opt.Path, err)
	}
	if err == nil {
		if s, err = load(db); err == nil && !whole {
			// A number that was given out may be missing, so the origin cannot go on.
			s.addKeys(db)
			err = &DamagedError{Path: o.opt.Path, Detail: "one of its two heads is bad, and its last change may be missing"}
		}
	}
	if bad := (*DamagedError)(nil); errors.As(err, &bad) {
		if db != nil {
			_ = guard(o.opt.Path, db.Close)
		}
		return o.beginAgain(s, bad)
	}
	if err != nil {
		if db != nil {
			_ = db.Close()
		}
		return err
	}
	o.take(db, s)
	return nil
}

// take makes s, as read from db, the outbox's state.
func (o *Outbox) take(db *bolt.DB, s salvage) {
	h := s.head
	if h.Origin != o.origin {
		o.setApart()
		o.suspect = false
	}
	o.db, o.origin, o.base, o.baseHash, o.acked, o.stored = db, h.Origin, h.Base, h.BaseHash, h.Acked, h.Acked
	o.last, o.lastHash, o.bytes = h.Base, h.BaseHash, s.bytes
	o.carry, o.carryOf, o.tail, o.tailed, o.unkeyed = s.carry, h.CarryOf, nil, 0, nil
	if n := len(s.records); n > 0 {
		o.last, o.lastHash = s.records[n-1].number, s.records[n-1].hash
		for _, k := range s.records {
			if k.key != "" {
				o.keyed[place{h.Origin, k.number}] = k.key
			}
		}
	}
	o.durable = o.last
}

// beginAgain puts a damaged file into quarantine and begins a new one with a new origin. Good records that were not
// acknowledged are carried over; whether they stand in the log already is found out at the next connection. The keys of events
// that are not lost go on to stand for them.
func (o *Outbox) beginAgain(s salvage, why *DamagedError) error {
	carry := slices.DeleteFunc(s.carry, func(k kept) bool { return k.of == "" })
	if s.head.Origin != "" { // without it nobody can tell what stands already
		for _, k := range s.records {
			if k.number > s.head.Acked {
				k.of = s.head.Origin
				carry = append(carry, k)
			}
		}
	}
	head := outboxHead{Origin: o.opt.hooks.newOrigin(), CarryOf: s.head.Origin}
	if head.CarryOf == "" && len(carry) > 0 {
		head.CarryOf = carry[0].of
	}
	to, err := replaceFile(o.opt.Path, o.opt.Quarantine, o.opt.Now(), func(tx *bolt.Tx) error {
		if err := makeBuckets(tx, outboxBuckets); err != nil {
			return err
		}
		b := tx.Bucket(bucketCarry)
		for _, k := range carry {
			if err := putSealed(b, append(beKey(k.number), k.of...), k.appendBody(nil)); err != nil {
				return err
			}
		}
		b = tx.Bucket(bucketKeys)
		keep := s.keysToKeep()
		for _, key := range slices.Sorted(maps.Keys(keep)) {
			if err := putJSON(b, []byte(key), keep[key]); err != nil {
				return err
			}
		}
		return putHead(tx, head)
	})
	if err != nil {
		return err
	}
	o.alarms.raise(AlarmOutboxDamaged, 0, fmt.Sprintf("outbox is damaged (%s): moved to %s; new origin %s, %d records of origin %s carried over",
		why.Detail, to, head.Origin, len(carry), s.head.Origin))
	db, _, err := openFile(o.opt.Path, outboxBuckets...)
	if err != nil {
		return err
	}
	o.take(db, salvage{head: head, carry: carry})
	return nil
}

// trimmed says whether record n has been dropped in good order, as the file has it.
func trimmed(tx *bolt.Tx, n uint64) bool {
	var head outboxHead
	return getJSON(tx.Bucket(bucketMeta), metaHead, &head) && n <= head.Base
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
			records := readRecords(tx.Bucket(bucketDrafts), true)
			for ; n <= o.durable && len(out) < events && size > 0; n++ {
				k, ok := decodeKept(n, records.get(n))
				if !ok && trimmed(tx, n) {
					return errAgain // the writer has not told of it yet
				}
				if !ok {
					return &DamagedError{Path: o.opt.Path, Detail: fmt.Sprintf("record %d is missing or fails the check", n)}
				}
				out = append(out, k)
				size -= len(k.draft)
			}
			if len(out) == 0 {
				return &DamagedError{Path: o.opt.Path, Detail: fmt.Sprintf("record %d is missing", n)}
			}
			return nil
		})
	})
	return out, err
}
