package eventlog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// breakPage flips a bit in the header of a bucket's root page, in the file that db has mapped.
func breakPage(t testing.TB, db *bolt.DB, bucket []byte) {
	t.Helper()
	at := int64(0)
	if err := db.View(func(tx *bolt.Tx) error {
		at = int64(tx.Bucket(bucket).RootPage()) * int64(os.Getpagesize())
		return nil
	}); err != nil || at == 0 {
		t.Fatal(at, err)
	}
	f, err := os.OpenFile(db.Path(), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, at+8); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{b[0] ^ 4}, at+8); err != nil {
		t.Fatal(err)
	}
}

// TestPageThatGoesBadWhileItIsUsed: the process lives, and the copy is whole again.
func TestPageThatGoesBadWhileItIsUsed(t *testing.T) {
	t.Parallel()
	ring, alarms := filled("x", 2000), &alarmList{}
	r, _ := replicaAt(t, t.TempDir(), ring, func(o *ReplicaOptions) { o.Alarm = alarms.add })
	r.Offer(ring.log[:1900])
	if err := r.WaitDurable(t.Context(), 1900); err != nil {
		t.Fatal(err)
	}
	breakPage(t, r.db, bucketLog)
	r.Offer(ring.log[1900:])
	eventually(t, "alarm", func() bool { return alarms.has(AlarmReplicaDegraded, false) })
	whole(t, r, ring)
	eventually(t, "the end of the alarm", func() bool { return alarms.has(AlarmReplicaDegraded, true) })
}

