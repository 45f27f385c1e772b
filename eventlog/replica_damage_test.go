package eventlog

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"testing"

	bolt "go.etcd.io/bbolt"
	"pgregory.net/rapid"
)

// inTwenties is the file of a replica with blocks of twenty records.
func inTwenties(t testing.TB, dir string, ring *modelRing) (file string) {
	t.Helper()
	r, stop := replicaAt(t, dir, nil, nil)
	for at := 0; at < len(ring.log); at += 20 {
		r.Offer(ring.log[at : at+20])
		eventually(t, "stored", func() bool { return r.Durable() == uint64(at+20) })
	}
	stop()
	return filepath.Join(dir, "events.db")
}

func editLog(file string, do func(b *bolt.Bucket) error) error {
	db, err := bolt.Open(file, 0o600, options())
	if err != nil {
		return err
	}
	return errors.Join(db.Update(func(tx *bolt.Tx) error { return do(tx.Bucket(bucketLog)) }), db.Close())
}

// rekey is what a flipped bit in a block's key does.
func rekey(from, to uint64) func(b *bolt.Bucket) error {
	return func(b *bolt.Bucket) error {
		v := bytes.Clone(b.Get(beKey(from)))
		return errors.Join(b.Delete(beKey(from)), b.Put(beKey(to), v))
	}
}

// whole waits until the replica has all that the ring has, and nothing wrong.
func whole(t testing.TB, r *Replica, ring *modelRing) {
	t.Helper()
	eventually(t, "a whole copy", func() bool {
		res, err := r.Verify(t.Context())
		return err == nil && res.OK && res.LastSeq == ring.end().Seq && res.Hash == ring.end().Hash
	})
}

func TestBlockUnderAWrongKey(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ from, to uint64 }{{41, 40}, {41, 33}, {41, 9}, {41, 41 | 64}, {41, 41 | 1<<40}, {21, 20}, {21, 5}, {21, 29}} {
		t.Run(fmt.Sprint(tc), func(t *testing.T) {
			t.Parallel()
			ring, dir := filled("x", 60), t.TempDir()
			file := inTwenties(t, dir, ring)
			if err := editLog(file, rekey(tc.from, tc.to)); err != nil {
				t.Fatal(err)
			}
			r, _ := replicaAt(t, dir, ring, nil)
			r.Expect(60)
			whole(t, r, ring)
		})
	}
}

// TestWrongKeyBelowTheCut: nothing of the log is left that could be read, and a block lies where none can be.
func TestWrongKeyBelowTheCut(t *testing.T) {
	t.Parallel()
	ring, dir := filled("x", 60), t.TempDir()
	file := inTwenties(t, dir, ring)
	r, stop := replicaAt(t, dir, ring, func(o *ReplicaOptions) { o.Retention = func() Retention { return Retention{Count: 20} } })
	eventually(t, "cut", func() bool { return r.Status().Oldest == 41 })
	stop()
	if err := editLog(file, rekey(41, 9)); err != nil {
		t.Fatal(err)
	}
	r, _ = replicaAt(t, dir, ring, nil)
	r.Expect(60)
	whole(t, r, ring)
}

// TestNeighbouringBlocksAreRepaired, whichever of them is noticed first.
func TestNeighbouringBlocksAreRepaired(t *testing.T) {
	t.Parallel()
	for _, first := range []uint64{20, 40, 60} {
		t.Run(fmt.Sprint(first), func(t *testing.T) {
			t.Parallel()
			ring, dir, alarms := filled("x", 100), t.TempDir(), &alarmList{}
			file := inTwenties(t, dir, ring)
			if err := editLog(file, func(b *bolt.Bucket) error {
				for _, k := range []uint64{21, 41, 61} {
					if err := b.Put(beKey(k), flipped(b.Get(beKey(k)), crcSize+5)); err != nil {
						return err
					}
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			r, _ := replicaAt(t, dir, ring, func(o *ReplicaOptions) { o.Alarm = alarms.add })
			_, _ = r.Read(first, 1)
			whole(t, r, ring)
			eventually(t, "the alarm to end", func() bool { return alarms.has(AlarmReplicaCorrupt, true) })
		})
	}
}

// TestAnyDamageOfABlockIsRepaired flips bits of keys and values, a few at a time.
func TestAnyDamageOfABlockIsRepaired(t *testing.T) {
	t.Parallel()
	ring := filled("x", 100)
	rapid.Check(t, func(rt *rapid.T) {
		dir := t.TempDir()
		file := inTwenties(t, dir, ring)
		for range rapid.IntRange(1, 3).Draw(rt, "flips") {
			key := rapid.SampledFrom([]uint64{1, 21, 41, 61, 81}).Draw(rt, "block")
			inKey := rapid.IntRange(0, 4).Draw(rt, "in key") == 0
			bit := rapid.IntRange(0, 7).Draw(rt, "bit")
			at := rapid.IntRange(0, 400).Draw(rt, "at")
			if err := editLog(file, func(b *bolt.Bucket) error {
				v := bytes.Clone(b.Get(beKey(key)))
				if v == nil {
					return nil // went with its key
				}
				if inKey {
					return rekey(key, key^1<<bit)(b)
				}
				v[at%len(v)] ^= 1 << bit
				return b.Put(beKey(key), v)
			}); err != nil {
				rt.Fatal(err)
			}
		}
		r, stop := replicaAt(t, dir, ring, nil)
		r.Expect(100)
		whole(t, r, ring)
		stop()
	})
}

// TestCutThatIsNotToldYet: between the transaction that drops old records and the moment in which the writer tells of it they
// are gone, and nothing is corrupt.
func TestCutThatIsNotToldYet(t *testing.T) {
	t.Parallel()
	ring, dir, alarms := filled("x", 60), t.TempDir(), &alarmList{}
	file := inTwenties(t, dir, ring)
	r, err := OpenReplica(ReplicaOptions{Path: file, Quarantine: dir, Alarm: alarms.add})
	if err != nil {
		t.Fatal(err)
	}
	defer r.db.Close()
	told := r.head
	told.Cut, told.CutHash = 30, ring.log[29].Hash
	if err := r.db.Update(func(tx *bolt.Tx) error {
		return errors.Join(dropBefore(tx.Bucket(bucketLog), 31), putJSON(tx.Bucket(bucketInfo), infoHead, told))
	}); err != nil {
		t.Fatal(err)
	}
	var gap *Compacted
	if _, err := r.Read(0, 10); !errors.As(err, &gap) || gap.To != 30 {
		t.Error(err)
	}
	if res, err := r.Verify(t.Context()); err != nil || !res.OK || res.Oldest != 31 {
		t.Error(res, err)
	}
	if _, _, err := r.Find(t.Context(), "o", 1, 60); err != nil {
		t.Error(err)
	}
	if alarms.has(AlarmReplicaCorrupt, false) {
		t.Error("an alarm was raised")
	}
}
