package eventlog

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	bolt "go.etcd.io/bbolt"

	"github.com/ringagent/ringagent/eventlog/event"
)

type told struct {
	text string
	seq  uint64
	err  error
}

// waiting publishes each text and waits for its place, until ctx ends.
func waiting(ctx context.Context, t testing.TB, o *Outbox, texts []string) <-chan told {
	t.Helper()
	out := make(chan told, len(texts))
	for _, x := range texts {
		last := o.Status().Last
		go func() {
			_, seq, err := o.PublishWait(ctx, note(x), external)
			out <- told{x, seq, err}
		}()
		eventually(t, "stored", func() bool { return o.Status().Last > last })
	}
	return out
}

// TestPublishersOfADamagedFileAreTold: the file goes bad while events wait in it, the ring being out of reach. Those that can
// be read get another number, and their publishers the place of that; the others' are told that theirs is lost.
func TestPublishersOfADamagedFileAreTold(t *testing.T) {
	t.Parallel()
	ring, dir, alarms := newModelRing(), t.TempDir(), &alarmList{}
	ring.down = true
	o, _ := outboxAt(t, dir, ring, func(p *OutboxOptions) { p.Alarm = alarms.add })
	results := waiting(t.Context(), t, o, numbered("a", 5))
	o.mu.Lock()
	o.tail = nil // as if more had come since
	bad := o.db
	o.mu.Unlock()
	if err := bad.Update(func(tx *bolt.Tx) error {
		b := tx.Bucket(bucketDrafts)
		return b.Put(beKey(3), flipped(b.Get(beKey(3)), 60))
	}); err != nil {
		t.Fatal(err)
	}
	ring.set(func() { ring.down = false })
	for range 5 {
		switch r := <-results; {
		case r.text == "a2":
			if !errors.Is(r.err, ErrNotStored) {
				t.Error(r)
			}
		case r.err != nil || noteText(t, ring.records(t)[r.seq-1]) != r.text:
			t.Error(r)
		}
	}
	if !alarms.has(AlarmOutboxDamaged, false) {
		t.Error("no alarm")
	}
	if diff := cmp.Diff([]string{"a0", "a1", "a3", "a4"}, ring.texts(t)); diff != "" {
		t.Error(diff)
	}
}

// TestPublishersOfADamagedFileWhoseEventsStand: the events were placed, but their answers lost.
func TestPublishersOfADamagedFileWhoseEventsStand(t *testing.T) {
	t.Parallel()
	ring := newModelRing()
	ring.lose = func(Batch) bool { return true }
	var down atomic.Bool
	var broken atomic.Bool
	o, _ := outboxAt(t, t.TempDir(), ring, func(p *OutboxOptions) {
		p.Finder = shyFinder{ring, &down}
		p.hooks.commit = func() error {
			if broken.CompareAndSwap(true, false) {
				return &DamagedError{Detail: "a page is bad"}
			}
			return nil
		}
	})
	down.Store(true)
	results := waiting(t.Context(), t, o, numbered("a", 3))
	eventually(t, "placed", func() bool { return len(ring.texts(t)) == 3 })
	o.mu.Lock()
	origin := o.origin
	db := o.db
	o.mu.Unlock()
	if err := db.Update(func(tx *bolt.Tx) error {
		m := tx.Bucket(bucketMeta)
		return m.Put(metaHead, flipped(m.Get(metaHead), 9))
	}); err != nil {
		t.Fatal(err)
	}
	broken.Store(true)
	if _, err := o.Publish(t.Context(), note("b"), external); err != nil && !errors.Is(err, ErrNotStored) {
		t.Fatal(err)
	}
	eventually(t, "another origin", func() bool { return o.Status().Origin != origin })
	down.Store(false)
	ring.set(func() { ring.lose = nil })
	for range 3 {
		if r := <-results; r.err != nil || noteText(t, ring.records(t)[r.seq-1]) != r.text {
			t.Error(r)
		}
	}
	eventually(t, "b", func() bool { return slices.Contains(ring.texts(t), "b") })
	if diff := cmp.Diff([]string{"a0", "a1", "a2", "b"}, ring.texts(t)); diff != "" {
		t.Error(diff)
	}
}