// outOfOrder flips a high bit of a key where it stands in the file, which no longer sorts then.
func outOfOrder(t testing.TB, file string, key uint64) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	// A block's key stands before its checksum and the count of its records.
	db, err := bolt.Open(file, 0o600, options())
	if err != nil {
		t.Fatal(err)
	}
	var block []byte
	if err := db.View(func(tx *bolt.Tx) error {
		block = slices.Concat(beKey(key), bytes.Clone(tx.Bucket([]byte("blocks")).Get(beKey(key))))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(b, block) {
		t.Fatalf("block %d is not in the file", key)
	}
	wrong := slices.Clone(block)
	binary.BigEndian.PutUint64(wrong, key^1<<60)
	if err := os.WriteFile(file, bytes.ReplaceAll(b, block, wrong), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestKeyOutOfOrderCostsItsBlockOnly: bbolt does not open such a file, though everything else in it can be read.
func TestKeyOutOfOrderCostsItsBlockOnly(t *testing.T) {
	t.Parallel()
	t.Run("replica", func(t *testing.T) {
		t.Parallel()
		ring, dir, alarms := filled("x", 60), t.TempDir(), &alarmList{}
		file := inTwenties(t, dir, ring)
		outOfOrder(t, file, 21)
		r, stop := replicaAt(t, dir, nil, func(o *ReplicaOptions) { o.Alarm = alarms.add })
		if s := r.Status(); s.Oldest != 1 || s.Last != 60 || !alarms.has(AlarmReplicaCorrupt, false) {
			t.Errorf("%+v", s)
		}
		for _, after := range []uint64{0, 40} {
			if got, err := r.Read(after, 20); err != nil || len(got) != 20 {
				t.Error(after, len(got), err)
			}
		}
		stop()
		r, _ = replicaAt(t, dir, ring, nil)
		_, _ = r.Read(20, 1)
		whole(t, r, ring)
	})
	t.Run("outbox", func(t *testing.T) {
		t.Parallel()
		ring, dir, alarms := newModelRing(), t.TempDir(), &alarmList{}
		ring.down = true
		o, stop := outboxAt(t, dir, ring, nil)
		publishAll(t, o, numbered("a", 4)) // a block each
		stop()
		outOfOrder(t, filepath.Join(dir, "outbox.db"), 2)
		o, _ = outboxAt(t, dir, ring, func(p *OutboxOptions) { p.Alarm = alarms.add })
		if !alarms.has(AlarmOutboxDamaged, false) {
			t.Error("no alarm")
		}
		ring.set(func() { ring.down = false })
		publishAll(t, o, []string{"b"})
		eventually(t, "placed", func() bool { return slices.Contains(ring.texts(t), "b") })
		eventually(t, "acknowledged", func() bool { s := o.Status(); return s.Acked == s.Last })
		if diff := cmp.Diff([]string{"a0", "a2", "a3", "b"}, sorted(ring.texts(t))); diff != "" {
			t.Error(diff)
		}
	})
}

// TestKillWhileAFileIsReplaced: wherever a file's replacement stops, nothing that was accepted is lost.
func TestKillWhileAFileIsReplaced(t *testing.T) {
	t.Parallel()
	ring, dir := newModelRing(), t.TempDir()
	file := filepath.Join(dir, "outbox.db")
	ring.down = true
	_, stop := outboxAt(t, dir, ring, nil)
	stop()
	for i := range 3 {
		o, stop := outboxAt(t, dir, ring, nil)
		publishAll(t, o, []string{fmt.Sprint("a", i)})
		stop()
		switch i {
		case 0: // the new file is there, the old one not yet moved away
			copyFile(t, file, file+nextSuffix)
		case 1: // the old file has been moved away
			if err := os.Rename(file, file+nextSuffix); err != nil {
				t.Fatal(err)
			}
		}
	}
	// A damaged file stays where it is as long as the new one cannot be made.
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, flipAll(t, b, `"text":"a1"`), 0o600); err != nil {
		t.Fatal(err)
	}
	inTheWay := []string{file + ".new", file + nextSuffix + ".new"}
	for _, d := range inTheWay {
		if err := os.MkdirAll(filepath.Join(d, "x"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	opt := OutboxOptions{Path: file, Quarantine: filepath.Join(dir, "quarantine")}
	if o, err := OpenOutbox(opt); err == nil {
		t.Error("opened", o.Status())
	}
	for _, d := range inTheWay {
		if err := os.RemoveAll(d); err != nil {
			t.Fatal(err)
		}
	}
	o, _ := outboxAt(t, dir, ring, nil)
	ring.set(func() { ring.down = false })
	publishAll(t, o, []string{"b"})
	eventually(t, "placed", func() bool { return len(ring.texts(t)) == 3 })
	if diff := cmp.Diff([]string{"a0", "a2", "b"}, sorted(ring.texts(t))); diff != "" {
		t.Error(diff)
	}
}

func sorted(s []string) []string {
	slices.Sort(s)
	return s
}

// TestPageThatAReaderFindsBad: nobody writes, so it is the reader who has the file begun again.
func TestPageThatAReaderFindsBad(t *testing.T) {
	t.Parallel()
	ring, alarms := filled("x", 2000), &alarmList{}
	r, _ := replicaAt(t, t.TempDir(), ring, func(o *ReplicaOptions) { o.Alarm = alarms.add })
	r.Expect(2000)
	caughtUp(t, r, ring)
	breakPage(t, r.db, bucketLog)
	if _, err := r.Read(7, 1); err == nil {
		t.Error("the page was read")
	}
	whole(t, r, ring)
	eventually(t, "alarms", func() bool { return alarms.has(AlarmReplicaDegraded, true) && alarms.has(AlarmReplicaCorrupt, false) })
}

// TestFlippedBitInAHeadCostsNothing, not even the records of a ring of one.
func TestFlippedBitInAHeadCostsNothing(t *testing.T) {
	t.Parallel()
	for _, key := range [][]byte{infoHead, infoAgain} {
		t.Run(string(key), func(t *testing.T) {
			t.Parallel()
			ring, dir := filled("x", 60), t.TempDir()
			file := inTwenties(t, dir, ring)
			db, err := bolt.Open(file, 0o600, options())
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(db.Update(func(tx *bolt.Tx) error {
				b := tx.Bucket(bucketInfo)
				return b.Put(key, flipped(b.Get(key), 9))
			}), db.Close()); err != nil {
				t.Fatal(err)
			}
			r, _ := replicaAt(t, dir, nil, nil)
			if s := r.Status(); s.Last != 60 || s.Oldest != 1 {
				t.Errorf("%+v", s)
			}
			if res, err := r.Verify(t.Context()); err != nil || !res.OK {
				t.Error("not written again:", res, err)
			}
			damage := func(tx *bolt.Tx) error {
				b := tx.Bucket(bucketInfo)
				return b.Put(key, flipped(b.Get(key), 9))
			}
			if err := r.db.Update(damage); err != nil {
				t.Fatal(err)
			}
			if res, err := r.Verify(t.Context()); err != nil || res.OK {
				t.Error("not found:", res, err)
			}
			whole(t, r, ring)
		})
	}
}

// TestWhatTheMachineCannotDoIsNoDamage: files are begun again only when they are bad, not when they cannot be looked at now.
func TestWhatTheMachineCannotDoIsNoDamage(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err error
		bad bool
	}{{syscall.ENOMEM, false}, {os.NewSyscallError("mmap", syscall.ENOMEM), false}, {&fs.PathError{Err: syscall.EMFILE}, false}, {bolterrors.ErrInvalid, true}} {
		if err := openError("x", c.err); damaged(err) != c.bad {
			t.Errorf("%v: %v", c.err, err)
		}
	}
	path := filepath.Join(t.TempDir(), "outbox.db")
	db, _, err := openFile(path, outboxBuckets...)
	if err != nil {
		t.Fatal(err)
	}
	why := &DamagedError{Path: path}
	if _, err := saveOutbox(path, why); !errors.Is(err, ErrInUse) {
		t.Errorf("a file that another has open: %v", err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := saveOutbox(path, why); !errors.Is(err, why) {
		t.Errorf("a file that can be read: %v", err)
	}
}
