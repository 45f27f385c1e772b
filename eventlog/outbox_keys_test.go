package eventlog

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	bolt "go.etcd.io/bbolt"

	"github.com/ringagent/ringagent/eventlog/event"
)

var keyed = PublishOptions{By: external.By, Key: "k"}

// settled says whether nothing waits for a place, a seq or the file.
func (o *Outbox) settled() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.carryOf == "" && o.acked == o.last && o.stored == o.last && len(o.keyed)+len(o.seqs)+len(o.waiters) == 0
}

// TestKeysOfADamagedFile: a file goes bad, before or after the event with a key has its place, and with or without the key's own
// entry. Who asks again under the key gets that event, and no second one.
func TestKeysOfADamagedFile(t *testing.T) {
	t.Parallel()
	damages := map[string]func(tx *bolt.Tx) error{
		"head":     func(tx *bolt.Tx) error { return flip(tx.Bucket(bucketMeta), metaHead, 9) },
		"key":      func(tx *bolt.Tx) error { return flip(tx.Bucket(bucketKeys), []byte("k"), 20) },
		"record":   func(tx *bolt.Tx) error { return flip(tx.Bucket(bucketDrafts), beKey(1), 60) },
		"all keys": func(tx *bolt.Tx) error { return tx.DeleteBucket(bucketKeys) },
	}
	for name, do := range damages {
		for _, placed := range []bool{false, true} {
			for _, restart := range []bool{false, true} {
				t.Run(name+map[bool]string{false: ", waiting", true: ", placed"}[placed]+map[bool]string{false: "", true: ", after a start"}[restart], func(t *testing.T) {
					t.Parallel()
					ring, dir, alarms := newModelRing(), t.TempDir(), &alarmList{}
					ring.down = !placed
					change := func(p *OutboxOptions) { p.Alarm = alarms.add }
					o, stop := outboxAt(t, dir, ring, change)
					if _, err := o.Publish(t.Context(), note("b"), keyed); err != nil {
						t.Fatal(err)
					}
					if placed {
						eventually(t, "placed", o.settled)
					}
					if !restart {
						if err := o.db.Update(do); err != nil {
							t.Fatal(err)
						}
					} else {
						stop()
						damage(t, dir, do)
						o, _ = outboxAt(t, dir, ring, change)
					}
					// While nobody coordinates, too.
					eventually(t, "accepted", func() bool {
						_, err := o.Publish(t.Context(), note("b"), keyed)
						return err == nil
					})
					ring.set(func() { ring.down = false })
					eventually(t, "placed", func() bool { // what is bad may be found only now
						_, seq, err := o.PublishWait(t.Context(), note("b"), keyed)
						return err == nil && seq == 1
					})
					eventually(t, "at rest", o.settled)
					if _, seq, err := o.PublishWait(t.Context(), note("b"), keyed); err != nil || seq != 1 {
						t.Error(seq, err)
					}
					if diff := cmp.Diff([]string{"b"}, ring.texts(t)); diff != "" {
						t.Error(diff)
					}
					unread := !restart && (name == "head" || name == "record")
					if noticed := alarms.has(AlarmOutboxDamaged, false); !noticed && !unread {
						t.Error("no alarm")
					}
				})
			}
		}
	}
}