// shyFinder finds nothing while down.
type shyFinder struct {
	*modelRing
	down *atomic.Bool
}

func (s shyFinder) Find(ctx context.Context, o event.Origin, from, to uint64) ([]event.Record, bool, error) {
	if s.down.Load() {
		return nil, false, nil
	}
	return s.modelRing.Find(ctx, o, from, to)
}

// TestKeyOfAFailedCommit: the event was not accepted but may appear; asking again under the same key gives that one.
func TestKeyOfAFailedCommit(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]error{"full": syscall.ENOSPC, "failing": syscall.EIO} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ring := newModelRing()
			var broken atomic.Bool
			o, _ := outboxAt(t, t.TempDir(), ring, func(p *OutboxOptions) {
				p.hooks.commit = func() error {
					if broken.Load() {
						return fault
					}
					return nil
				}
			})
			broken.Store(true)
			keyed := PublishOptions{By: external.By, Key: "k"}
			if _, err := o.Publish(t.Context(), note("x"), keyed); !errors.Is(err, ErrNotStored) {
				t.Fatal(err)
			}
			broken.Store(false)
			eventually(t, "accepted", func() bool {
				_, seq, err := o.PublishWait(t.Context(), note("x"), keyed)
				return err == nil && seq == 1
			})
			if _, err := o.Publish(t.Context(), note("y"), keyed); !errors.Is(err, ErrKeyTaken) {
				t.Error(err)
			}
			if diff := cmp.Diff([]string{"x"}, ring.texts(t)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestKeyThatTheFileCannotHold is refused; nobody else suffers from it.
func TestKeyThatTheFileCannotHold(t *testing.T) {
	t.Parallel()
	ring := newModelRing()
	o, _ := outboxAt(t, t.TempDir(), ring, nil)
	for _, tc := range []struct {
		bytes int
		ok    bool
	}{{MaxKeyBytes, true}, {MaxKeyBytes + 1, false}, {bolt.MaxKeySize + 1, false}} {
		_, _, err := o.PublishWait(t.Context(), note("x"), PublishOptions{By: external.By, Key: strings.Repeat("k", tc.bytes)})
		if p := (*event.ProblemError)(nil); (err == nil) != tc.ok || err != nil && !errors.As(err, &p) {
			t.Error(tc, err)
		}
	}
	if s := o.Status(); s.Degraded != nil || s.Last != 1 {
		t.Errorf("%+v", s)
	}
}

// TestChangeThatFailedAndWasMade: the fsync of a new origin, or of what a damaged file had, fails, and the change is on the disk
// all the same.
func TestChangeThatFailedAndWasMade(t *testing.T) {
	t.Parallel()
	for _, fault := range []error{syscall.ENOSPC, syscall.EIO} {
		t.Run(fmt.Sprint("new origin, ", fault), func(t *testing.T) {
			t.Parallel()
			ring, dir := newModelRing(), t.TempDir()
			file := filepath.Join(dir, "outbox.db")
			o, stop := outboxAt(t, dir, ring, nil)
			publishAll(t, o, []string{"a"})
			eventually(t, "placed", func() bool { return o.Status().Acked == 1 })
			stop()
			copyFile(t, file, file+".old")
			o, stop = outboxAt(t, dir, ring, nil)
			publishAll(t, o, numbered("b", 3))
			eventually(t, "placed", func() bool { return o.Status().Acked == 4 })
			stop()
			copyFile(t, file+".old", file)

			ring.set(func() { ring.down = true })
			var armed, failed atomic.Bool
			o, _ = outboxAt(t, dir, ring, func(p *OutboxOptions) {
				p.hooks.committed = func() error {
					if armed.CompareAndSwap(true, false) {
						failed.Store(true)
						return fault
					}
					return nil
				}
			})
			results := waiting(t.Context(), t, o, []string{"c0", "c1"})
			armed.Store(true)
			ring.set(func() { ring.down = false })
			for range 2 {
				if r := <-results; r.err != nil || noteText(t, ring.records(t)[r.seq-1]) != r.text {
					t.Error(r)
				}
			}
			if !failed.Load() {
				t.Error("nothing failed")
			}
			publishAll(t, o, []string{"d"})
			eventually(t, "placed", func() bool { return slices.Contains(ring.texts(t), "d") })
			if diff := cmp.Diff([]string{"a", "b0", "b1", "b2", "c0", "c1", "d"}, ring.texts(t)); diff != "" {
				t.Error(diff)
			}
		})
		t.Run(fmt.Sprint("saved records, ", fault), func(t *testing.T) {
			t.Parallel()
			ring, dir := newModelRing(), t.TempDir()
			ring.down = true
			o, stop := outboxAt(t, dir, ring, nil)
			publishAll(t, o, numbered("a", 3))
			stop()
			outOfOrder(t, filepath.Join(dir, "outbox.db"), 2)
			var armed atomic.Bool
			o, stop = outboxAt(t, dir, ring, func(p *OutboxOptions) {
				p.hooks.committed = func() error {
					if armed.CompareAndSwap(true, false) {
						return fault
					}
					return nil
				}
			})
			armed.Store(true)
			ring.set(func() { ring.down = false })
			eventually(t, "placed", func() bool { return len(ring.texts(t)) == 2 })
			eventually(t, "published", func() bool {
				_, err := o.Publish(t.Context(), note("b"), external)
				return err == nil
			})
			eventually(t, "placed", func() bool { return slices.Contains(ring.texts(t), "b") })
			stop()
			o, _ = outboxAt(t, dir, ring, nil)
			publishAll(t, o, []string{"c"})
			eventually(t, "placed", func() bool { return slices.Contains(ring.texts(t), "c") })
			if diff := cmp.Diff([]string{"a0", "a2", "b", "c"}, ring.texts(t)); diff != "" || armed.Load() {
				t.Error(diff, armed.Load())
			}
		})
	}
}

// TestOtherEventUnderOnesNumber: the directory was set back, and the replica brings what an earlier life has published under the
// numbers that are given out again.
func TestOtherEventUnderOnesNumber(t *testing.T) {
	t.Parallel()
	for _, key := range []string{"", "k"} {
		t.Run("key="+key, func(t *testing.T) {
			t.Parallel()
			ring, dir := newModelRing(), t.TempDir()
			file := filepath.Join(dir, "outbox.db")
			o, stop := outboxAt(t, dir, ring, nil)
			publishAll(t, o, []string{"a"})
			eventually(t, "placed", func() bool { return o.Status().Acked == 1 })
			stop()
			copyFile(t, file, file+".old")
			o, stop = outboxAt(t, dir, ring, nil)
			publishAll(t, o, []string{"b"})
			eventually(t, "placed", func() bool { return o.Status().Acked == 2 })
			stop()
			copyFile(t, file+".old", file)
			ring.set(func() { ring.down = true })
			o, _ = outboxAt(t, dir, ring, nil)
			result := make(chan told, 1)
			go func() {
				_, seq, err := o.PublishWait(t.Context(), note("c"), PublishOptions{By: external.By, Key: key})
				result <- told{"c", seq, err}
			}()
			eventually(t, "stored", func() bool { return o.Status().Last == 2 })
			o.Observe(ring.records(t))
			ring.set(func() { ring.down = false })
			if r := <-result; r.err != nil || noteText(t, ring.records(t)[r.seq-1]) != "c" {
				t.Error(r)
			}
		})
	}
}

// TestFileThatGoesBadTwice before what was saved the first time could be brought.
func TestFileThatGoesBadTwice(t *testing.T) {
	t.Parallel()
	ring, dir := newModelRing(), t.TempDir()
	file := filepath.Join(dir, "outbox.db")
	ring.down = true
	var o *Outbox
	var stop func()
	for i := range 3 {
		o, stop = outboxAt(t, dir, ring, nil)
		publishAll(t, o, numbered(fmt.Sprint("a", i), 3)) // a block each
		if i < 2 {
			stop()
			outOfOrder(t, file, 2)
		}
	}
	results := waiting(t.Context(), t, o, []string{"w0"})
	for range 2 { // and twice more while somebody waits
		origin := o.Status().Origin
		if err := o.db.Update(func(tx *bolt.Tx) error {
			m := tx.Bucket(bucketMeta)
			return m.Put(metaHead, flipped(m.Get(metaHead), 9))
		}); err != nil {
			t.Fatal(err)
		}
		o.distrust(t.Context(), &DamagedError{Detail: "a record is bad"})
		eventually(t, "another origin", func() bool { s := o.Status(); return s.Origin != origin && s.Degraded == nil })
	}
	ring.set(func() { ring.down = false })
	if r := <-results; r.err != nil || noteText(t, ring.records(t)[r.seq-1]) != r.text {
		t.Error(r)
	}
	eventually(t, "acknowledged", func() bool { s := o.Status(); return s.Acked == s.Last })
	if diff := cmp.Diff([]string{"a00", "a02", "a10", "a12", "a20", "a21", "a22", "w0"}, sorted(ring.texts(t))); diff != "" {
		t.Error(diff)
	}
}

// TestBeginningAgainMayFailHalfway: the new file is there and has all that the damaged one had, but could not be opened. The next
// try must not begin with less.
func TestBeginningAgainMayFailHalfway(t *testing.T) {
	t.Parallel()
	o := &Outbox{}
	o.origin, o.last, o.tail = "old", 5, []kept{{number: 5}}
	o.acked = 3
	all := []kept{{number: 1, of: "older"}, {number: 4, of: "old"}, {number: 5, of: "old"}}
	for name, c := range map[string]struct {
		s       salvage
		records int
	}{
		"whole":                       {salvage{head: outboxHead{Origin: "new", CarryOf: "old"}, carry: all}, 0},
		"its head is bad":             {salvage{head: outboxHead{Origin: "new"}, carry: all}, 0},
		"one stands in the log":       {salvage{head: outboxHead{Origin: "new", CarryOf: "old"}, carry: append(all[:3:3], kept{number: 3, of: "old"})}, 0},
		"one is bad, but in memory":   {salvage{head: outboxHead{Origin: "new", CarryOf: "old"}, carry: all[:2]}, 1},
		"one of an older file is bad": {salvage{head: outboxHead{Origin: "new", CarryOf: "old"}, carry: all[1:]}, 0},
	} {
		want := all
		if c.records == 1 {
			want = all[:2]
		}
		o.carry = all[:1]
		got := o.merge(c.s)
		slices.SortFunc(got.carry, func(a, b kept) int { return int(a.number) - int(b.number) })
		if diff := cmp.Diff(want, got.carry, cmp.AllowUnexported(kept{})); diff != "" || len(got.records) != c.records || got.head.Origin != "old" {
			t.Error(name, diff, got.records, got.head)
		}
	}
	o.carry = nil
	// What neither copy of the origin can be read of is this file's all the same.
	if got := o.merge(salvage{records: []kept{{number: 4}}}); len(got.records) != 2 {
		t.Error(got.records)
	}
}

// badFinder says a few times that its own file is damaged.
type badFinder struct {
	*modelRing
	left *atomic.Int64
}

func (f badFinder) Find(ctx context.Context, o event.Origin, from, to uint64) ([]event.Record, bool, error) {
	if f.left.Add(-1) >= 0 {
		return nil, false, fmt.Errorf("find: %w", &DamagedError{Path: "events.db"})
	}
	return f.modelRing.Find(ctx, o, from, to)
}

// TestDamageOfTheReplicaIsNotTheOutboxs: what the log's copy cannot say is asked again, and nobody is kept from publishing.
func TestDamageOfTheReplicaIsNotTheOutboxs(t *testing.T) {
	t.Parallel()
	ring, dir, alarms, left := newModelRing(), t.TempDir(), &alarmList{}, &atomic.Int64{}
	ring.down = true
	o, stop := outboxAt(t, dir, ring, nil)
	publishAll(t, o, numbered("a", 4))
	ring.set(func() { // they stand, and the outbox does not know
		ring.down = false
		ring.lose = func(Batch) bool { ring.down = len(ring.log) == 4; return true }
	})
	eventually(t, "placed", func() bool { return len(ring.texts(t)) == 4 })
	stop()
	outOfOrder(t, filepath.Join(dir, "outbox.db"), 2)
	ring.set(func() { ring.down, ring.lose = false, nil })
	left.Store(3)
	o, _ = outboxAt(t, dir, ring, func(p *OutboxOptions) { p.Alarm, p.Finder = alarms.add, badFinder{ring, left} })
	publishAll(t, o, []string{"b"})
	eventually(t, "placed", func() bool { return len(ring.texts(t)) >= 5 })
	if diff := cmp.Diff(append(numbered("a", 4), "b"), ring.texts(t)); diff != "" {
		t.Error(diff)
	}
	if left.Load() >= 0 || alarms.has(AlarmOutboxDegraded, false) {
		t.Errorf("degraded, or never asked: %d", left.Load())
	}
}

// TestReplicaThatCannotBeRead: nothing of this node travels until it is known what of the old origin stands. A copy of the log that
// stays unreadable does not keep it back for ever.
func TestReplicaThatCannotBeRead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ring, dir, left := newModelRing(), t.TempDir(), &atomic.Int64{}
		left.Store(1 << 40)
		o, stop := outboxAt(t, dir, ring, func(p *OutboxOptions) { p.Finder = badFinder{ring, left} })
		defer stop()
		publishAll(t, o, []string{"a"})
		time.Sleep(time.Second)
		o.mu.Lock()
		o.suspect = true
		o.mu.Unlock()
		o.AskAgain()
		publishAll(t, o, []string{"b"})
		time.Sleep(time.Minute)
		if !slices.Contains(ring.texts(t), "b") {
			t.Error("b has no place after a minute, though 2 s were to be enough")
		}
	})
}

