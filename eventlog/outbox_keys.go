package eventlog

import (
	"bytes"
	"encoding/json"
	"errors"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/ringagent/ringagent/eventlog/event"
)

// keyRecord is what an idempotency key stands for.
type keyRecord struct {
	Origin event.Origin `json:"origin"`
	Number uint64       `json:"number"`
	Seq    uint64       `json:"seq,omitempty"` // 0: not known yet
	Digest [32]byte     `json:"digest"`
	At     time.Time    `json:"at"`
}

// keySeq is the seq of a keyed record.
type keySeq struct {
	key string
	place
	seq uint64
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
	oldest := o.opt.Now().Add(-o.opt.Keep)
	err := guard(o.opt.Path, func() error {
		return o.db.View(func(tx *bolt.Tx) error {
			b := tx.Bucket(bucketKeys)
			for _, u := range group {
				if u.key == "" || b.Get([]byte(u.key)) == nil {
					continue
				}
				var k keyRecord
				if !getJSON(b, []byte(u.key), &k) {
					return &DamagedError{Path: o.opt.Path, Detail: "an idempotency key fails the check"}
				}
				// Those of an origin that was left have no record any more with which they would be dropped.
				if k.Origin == o.origin || o.carryOf != "" || !k.At.Before(oldest) {
					known[u.key] = k
				}
			}
			return nil
		})
	})
	return known, err
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

// moveKeys makes the idempotency keys follow their records to origin, and drops those that are too old.
func (o *Outbox) moveKeys(keys *bolt.Bucket, origin event.Origin, fates map[event.Origin]*fate) error {
	type change struct {
		key []byte
		rec *keyRecord // nil: drop
	}
	var changes []change
	oldest := o.opt.Now().Add(-o.opt.Keep)
	err := keys.ForEach(func(key, _ []byte) error {
		var k keyRecord
		if !getJSON(keys, key, &k) {
			return &DamagedError{Path: o.opt.Path, Detail: "an idempotency key fails the check"}
		}
		f := fates[k.Origin]
		if f == nil {
			if k.Origin != o.origin && k.At.Before(oldest) {
				changes = append(changes, change{bytes.Clone(key), nil})
			}
			return nil
		}
		if n, ok := f.moved[k.Number]; ok {
			k.Origin, k.Number, k.Seq = origin, n, 0
		} else if seq, ok := f.seqs[k.Number]; ok {
			k.Seq = seq
		} else {
			return nil
		}
		changes = append(changes, change{bytes.Clone(key), &k})
		return nil
	})
	if err != nil {
		return err
	}
	for _, c := range changes {
		if c.rec == nil {
			err = errors.Join(err, keys.Delete(c.key))
		} else {
			err = errors.Join(err, putJSON(keys, c.key, c.rec))
		}
	}
	return err
}

// readKey reads what a key stands for.
func readKey(key, v []byte) (keyRecord, bool) {
	var k keyRecord
	body, ok := unseal(key, v)
	ok = ok && json.Unmarshal(body, &k) == nil
	return k, ok
}

// addKeys adds to what was read of a file its good keys, if it is to be begun again.
func (s *salvage) addKeys(db *bolt.DB) {
	s.keys = map[string]keyRecord{}
	// What is bad has been told already; more than the keys before it nobody can read.
	_ = guard(db.Path(), func() error {
		return db.View(func(tx *bolt.Tx) error {
			b := tx.Bucket(bucketKeys)
			return b.ForEach(func(key, v []byte) error { // a search would miss good neighbours of one that is out of order
				if k, ok := readKey(key, v); ok {
					s.keys[string(key)] = k
				}
				return nil
			})
		})
	})
}

// placedAnew has the keys of the kept records above number n answer with their new seqs, once they have them: the ring went back and
// has lost the old ones. The caller holds mu.
func (o *Outbox) placedAnew(n uint64) error {
	for n++; n <= o.durable; {
		run, err := o.readFile(n, groupEvents, groupBytes)
		if err != nil {
			return err
		}
		for _, k := range run {
			if k.key != "" {
				p := place{o.origin, k.number}
				o.keyed[p] = k.key
				o.seqs = append(o.seqs, keySeq{k.key, p, 0}) // the file, too, is to forget the old one
			}
		}
		n += uint64(len(run))
	}
	return nil
}

// keysToKeep are the keys of a damaged file whose events are not lost with it: those of good records, made from these where the
// key itself is bad, and those of events that have their place.
func (s salvage) keysToKeep() map[string]keyRecord {
	out, have := map[string]keyRecord{}, map[place]bool{}
	add := func(k kept, of event.Origin) {
		if of == "" {
			return
		}
		have[place{of, k.number}] = true
		if d, err := event.DecodeDraft(k.draft); err == nil && k.key != "" {
			out[k.key] = keyRecord{Origin: of, Number: k.number, Digest: keyDigest(d), At: k.at}
		}
	}
	for _, k := range s.records {
		add(k, s.head.Origin)
	}
	for _, k := range s.carry {
		add(k, k.of)
	}
	for key, k := range s.keys {
		p := place{k.Origin, k.Number}
		placed := k.Seq != 0 || k.Origin == s.head.Origin && k.Number <= s.head.Acked || s.head.Origin != "" && k.Origin != s.head.Origin
		if placed && !s.lost[p] || have[p] {
			out[key] = k
		}
	}
	return out
}