// damage changes the file of an outbox that does not run.
func damage(t *testing.T, dir string, do func(tx *bolt.Tx) error) {
	t.Helper()
	db, err := bolt.Open(filepath.Join(dir, "outbox.db"), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(db.Update(do), db.Close()); err != nil {
		t.Fatal(err)
	}
}

// flip flips a bit of a value.
func flip(b *bolt.Bucket, key []byte, at int) error { return b.Put(key, flipped(b.Get(key), at)) }

// TestKeyAndATornHead: one of the file's two heads is bad, as a torn write of it leaves it.
func TestKeyAndATornHead(t *testing.T) {
	t.Parallel()
	for _, placed := range []bool{false, true} {
		ring, dir := newModelRing(), t.TempDir()
		ring.down = !placed
		file := filepath.Join(dir, "outbox.db")
		o, stop := outboxAt(t, dir, ring, nil)
		if _, err := o.Publish(t.Context(), note("b"), keyed); err != nil {
			t.Fatal(err)
		}
		if placed {
			eventually(t, "placed", o.settled)
		}
		stop()
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		b[40] ^= 1
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		ring.set(func() { ring.down = false })
		o, _ = outboxAt(t, dir, ring, nil)
		if _, _, err := o.PublishWait(t.Context(), note("b"), keyed); err != nil {
			t.Fatal(err)
		}
		eventually(t, "at rest", o.settled)
		if diff := cmp.Diff([]string{"b"}, ring.texts(t)); diff != "" {
			t.Error("placed before:", placed, diff)
		}
	}
}

// TestKeyOfAnOriginThatWasLeft stands for its event as long as a record is kept, and no longer.
func TestKeyOfAnOriginThatWasLeft(t *testing.T) {
	t.Parallel()
	ring, dir := newModelRing(), t.TempDir()
	var later atomic.Int64
	o, _ := outboxAt(t, dir, ring, func(p *OutboxOptions) {
		p.Now = func() time.Time { return time.Now().Add(time.Duration(later.Load())) }
	})
	if _, _, err := o.PublishWait(t.Context(), note("b"), keyed); err != nil {
		t.Fatal(err)
	}
	eventually(t, "at rest", o.settled)
	if err := o.db.Update(func(tx *bolt.Tx) error { return flip(tx.Bucket(bucketKeys), []byte("k"), 20) }); err != nil {
		t.Fatal(err)
	}
	eventually(t, "begun again", func() bool {
		_, err := o.Publish(t.Context(), note("b"), keyed)
		return err == nil
	})
	eventually(t, "at rest", o.settled)
	for _, tc := range []struct {
		after time.Duration
		want  error
	}{{23 * time.Hour, ErrKeyTaken}, {25 * time.Hour, nil}} {
		later.Store(int64(tc.after))
		if _, err := o.Publish(t.Context(), note("c"), keyed); !errors.Is(err, tc.want) {
			t.Errorf("after %s: %v", tc.after, err)
		}
	}
}

// TestKeysWhileSavedRecordsWait: what is published after a damage, and kept, is not dropped with the keys of what was left.
func TestKeysWhileSavedRecordsWait(t *testing.T) {
	t.Parallel()
	ring, dir := newModelRing(), t.TempDir()
	var later atomic.Int64
	o, _ := outboxAt(t, dir, ring, func(p *OutboxOptions) {
		p.Now = func() time.Time { return time.Now().Add(time.Duration(later.Load())) }
	})
	if _, _, err := o.PublishWait(t.Context(), note("a"), PublishOptions{By: external.By, Key: "x"}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "at rest", o.settled)
	ring.set(func() { ring.down = true })
	if err := o.db.Update(func(tx *bolt.Tx) error { return flip(tx.Bucket(bucketKeys), []byte("x"), 20) }); err != nil {
		t.Fatal(err)
	}
	_, _ = o.Publish(t.Context(), note("a"), PublishOptions{By: external.By, Key: "x"}) // and so it is noticed
	eventually(t, "begun again", func() bool {
		_, err := o.Publish(t.Context(), note("b"), keyed)
		return err == nil
	})
	later.Store(int64(25 * time.Hour))
	ring.set(func() { ring.down = false })
	eventually(t, "brought", func() bool { return o.Status().Saved == 0 })
	if _, _, err := o.PublishWait(t.Context(), note("b"), keyed); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"a", "b"}, ring.texts(t)); diff != "" {
		t.Error(diff)
	}
}

