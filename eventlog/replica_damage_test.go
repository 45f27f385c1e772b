package eventlog

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"

	bolt "go.etcd.io/bbolt"
	"pgregory.net/rapid"

	"github.com/ringagent/ringagent/eventlog/event"
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

// damageAt flips a bit in the index of a block, or in a record of it.
func damageAt(t testing.TB, file string, at ...uint64) {
	t.Helper()
	if err := editLog(file, func(b *bolt.Bucket) error {
		for _, k := range at {
			if err := b.Put(beKey(k), flipped(b.Get(beKey(k)), crcSize+5)); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// TestWhatNobodyHasKeepsNothingElseFromRepair: a peer has dropped one bad block and has another.
func TestWhatNobodyHasKeepsNothingElseFromRepair(t *testing.T) {
	t.Parallel()
	ring, dir := filled("x", 100), t.TempDir()
	file := inTwenties(t, dir, ring)
	damageAt(t, file, 21, 61)
	peer, _ := replicaAt(t, t.TempDir(), ring, func(o *ReplicaOptions) { o.Retention = func() Retention { return Retention{Count: 50} } })
	peer.Expect(100)
	eventually(t, "cut", func() bool { return peer.Status().Oldest == 51 })
	r, _ := replicaAt(t, dir, &liar{modelRing: ring, near: []Puller{peer}}, nil)
	for _, after := range []uint64{20, 60} {
		var bad *CorruptError
		if _, err := r.Read(after, 1); !errors.As(err, &bad) {
			t.Fatal(err)
		}
	}
	eventually(t, "repaired", func() bool {
		got, err := r.Read(60, 20)
		return err == nil && len(got) == 20
	})
}

// TestRetentionPassesWhatNobodyCanRepair once what follows on it is to go, too, and counts what is left.
func TestRetentionPassesWhatNobodyCanRepair(t *testing.T) {
	t.Parallel()
	for name, at := range map[string][]uint64{"the oldest": {1}, "in the middle": {41}, "neighbours": {21, 41}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ring, dir, alarms := filled("x", 100), t.TempDir(), &alarmList{}
			file := inTwenties(t, dir, ring)
			damageAt(t, file, at...)
			r, _ := replicaAt(t, dir, nil, func(o *ReplicaOptions) {
				o.Alarm = alarms.add
				o.Retention = func() Retention { return Retention{Count: 30} }
			})
			_, _ = r.Read(at[0]-1, 1)
			eventually(t, "cut", func() bool { return r.Status().Oldest == 71 })
			if res, err := r.Verify(t.Context()); err != nil || !res.OK {
				t.Error(res, err)
			}
			want := int64(0)
			for _, e := range ring.log[70:] {
				want += int64(crcSize + e.bodySize())
			}
			if s := r.Status(); s.Bytes != want || s.Last != 100 {
				t.Errorf("%+v, not %d bytes", s, want)
			}
			eventually(t, "the alarm to end", func() bool { return alarms.has(AlarmReplicaCorrupt, true) })
		})
	}
	t.Run("not before its time", func(t *testing.T) {
		t.Parallel()
		ring, dir := filled("x", 100), t.TempDir()
		file := inTwenties(t, dir, ring)
		damageAt(t, file, 21)
		r, _ := replicaAt(t, dir, nil, func(o *ReplicaOptions) { o.Retention = func() Retention { return Retention{Count: 65} } })
		eventually(t, "cut", func() bool { return r.Status().Oldest > 1 })
		if s := r.Status(); s.Oldest != 21 {
			t.Errorf("%+v", s)
		}
	})
}

// TestBytesAreCountedAgain when what was bad or missing at the start is repaired.
func TestBytesAreCountedAgain(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func(b *bolt.Bucket) error{
		"missing": func(b *bolt.Bucket) error { return rekey(21, 21|1<<40)(b) },
		"beside":  func(b *bolt.Bucket) error { return rekey(41, 9)(b) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ring, dir := filled("x", 100), t.TempDir()
			file := inTwenties(t, dir, ring)
			if err := editLog(file, func(b *bolt.Bucket) error {
				return errors.Join(damage(b), b.Put(beKey(81), flipped(b.Get(beKey(81)), crcSize+5))) // and the end, so that all is counted
			}); err != nil {
				t.Fatal(err)
			}
			r, _ := replicaAt(t, dir, ring, nil)
			r.Expect(100)
			whole(t, r, ring)
			want := int64(0)
			for _, e := range ring.log {
				want += int64(crcSize + e.bodySize())
			}
			eventually(t, fmt.Sprint(want, " bytes"), func() bool { return r.Status().Bytes == want })
		})
	}
}

// TestFindHasWhatIsBadRepaired: it may be the only one who looks there.
func TestFindHasWhatIsBadRepaired(t *testing.T) {
	t.Parallel()
	ring, dir := filled("x", 100), t.TempDir()
	file := inTwenties(t, dir, ring)
	damageAt(t, file, 41)
	r, _ := replicaAt(t, dir, ring, nil)
	eventually(t, "found", func() bool {
		found, complete, err := r.Find(t.Context(), "o", 1, 100)
		return err == nil && complete && len(found) == 100
	})
}

// TestAppendThatFailedAndWasMade: its fsync failed, but the records are in the file. Whoever waits for them is told.
func TestAppendThatFailedAndWasMade(t *testing.T) {
	t.Parallel()
	ring, dir := filled("x", 20), t.TempDir()
	failed := false
	var seen atomic.Uint64
	r, _ := replicaAt(t, dir, nil, func(o *ReplicaOptions) {
		o.OnAppend = func(rs []event.Record) { seen.Store(rs[len(rs)-1].Seq) }
		o.hooks.committed = func() error {
			if failed {
				return nil
			}
			failed = true
			return syscall.EIO
		}
	})
	r.Offer(ring.log)
	if err := r.WaitDurable(t.Context(), 20); err != nil {
		t.Fatal(err)
	}
	eventually(t, "told", func() bool { return seen.Load() == 20 })
}

// TestKeyWhoseLengthWasFlipped stands behind the right key and before the next number's.
func TestKeyWhoseLengthWasFlipped(t *testing.T) {
	t.Parallel()
	for _, met := range []uint64{41, 46} { // which of its records a reader meets first
		t.Run(fmt.Sprint(met), func(t *testing.T) {
			t.Parallel()
			keyLengthFlipped(t, met)
		})
	}
}

func keyLengthFlipped(t *testing.T, met uint64) {
	ring, dir, alarms := filled("x", 100), t.TempDir(), &alarmList{}
	file := inTwenties(t, dir, ring)
	if err := editLog(file, func(b *bolt.Bucket) error {
		v := bytes.Clone(b.Get(beKey(41)))
		return errors.Join(b.Delete(beKey(41)), b.Put(append(beKey(41), v[0]), v[1:]))
	}); err != nil {
		t.Fatal(err)
	}
	r, _ := replicaAt(t, dir, ring, func(o *ReplicaOptions) { o.Alarm = alarms.add })
	_, _ = r.Read(met-1, 1)
	whole(t, r, ring)
	eventually(t, "the end of the alarm", func() bool { return alarms.has(AlarmReplicaCorrupt, true) })
	if alarms.has(AlarmReplicaDegraded, false) {
		t.Error("the whole file was copied for one block")
	}
	for n := range uint64(100) {
		if got, err := r.Read(n, 1); err != nil || len(got) != 1 {
			t.Error(n, err)
		}
	}
}

// TestKeysGoOutOfOrderWhileTheFileIsUsed: what is put into such a file need not be found in it.
func TestKeysGoOutOfOrderWhileTheFileIsUsed(t *testing.T) {
	t.Parallel()
	ring, dir := filled("x", 100), t.TempDir()
	file := inTwenties(t, dir, ring)
	r, _ := replicaAt(t, dir, ring, nil)
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	index := appendBlock(nil, 41, ring.log[40:60])[:crcSize+4]
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for at := 0; ; at++ {
		i := bytes.Index(b[at:], slices.Concat(beKey(41), index))
		if i < 0 {
			break
		}
		at += i
		if _, err := f.WriteAt([]byte{1}, int64(at)); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "whole from either side", func() bool {
		good := 0
		for n := range uint64(100) {
			if got, err := r.Read(n, 1); err == nil && len(got) == 1 {
				good++
			}
		}
		return good == 100
	})
	whole(t, r, ring)
}

// TestAllIsTakenOffALargeLog: in a bucket with more than one page that was emptied in the same transaction, bbolt's cursor must not
// be asked for the last key.
func TestAllIsTakenOffALargeLog(t *testing.T) {
	t.Parallel()
	file := inTwenties(t, t.TempDir(), filled("x", 2000))
	done := make(chan error, 1)
	go func() {
		done <- editLog(file, func(b *bolt.Bucket) error {
			if err := dropAfter(b, 0); err != nil {
				return err
			}
			if n, unsure := countBytes(b, replicaHead{}); n != 0 || unsure {
				return fmt.Errorf("%d bytes are left, unsure %v", n, unsure)
			}
			return dropAfter(b, 0)
		})
	}()
	eventually(t, "an end", func() bool {
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
			return true
		default:
			return false
		}
	})
}
