package eventlog

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// TestCrashBeforeTheFsync: a batch travels while it is stored; the file that a crash leaves may know less than the ring.
func TestCrashBeforeTheFsync(t *testing.T) {
	t.Parallel()
	run := func(t *testing.T, broken bool) []string {
		ring, dir := newModelRing(), t.TempDir()
		file := filepath.Join(dir, "outbox.db")
		first, stop := outboxAt(t, dir, ring, nil)
		publishAll(t, first, numbered("a", 3))
		eventually(t, "placed", func() bool { return first.Status().Acked == 3 })
		stop()

		// The second life is copied in mid-commit, when its batch stands in the log already.
		crash := make(chan struct{})
		var armed atomic.Bool
		o, stop := outboxAt(t, dir, ring, func(p *OutboxOptions) {
			p.hooks.commit = func() error {
				if armed.Load() {
					<-crash
				}
				return nil
			}
		})
		armed.Store(true)
		result := make(chan error, 1)
		go func() {
			_, err := o.Publish(t.Context(), note("b"), external)
			result <- err
		}()
		eventually(t, "placed before it is stored", func() bool { return len(ring.texts(t)) == 4 })
		select {
		case err := <-result:
			t.Error("acknowledged before the fsync:", err)
		default:
		}
		copyFile(t, file, file+".crashed")
		close(crash)
		if err := <-result; err != nil {
			t.Error(err)
		}
		stop()
		copyFile(t, file+".crashed", file)
		o, _ = outboxAt(t, dir, ring, func(p *OutboxOptions) { p.hooks.noCompare = broken })
		publishAll(t, o, []string{"c"})
		eventually(t, "all acknowledged", func() bool { s := o.Status(); return s.Acked == s.Last })
		return ring.texts(t)
	}
	if diff := cmp.Diff([]string{"a0", "a1", "a2", "b", "c"}, run(t, false)); diff != "" {
		t.Error(diff)
	}
}

