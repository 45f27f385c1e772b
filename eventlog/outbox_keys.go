package eventlog

import (
	"bytes"
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
			return nil // whoever asks for it, or opens the file, finds out
		}
		f := fates[k.Origin]
		if f == nil {
			if k.At.Before(oldest) {
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
	for _, c := range changes {
		if c.rec == nil {
			err = errors.Join(err, keys.Delete(c.key))
		} else {
			err = errors.Join(err, putJSON(keys, c.key, c.rec))
		}
	}
	return err
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
		placed := k.Seq != 0 || k.Origin == s.head.Origin && k.Number <= s.head.Acked || s.head.Origin != "" && k.Origin != s.head.Origin
		if placed || have[place{k.Origin, k.Number}] {
			out[key] = k
		}
	}
	return out
}