// TestTrimmedMeanwhileIsNoDamage: the writer drops records first and tells of it then. Whoever looks for one of them in between must
// ask again, and not have the file begun again.
func TestTrimmedMeanwhileIsNoDamage(t *testing.T) {
	t.Parallel()
	ring := newModelRing()
	o, _ := outboxAt(t, t.TempDir(), ring, nil)
	publishAll(t, o, numbered("a", 6))
	eventually(t, "written down", func() bool {
		o.mu.Lock()
		defer o.mu.Unlock()
		return o.stored == 6
	})
	o.mu.Lock()
	defer o.mu.Unlock()
	o.tail, o.tailed = nil, 0
	if err := o.db.Update(func(tx *bolt.Tx) error {
		b := tx.Bucket(bucketDrafts)
		return errors.Join(dropBefore(b, 4), b.Delete(beKey(5)), putHead(tx, outboxHead{Origin: o.origin, Base: 3, Acked: 6}))
	}); err != nil {
		t.Fatal(err)
	}
	for n, want := range map[uint64]string{2: "again", 3: "again", 4: "good", 5: "damaged"} {
		got := "good"
		switch _, err := o.hashAt(n); {
		case errors.Is(err, errAgain):
			got = "again"
		case damaged(err):
			got = "damaged"
		case err != nil:
			t.Error(n, err)
		}
		if got != want {
			t.Errorf("record %d: %s, not %s", n, got, want)
		}
	}
}