// TestCrashAfterTheFsync: the event is stored, and its publisher dies before it is told. It is in the log once.
func TestCrashAfterTheFsync(t *testing.T) {
	t.Parallel()
	for _, sent := range []bool{false, true} {
		t.Run(fmt.Sprint("placed=", sent), func(t *testing.T) {
			t.Parallel()
			ring, dir := newModelRing(), t.TempDir()
			file := filepath.Join(dir, "outbox.db")
			ring.down = !sent
			var copied atomic.Bool
			o, stop := outboxAt(t, dir, ring, func(p *OutboxOptions) {
				p.hooks.keysEarly = sent // or the copy could not be made between its place and its publisher's being told
				p.hooks.afterStore = func(uint64) {
					if copied.CompareAndSwap(false, true) {
						if sent {
							eventually(t, "placed", func() bool { return len(ring.texts(t)) == 1 })
						}
						copyFile(t, file, file+".crashed")
					}
				}
			})
			id, err := o.Publish(t.Context(), note("a"), PublishOptions{By: external.By, Key: "k"})
			if err != nil {
				t.Fatal(err)
			}
			stop()
			copyFile(t, file+".crashed", file)
			ring.set(func() { ring.down = false })
			o, _ = outboxAt(t, dir, ring, nil)
			// The client, not having heard, asks again.
			again, seq, err := o.PublishWait(t.Context(), note("a"), PublishOptions{By: external.By, Key: "k"})
			if err != nil || again != id || seq != 1 {
				t.Error(again, id, seq, err)
			}
			if diff := cmp.Diff([]string{"a"}, ring.texts(t)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestOutboxVariants: each broken variant loses or doubles something that the real one does not.
func TestOutboxVariants(t *testing.T) {
	t.Parallel()
	t.Run("acknowledged early", func(t *testing.T) {
		t.Parallel()
		for _, broken := range []bool{false, true} {
			fail := errors.New("disk is gone")
			o, stop := outboxAt(t, t.TempDir(), newModelRing(), func(p *OutboxOptions) {
				p.hooks.ackEarly = broken
				p.hooks.commit = func() error { return fail }
			})
			_, err := o.Publish(t.Context(), note("x"), external)
			if acked := err == nil; acked != broken {
				t.Errorf("broken %t: an event that was not stored was acknowledged: %t", broken, acked)
			}
			stop()
		}
	})
	t.Run("published again without looking", func(t *testing.T) {
		t.Parallel()
		for _, broken := range []bool{false, true} {
			ring, dir := newModelRing(), t.TempDir()
			file := filepath.Join(dir, "outbox.db")
			ring.down = true
			o, stop := outboxAt(t, dir, ring, nil)
			publishAll(t, o, []string{"x"})
			stop()
			copyFile(t, file, file+".copy")
			ring.down = false
			o, stop = outboxAt(t, dir, ring, nil)
			publishAll(t, o, []string{"y"})
			eventually(t, "placed", func() bool { return o.Status().Acked == 2 })
			stop()
			copyFile(t, file+".copy", file)
			o, _ = outboxAt(t, dir, ring, func(p *OutboxOptions) { p.hooks.noFind = broken })
			eventually(t, "placed", func() bool { s := o.Status(); return s.Acked == s.Last && s.Origin != "" && ringAsked(ring) })
			publishAll(t, o, []string{"z"})
			eventually(t, "placed", func() bool { return slices.Contains(ring.texts(t), "z") })
			if doubled := len(ring.texts(t)) == 4; doubled != broken {
				t.Errorf("broken %t: %v", broken, ring.texts(t))
			}
		}
	})
}

func ringAsked(m *modelRing) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.asked > 2
}

// TestDiskFailure: refuse while nothing can be stored, come back by oneself, and give no number other bytes.
func TestDiskFailure(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]error{"full": fmt.Errorf("write: %w", syscall.ENOSPC), "failing": fmt.Errorf("fdatasync: %w", syscall.EIO)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ring, dir, alarms := newModelRing(), t.TempDir(), &alarmList{}
			var broken atomic.Bool
			var failed atomic.Int64
			o, stop := outboxAt(t, dir, ring, func(p *OutboxOptions) {
				p.Alarm = alarms.add
				p.hooks.commit = func() error {
					if broken.Load() {
						failed.Add(1)
						return fault
					}
					return nil
				}
			})
			publishAll(t, o, numbered("a", 3))
			eventually(t, "placed", func() bool { return len(ring.texts(t)) == 3 })
			broken.Store(true)
			for range 3 {
				if _, err := o.Publish(t.Context(), note("unsure"), external); !errors.Is(err, ErrNotStored) {
					t.Fatal(err)
				}
			}
			if o.Status().Degraded == nil || !alarms.has(AlarmOutboxDegraded, false) {
				t.Error("not degraded")
			}
			eventually(t, "tries to mend", func() bool { return failed.Load() >= 4 })
			broken.Store(false)
			var meanwhile []string
			eventually(t, "back", func() bool { // also while somebody goes on asking
				if _, err := o.Publish(t.Context(), note("meanwhile"), external); err == nil {
					meanwhile = append(meanwhile, "meanwhile")
				}
				return o.Status().Degraded == nil
			})
			publishAll(t, o, numbered("b", 3))
			eventually(t, "placed", func() bool { s := o.Status(); return s.Acked == s.Last })
			want := slices.Concat(numbered("a", 3), []string{"unsure"}, meanwhile, numbered("b", 3)) // one was on its way, the others were refused at once
			if diff := cmp.Diff(want, ring.texts(t)); diff != "" {
				t.Error(diff)
			}
			if ring.altered != 0 || !alarms.has(AlarmOutboxDegraded, true) {
				t.Error("altered", ring.altered)
			}
			stop()
			moved, _ := filepath.Glob(filepath.Join(dir, "quarantine", "outbox.db.*"))
			if isEIO := strings.Contains(fault.Error(), "fdatasync"); isEIO != (len(moved) == 1) || len(moved) > 1 {
				t.Errorf("of many copies one is kept: quarantine: %v", moved)
			}
			o, _ = outboxAt(t, dir, ring, nil)
			publishAll(t, o, []string{"c"})
			eventually(t, "placed", func() bool { return len(ring.texts(t)) == len(want)+1 })
		})
	}
}

// TestNoSpaceForTheFsync: what failed is in the file, but nobody knows whether on the disk: it is copied before anything counts as
// stored.
func TestNoSpaceForTheFsync(t *testing.T) {
	t.Parallel()
	ring, dir := newModelRing(), t.TempDir()
	var armed atomic.Bool
	o, _ := outboxAt(t, dir, ring, func(p *OutboxOptions) {
		p.hooks.committed = func() error {
			if armed.CompareAndSwap(true, false) {
				return syscall.ENOSPC
			}
			return nil
		}
	})
	publishAll(t, o, []string{"a"})
	eventually(t, "at rest", o.settled)
	before, err := os.Stat(o.opt.Path)
	if err != nil {
		t.Fatal(err)
	}
	armed.Store(true)
	if _, err := o.Publish(t.Context(), note("b"), keyed); !errors.Is(err, ErrNotStored) {
		t.Fatal(err)
	}
	eventually(t, "stored", func() bool { return o.Status().Last == 2 })
	if after, err := os.Stat(o.opt.Path); err != nil || os.SameFile(before, after) {
		t.Errorf("the file was not copied: %v", err)
	}
	if _, seq, err := o.PublishWait(t.Context(), note("b"), keyed); err != nil || seq != 2 {
		t.Error(seq, err)
	}
	if diff := cmp.Diff([]string{"a", "b"}, ring.texts(t)); diff != "" {
		t.Error(diff)
	}
}

// TestDamagedFile: a torn or altered file is put aside loudly; what can be read of it is not lost and not doubled.
func TestDamagedFile(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		damage func(b []byte) []byte
		want   []string // after a0…a2, which were placed
	}{
		{"a record's byte flipped", func(b []byte) []byte { return flipAll(t, b, `"text":"b1"`) }, []string{"b0", "b2", "c"}},
		{"a head's byte flipped", func(b []byte) []byte { b[40] ^= 1; return b }, []string{"b0", "b1", "b2", "c"}},
		{"cut in the middle of a page", func(b []byte) []byte { return b[:2*os.Getpagesize()+100] }, nil},
		{"zeroed", func(b []byte) []byte { clear(b); return b }, []string{"c"}},
		{"empty", func([]byte) []byte { return nil }, []string{"c"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			ring, dir, alarms := newModelRing(), t.TempDir(), &alarmList{}
			o, stop := outboxAt(t, dir, ring, nil)
			publishAll(t, o, numbered("a", 3))
			eventually(t, "placed", func() bool { return o.Status().Acked == 3 })
			origin := o.Status().Origin
			ring.set(func() { ring.down = true })
			publishAll(t, o, numbered("b", 3))
			stop()
			file := filepath.Join(dir, "outbox.db")
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, tc.damage(b), 0o600); err != nil {
				t.Fatal(err)
			}
			ring.set(func() { ring.down = false })
			o, _ = outboxAt(t, dir, ring, func(p *OutboxOptions) { p.Alarm = alarms.add })
			if o.Status().Origin == origin || !alarms.has(AlarmOutboxDamaged, false) {
				t.Error("no new origin, or no alarm")
			}
			publishAll(t, o, []string{"c"})
			eventually(t, "placed", func() bool { return slices.Contains(ring.texts(t), "c") })
			eventually(t, "acknowledged", func() bool { s := o.Status(); return s.Acked == s.Last })
			got := ring.texts(t)[3:]
			slices.Sort(got)
			if tc.want != nil && !cmp.Equal(tc.want, got) {
				t.Error(cmp.Diff(tc.want, got))
			}
			if moved, _ := filepath.Glob(filepath.Join(dir, "quarantine", "outbox.db.*")); len(moved) != 1 {
				t.Errorf("quarantine: %v", moved)
			}
		})
	}
}