// TestKeyOfALostSavedRecord: the file goes bad twice before a coordinator comes, the second time where the event is. Its key does not
// go on to stand for what nobody has.
func TestKeyOfALostSavedRecord(t *testing.T) {
	t.Parallel()
	ring, dir := newModelRing(), t.TempDir()
	ring.down = true
	o, stop := outboxAt(t, dir, ring, nil)
	if _, err := o.Publish(t.Context(), note("b"), keyed); err != nil {
		t.Fatal(err)
	}
	origin := o.Status().Origin
	for _, do := range []func(tx *bolt.Tx) error{
		func(tx *bolt.Tx) error { return flip(tx.Bucket(bucketMeta), metaHead, 9) },
		func(tx *bolt.Tx) error { return flip(tx.Bucket(bucketCarry), append(beKey(1), origin...), 60) },
	} {
		stop()
		damage(t, dir, do)
		o, stop = outboxAt(t, dir, ring, nil)
	}
	ring.set(func() { ring.down = false })
	if _, _, err := o.PublishWait(t.Context(), note("b"), keyed); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"b"}, ring.texts(t)); diff != "" {
		t.Error(diff)
	}
}

// TestBadKeyAndANewOrigin: a new origin leaves behind the record of which a bad key could be made; the key is made from it first.
func TestBadKeyAndANewOrigin(t *testing.T) {
	t.Parallel()
	ring, dir := newModelRing(), t.TempDir()
	o, _ := outboxAt(t, dir, ring, nil)
	if _, _, err := o.PublishWait(t.Context(), note("b"), keyed); err != nil {
		t.Fatal(err)
	}
	eventually(t, "at rest", o.settled)
	old := o.Status().Origin
	if err := o.db.Update(func(tx *bolt.Tx) error { return flip(tx.Bucket(bucketKeys), []byte("k"), 20) }); err != nil {
		t.Fatal(err)
	}
	o.mu.Lock()
	o.suspect = true
	o.mu.Unlock()
	o.AskAgain()
	eventually(t, "new origin", func() bool { return o.Status().Origin != old })
	eventually(t, "accepted", func() bool {
		_, err := o.Publish(t.Context(), note("b"), keyed)
		return err == nil
	})
	eventually(t, "at rest", o.settled)
	if diff := cmp.Diff([]string{"b"}, ring.texts(t)); diff != "" {
		t.Error(diff)
	}
}

// TestNewOriginThatFailedAndABadKey: the change to a new origin is in the file, though it failed, and a key there is bad. What was only
// in the file is not lost.
func TestNewOriginThatFailedAndABadKey(t *testing.T) {
	t.Parallel()
	for _, fault := range []error{syscall.EIO, syscall.ENOSPC} {
		ring, dir := newModelRing(), t.TempDir()
		ring.drop = func(Batch) bool { return true }
		o, stop := outboxAt(t, dir, ring, nil)
		publishAll(t, o, []string{"a"})
		if _, err := o.Publish(t.Context(), note("b"), keyed); err != nil {
			t.Fatal(err)
		}
		stop()
		var armed atomic.Bool
		o, _ = outboxAt(t, dir, ring, func(p *OutboxOptions) {
			p.hooks.committed = func() error {
				if !armed.CompareAndSwap(true, false) {
					return nil
				}
				return errors.Join(fault, o.db.Update(func(tx *bolt.Tx) error { return flip(tx.Bucket(bucketKeys), []byte("k"), 20) }))
			}
		})
		o.mu.Lock()
		old := o.origin
		o.suspect = true
		armed.Store(true)
		o.mu.Unlock()
		o.AskAgain()
		eventually(t, "mended", func() bool { s := o.Status(); return !armed.Load() && s.Degraded == nil && s.Origin != old })
		ring.set(func() { ring.drop = nil })
		publishAll(t, o, []string{"end"})
		eventually(t, "at rest", o.settled)
		if diff := cmp.Diff([]string{"a", "b", "end"}, sorted(ring.texts(t))); diff != "" {
			t.Error(fault, diff)
		}
	}
}