func flipAll(t testing.TB, b []byte, text string) []byte {
	t.Helper()
	n := 0
	for at := 0; ; n++ {
		i := strings.Index(string(b[at:]), text)
		if i < 0 {
			break
		}
		b[at+i+len(text)-2] ^= 1
		at += i + len(text)
	}
	if n == 0 {
		t.Fatalf("%s is not in the file", text)
	}
	return b
}

// TestAnyFlippedByteOfTheOutbox flips any byte of the file: opening it never crashes, and either everything is there or
// the alarm says that it is not.
func TestAnyFlippedByteOfTheOutbox(t *testing.T) {
	t.Parallel()
	if raceDetector {
		t.Skip("bbolt races with itself on bad pages; `make test` runs this without the detector")
	}
	ring, dir := newModelRing(), t.TempDir()
	o, stop := outboxAt(t, dir, ring, nil)
	publishAll(t, o, numbered("placed", 5))
	eventually(t, "placed", func() bool { return o.Status().Acked == 5 })
	ring.set(func() { ring.down = true })
	publishAll(t, o, numbered("open", 20))
	stop()
	whole, err := os.ReadFile(filepath.Join(dir, "outbox.db"))
	if err != nil {
		t.Fatal(err)
	}
	want := o.Status()
	rapid.Check(t, func(rt *rapid.T) {
		b := slices.Clone(whole)
		b[rapid.IntRange(0, len(b)-1).Draw(rt, "at")] ^= 1 << rapid.IntRange(0, 7).Draw(rt, "bit")
		if rapid.IntRange(0, 9).Draw(rt, "cut") == 0 {
			b = b[:rapid.IntRange(0, len(b)).Draw(rt, "to")]
		}
		path := filepath.Join(dir, "damaged.db")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		loud := false
		o, err := OpenOutbox(OutboxOptions{Path: path, Quarantine: filepath.Join(dir, "q"), Alarm: func(Alarm) { loud = true }})
		if err != nil {
			rt.Fatal(err)
		}
		defer o.db.Close()
		if s := o.Status(); !loud && (s.Origin != want.Origin || s.Last != want.Last) {
			rt.Fatalf("%+v instead of %+v, and no alarm", s, want)
		}
	})
}