// TestKeyAfterTheRingWentBack: the event has another place now, and its key says so, from the moment at which that is known.
func TestKeyAfterTheRingWentBack(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		restart, trimmed, atOnce bool
	}{"running": {}, "restarted": {restart: true}, "asked at once": {atOnce: true}, "older ones dropped": {trimmed: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ring, dir := newModelRing(), t.TempDir()
			change := func(p *OutboxOptions) {
				if tc.trimmed {
					p.KeepBytes = 400
				}
			}
			o, stop := outboxAt(t, dir, ring, change)
			publishAll(t, o, numbered("a", 6))
			if _, seq, err := o.PublishWait(t.Context(), note("b"), keyed); err != nil || seq != 7 {
				t.Fatal(seq, err)
			}
			eventually(t, "at rest", func() bool { return o.settled() && (!tc.trimmed || o.Status().Bytes <= 400) })
			if tc.restart {
				stop()
			}
			ring.cut(0)
			ring.set(func() { // somebody else's come first
				for i := range 9 {
					ring.put(event.Record{Origin: "other", Number: uint64(i) + 1, Draft: note("o")})
				}
			})
			if tc.restart {
				o, _ = outboxAt(t, dir, ring, change)
			} else {
				o.AskAgain()
			}
			var want uint64
			eventually(t, "placed again", func() bool {
				for _, r := range ring.records(t) {
					if r.Origin != "other" && r.Marks == 0 && noteText(t, r) == "b" {
						want = r.Seq
					}
				}
				return want != 0 && o.Status().Acked == 7 && (tc.atOnce || o.settled())
			})
			if _, seq, err := o.PublishWait(t.Context(), note("b"), keyed); err != nil || seq != want {
				t.Error(seq, want, err)
			}
		})
	}
}

// TestAnswersOfAnOriginThatWasLeft say nothing of the one that the outbox has now.
func TestAnswersOfAnOriginThatWasLeft(t *testing.T) {
	t.Parallel()
	ring := newModelRing()
	o, _ := outboxAt(t, t.TempDir(), ring, nil)
	publishAll(t, o, []string{"a"})
	eventually(t, "at rest", o.settled)
	if err := o.answered("left", flight{last: 1}, Answer{Altered: true}); !errors.Is(err, errAgain) {
		t.Error(err)
	}
	if _, err := o.reunite(t.Context(), "left", OriginState{Known: true, Next: 9}); !errors.Is(err, errAgain) {
		t.Error(err)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.suspect || o.acked != 1 {
		t.Error("another origin's answer was taken for this one's")
	}
}

// TestBadNames: a name in the file has a bad bit. What it stood for is read all the same, or made from its record.
func TestBadNames(t *testing.T) {
	t.Parallel()
	for name, do := range map[string]func(tx *bolt.Tx) error{
		"head":   func(tx *bolt.Tx) error { return rename(tx.Bucket(bucketMeta), "head", "xead") },
		"origin": func(tx *bolt.Tx) error { return rename(tx.Bucket(bucketMeta), "origin", "grigin") },
		"key":    func(tx *bolt.Tx) error { return rename(tx.Bucket(bucketKeys), "j", "z") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ring, dir := newModelRing(), t.TempDir()
			ring.down = true
			o, stop := outboxAt(t, dir, ring, nil)
			for _, key := range []string{"j", "k", "l"} {
				if _, err := o.Publish(t.Context(), note(key), PublishOptions{By: external.By, Key: key}); err != nil {
					t.Fatal(err)
				}
			}
			stop()
			damage(t, dir, do)
			ring.set(func() { ring.down = false })
			o, _ = outboxAt(t, dir, ring, nil)
			for _, key := range []string{"j", "k", "l"} {
				if _, _, err := o.PublishWait(t.Context(), note(key), PublishOptions{By: external.By, Key: key}); err != nil {
					t.Error(err)
				}
			}
			eventually(t, "at rest", o.settled)
			if diff := cmp.Diff([]string{"j", "k", "l"}, ring.texts(t)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// rename puts a value under another name, with which its checksum does not agree.
func rename(b *bolt.Bucket, from, to string) error {
	v := bytes.Clone(b.Get([]byte(from)))
	return errors.Join(b.Delete([]byte(from)), b.Put([]byte(to), v))
}
