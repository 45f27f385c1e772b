package eventlog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/id"
)

// filled is a ring with n notes named prefix0, prefix1, …
func filled(prefix string, n int) *modelRing {
	m := newModelRing()
	m.fill(prefix, n)
	return m
}

func (m *modelRing) fill(prefix string, n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range n {
		d := note(fmt.Sprintf("%s%d", prefix, i))
		d.Node, d.Time = testNode, time.UnixMicro(int64(1e9+i))
		m.put(event.Record{Origin: "o", Number: uint64(len(m.log)) + 1, Draft: d})
	}
}

func (m *modelRing) end() Head {
	m.mu.Lock()
	defer m.mu.Unlock()
	return Head{uint64(len(m.log)), m.hash}
}

func caughtUp(t testing.TB, r *Replica, m *modelRing) {
	t.Helper()
	eventually(t, "caught up", func() bool {
		s, e := r.Status(), m.end()
		return s.Last == e.Seq && s.Hash == e.Hash && s.Verified == e.Seq
	})
}

func TestReplicaFollowsOffersAndPulls(t *testing.T) {
	t.Parallel()
	ring, dir := filled("a", 30), t.TempDir()
	r, stop := replicaAt(t, dir, ring, nil)
	r.Expect(1)
	caughtUp(t, r, ring) // by pulling
	ring.set(func() { ring.fed = append(ring.fed, r) })
	ring.fill("b", 30)
	caughtUp(t, r, ring)
	if err := r.WaitDurable(t.Context(), 60); err != nil {
		t.Fatal(err)
	}
	stop()
	ring.fill("c", 3000) // more than a fetch
	r, _ = replicaAt(t, dir, ring, nil)
	if r.Durable() != 60 {
		t.Error("after a restart:", r.Durable())
	}
	ring.set(func() { ring.fed = []*Replica{r} })
	ring.fill("d", 1) // beyond a gap
	caughtUp(t, r, ring)
	res, err := r.Verify(t.Context())
	if err != nil || !res.OK || res.LastSeq != 3061 || res.Hash != ring.end().Hash {
		t.Error(res, err)
	}
}

// TestOffersInAnyOrder: whatever is offered, doubled, left out or swapped, the copy is the ring's.
func TestOffersInAnyOrder(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		ring := filled("x", rapid.IntRange(1, 60).Draw(rt, "n"))
		dir, err := os.MkdirTemp(t.TempDir(), "")
		if err != nil {
			t.Fatal(err)
		}
		r, stop := replicaAt(t, dir, ring, func(o *ReplicaOptions) { o.QueueBytes = rapid.IntRange(100, 5000).Draw(rt, "queue") })
		defer stop()
		all := ring.log
		for range rapid.IntRange(1, 12).Draw(rt, "offers") {
			from := rapid.IntRange(0, len(all)-1).Draw(rt, "from")
			to := rapid.IntRange(from+1, len(all)).Draw(rt, "to")
			r.Offer(all[from:to])
		}
		r.Expect(uint64(len(all)))
		caughtUp(t, r, ring)
		if res, err := r.Verify(t.Context()); err != nil || !res.OK {
			rt.Fatal(res, err)
		}
	})
}

// liar hands out another log than the ring's.
type liar struct {
	*modelRing
	lies *modelRing
	near []Puller
}

func (l *liar) Near(context.Context) ([]Puller, error) { return l.near, nil }

func TestPullIsCheckedAgainstTheState(t *testing.T) {
	t.Parallel()
	for _, broken := range []bool{false, true} {
		t.Run(fmt.Sprint("broken=", broken), func(t *testing.T) {
			t.Parallel()
			ring, lies, alarms := filled("a", 20), filled("a", 20), &alarmList{}
			ring.fill("true", 20)
			lies.fill("false", 20)
			src := &liar{modelRing: ring, near: []Puller{lies, ring}}
			dir := t.TempDir()
			r, _ := replicaAt(t, dir, src, func(o *ReplicaOptions) { o.Alarm, o.hooks.noHead = alarms.add, broken })
			r.Expect(40)
			if broken {
				eventually(t, "pulled", func() bool { return r.Durable() == 40 })
				if r.Status().Hash == ring.end().Hash {
					t.Error("the variant that trusts a peer was not told apart")
				}
				return
			}
			caughtUp(t, r, ring)
			if !alarms.has(AlarmPeerDiffers, false) {
				t.Error("no alarm")
			}
			if moved, _ := filepath.Glob(filepath.Join(dir, "quarantine", "events-*.db")); len(moved) != 1 {
				t.Errorf("quarantine: %v", moved)
			}
		})
	}
}

func TestDivergedCopyIsLoudAndReconciled(t *testing.T) {
	t.Parallel()
	for _, broken := range []bool{false, true} {
		t.Run(fmt.Sprint("broken=", broken), func(t *testing.T) {
			t.Parallel()
			// The copy has followed a ring whose last five events a recovery has replaced by others.
			old, dir, alarms := filled("a", 20), t.TempDir(), &alarmList{}
			now := filled("a", 15)
			r, stop := replicaAt(t, dir, old, nil)
			r.Expect(20)
			caughtUp(t, r, old)
			stop()
			now.fill("new", 10)
			r, _ = replicaAt(t, dir, now, func(o *ReplicaOptions) { o.Alarm, o.hooks.noCompare, o.hooks.noChain = alarms.add, broken, broken })
			r.Offer(now.log[14:18])
			r.Offer(now.log)
			if broken {
				eventually(t, "followed", func() bool { return r.Durable() == 25 })
				if alarms.has(AlarmReplicaDiverged, false) {
					t.Error("the variant compared after all")
				}
				return
			}
			eventually(t, "alarm", func() bool { return alarms.has(AlarmReplicaDiverged, false) })
			if s := r.Status(); s.Last != 20 || s.Diverged == nil {
				t.Errorf("%+v", s)
			}
			path, err := r.Reconcile(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			caughtUp(t, r, now)
			if !alarms.has(AlarmReplicaDiverged, true) {
				t.Error("the alarm is not over")
			}
			// The moved tail is a log of its own that can be looked at.
			side, err := OpenReplica(ReplicaOptions{Path: path})
			if err != nil {
				t.Fatal(err)
			}
			start(t, side.Run)
			if res, err := side.Verify(t.Context()); err != nil || !res.OK || res.Oldest != 16 || res.LastSeq != 20 || res.Hash != old.end().Hash {
				t.Error(res, err)
			}
		})
	}
}

// TestVerifyFindsEveryFlippedByte flips each byte of each stored record in the file itself, while it is closed.
func TestVerifyFindsEveryFlippedByte(t *testing.T) {
	t.Parallel()
	for _, variant := range []struct {
		name           string
		noCRC, noChain bool
		finds          bool
	}{{"whole", false, false, true}, {"no checksum", true, true, false}} {
		t.Run(variant.name, func(t *testing.T) {
			t.Parallel()
			ring, dir := filled("x", 4), t.TempDir()
			r, stop := replicaAt(t, dir, ring, nil)
			r.Expect(4)
			caughtUp(t, r, ring)
			stop()
			file := filepath.Join(dir, "events.db")
			whole, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			missed := 0
			for _, e := range ring.log {
				_, stored := encodeStored(e)
				places := 0
				for at := 0; ; places++ { // older pages may still hold copies; those in use are among them
					i := bytes.Index(whole[at:], stored)
					if i < 0 {
						break
					}
					at += i + 1
				}
				if places == 0 {
					t.Fatalf("event %d is not in the file", e.Seq)
				}
				for off := range stored {
					damaged := bytes.ReplaceAll(whole, stored, flipped(stored, off))
					res := verifyBytes(t, damaged, variant.noCRC, variant.noChain)
					if res.OK || res.FirstBad != e.Seq {
						missed++
						if variant.finds {
							t.Fatalf("byte %d of event %d: %+v", off, e.Seq, res)
						}
					}
				}
			}
			if !variant.finds && missed == 0 {
				t.Error("the variant without checksums found everything; then this test proves nothing")
			}
		})
	}
}

func flipped(b []byte, at int) []byte {
	out := bytes.Clone(b)
	out[at] ^= 0x10
	return out
}

// verifyBytes checks a file as the command does. A bad newest record is found when the file is opened already.
func verifyBytes(t *testing.T, file []byte, noCRC, noChain bool) VerifyResult {
	t.Helper()
	dir := t.TempDir()
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "events.db")
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	var early VerifyResult
	r, err := OpenReplica(ReplicaOptions{Path: path, Quarantine: dir, hooks: replicaHooks{noCRC: noCRC, noChain: noChain},
		Alarm: func(a Alarm) { early = VerifyResult{FirstBad: a.Seq} }})
	if err != nil {
		t.Fatal(err)
	}
	defer r.db.Close()
	if early.FirstBad != 0 {
		return early
	}
	res, err := r.Verify(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// TestAnyFlippedByteIsHandled flips any byte of the file: opening and checking never crash, and never find fewer events
// good than there are without saying so.
func TestAnyFlippedByteIsHandled(t *testing.T) {
	t.Parallel()
	ring, dir := filled("some longer text ", 200), t.TempDir()
	r, stop := replicaAt(t, dir, ring, nil)
	r.Expect(1)
	caughtUp(t, r, ring)
	stop()
	whole, err := os.ReadFile(filepath.Join(dir, "events.db"))
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(rt *rapid.T) {
		b := bytes.Clone(whole)
		b[rapid.IntRange(0, len(b)-1).Draw(rt, "at")] ^= 1 << rapid.IntRange(0, 7).Draw(rt, "bit")
		if rapid.IntRange(0, 9).Draw(rt, "cut") == 0 {
			b = b[:rapid.IntRange(0, len(b)).Draw(rt, "to")]
		}
		path := filepath.Join(dir, fmt.Sprint(time.Now().UnixNano()))
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		defer os.Remove(path)
		loud := false
		r, err := OpenReplica(ReplicaOptions{Path: path, Quarantine: filepath.Join(dir, "q"), Alarm: func(Alarm) { loud = true }})
		if err != nil {
			rt.Fatal(err)
		}
		defer r.db.Close()
		res, err := r.Verify(t.Context())
		if err != nil {
			rt.Fatal(err)
		}
		if res.OK && !loud && (res.LastSeq != 200 || res.Hash != ring.end().Hash) {
			rt.Fatalf("%+v", res)
		}
	})
}

func TestCorruptRecordIsRepairedFromAPeer(t *testing.T) {
	t.Parallel()
	ring, dir, alarms := filled("x", 50), t.TempDir(), &alarmList{}
	r, stop := replicaAt(t, dir, ring, nil)
	r.Expect(50)
	caughtUp(t, r, ring)
	stop()
	file := filepath.Join(dir, "events.db")
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, flipAll(t, b, `"text":"x20"`), 0o600); err != nil {
		t.Fatal(err)
	}
	r, _ = replicaAt(t, dir, ring, func(o *ReplicaOptions) { o.Alarm = alarms.add })
	var bad *CorruptError
	if _, err := r.Read(20, 1); !errors.As(err, &bad) || bad.Seq != 21 {
		t.Fatal(err)
	}
	eventually(t, "repaired", func() bool { return alarms.has(AlarmReplicaCorrupt, true) })
	if res, err := r.Verify(t.Context()); err != nil || !res.OK {
		t.Error(res, err)
	}
}

func collect(t testing.TB, r *Replica, from Start, f Filter) (seqs []uint64, gaps []Compacted) {
	t.Helper()
	for rec, err := range r.Tail(t.Context(), from, f, false) {
		if gap := (*Compacted)(nil); errors.As(err, &gap) {
			gaps = append(gaps, *gap)
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		seqs = append(seqs, rec.Seq)
	}
	return seqs, gaps
}

func TestTailStartsAndFilters(t *testing.T) {
	t.Parallel()
	ring := newModelRing()
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for i := range 2500 {
		d := note("x")
		d.Node, d.Time = testNode, begin.Add(time.Duration(i)*time.Minute)
		if i%5 == 0 {
			d.Type, d.Node = "WORK_QUEUED", "other"
		}
		r := event.Record{Origin: "o", Number: uint64(i + 1), Draft: d}
		if i%7 == 0 {
			r.Marks = event.MarkStale
		}
		ring.put(r)
	}
	r, _ := replicaAt(t, t.TempDir(), ring, nil)
	r.Expect(2500)
	caughtUp(t, r, ring)
	for _, tc := range []struct {
		name   string
		from   Start
		f      Filter
		n      int
		oldest uint64
	}{
		{"all", FromStart(), Filter{}, 2500, 1},
		{"after", After(2400), Filter{}, 100, 2401},
		{"beyond", After(9000), Filter{}, 0, 0},
		{"since", Since(begin.Add(2000 * time.Minute)), Filter{}, 500, 2001},
		{"since before", Since(begin.Add(-time.Hour)), Filter{}, 2500, 1},
		{"since after", Since(begin.Add(9000 * time.Minute)), Filter{}, 0, 0},
		{"now", Now(), Filter{}, 0, 0},
		{"glob", FromStart(), Filter{Types: []string{"WORK_*"}}, 500, 1},
		{"lower glob", FromStart(), Filter{Types: []string{"work_q*", "operator_note"}}, 2500, 1},
		{"wire name", FromStart(), Filter{Types: []string{"new_games"}}, 0, 0},
		{"node", FromStart(), Filter{Node: id.Node("other")}, 500, 1},
		{"stale", FromStart(), Filter{SkipStale: true}, 2142, 2},
	} {
		seqs, gaps := collect(t, r, tc.from, tc.f)
		if len(seqs) != tc.n || len(gaps) != 0 || tc.n > 0 && seqs[0] != tc.oldest {
			t.Errorf("%s: %d records, want %d; %v", tc.name, len(seqs), tc.n, gaps)
		}
	}
	for _, err := range r.Tail(t.Context(), FromStart(), Filter{Types: []string{"["}}, false) {
		if !errors.Is(err, ErrBadFilter) {
			t.Error(err)
		}
	}
}

// TestRetention: by count and age, not past a live subscriber before the byte limit, and the rest can still be verified.
func TestRetention(t *testing.T) {
	t.Parallel()
	ring, dir := filled("x", 100), t.TempDir()
	var rule atomic.Pointer[Retention]
	var floor atomic.Uint64
	rule.Store(&Retention{})
	change := func(o *ReplicaOptions) {
		o.Retention = func() Retention { return *rule.Load() }
		o.Floor = func() (uint64, bool) { return floor.Load(), true }
		o.Now = func() time.Time { return time.UnixMicro(1e9 + 95).Add(time.Minute) }
	}
	r, stop := replicaAt(t, dir, ring, change)
	r.Expect(100)
	caughtUp(t, r, ring)
	oldest := func(want uint64) {
		t.Helper()
		eventually(t, fmt.Sprint("oldest ", want), func() bool { return r.Status().Oldest == want })
	}
	floor.Store(30)
	rule.Store(&Retention{Count: 60})
	oldest(31)
	floor.Store(80)
	oldest(41)
	rule.Store(&Retention{Age: time.Minute})
	oldest(81)
	floor.Store(100)
	oldest(96)
	rule.Store(&Retention{Count: 5, Bytes: 1}) // the byte limit spares nobody
	floor.Store(0)
	oldest(101)
	ring.fill("y", 10)
	rule.Store(&Retention{})
	r.Expect(110)
	caughtUp(t, r, ring)
	if res, err := r.Verify(t.Context()); err != nil || !res.OK || res.Oldest != 101 || res.LastSeq != 110 || res.Hash != ring.end().Hash {
		t.Error(res, err)
	}
	seqs, gaps := collect(t, r, After(7), Filter{})
	if diff := cmp.Diff([]Compacted{{From: 8, To: 100, Oldest: 101, Hash: gaps[0].Hash}}, gaps); diff != "" || len(seqs) != 10 {
		t.Error(diff, seqs)
	}
	stop()
	r, _ = replicaAt(t, dir, ring, change)
	if s := r.Status(); s.Oldest != 101 || s.Last != 110 {
		t.Errorf("after a restart: %+v", s)
	}
}

// TestTailUnderCompaction: a tail that is overtaken by retention says which records it did not see, and misses no others.
func TestTailUnderCompaction(t *testing.T) {
	t.Parallel()
	ring := newModelRing()
	r, _ := replicaAt(t, t.TempDir(), ring, func(o *ReplicaOptions) {
		o.Retention = func() Retention { return Retention{Count: 50} }
		o.RetainEvery = time.Millisecond
	})
	ring.set(func() { ring.fed = append(ring.fed, r) })
	const n = 20000
	var wg sync.WaitGroup
	wg.Go(func() {
		for range n / 100 {
			ring.fill("x", 100)
		}
	})
	next := uint64(1)
	for rec, err := range r.Tail(t.Context(), After(0), Filter{}, true) {
		if gap := (*Compacted)(nil); errors.As(err, &gap) {
			if gap.From != next || gap.Oldest != gap.To+1 {
				t.Fatalf("gap %+v when %d was next", gap, next)
			}
			next = gap.Oldest
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if rec.Seq != next {
			t.Fatalf("%d when %d was next", rec.Seq, next)
		}
		if next++; next > n {
			break
		}
	}
	wg.Wait()
}

// TestPullBehindACompactedPeer: a new node begins where the others' logs begin.
func TestPullBehindACompactedPeer(t *testing.T) {
	t.Parallel()
	ring := filled("x", 100)
	peer, _ := replicaAt(t, t.TempDir(), ring, func(o *ReplicaOptions) { o.Retention = func() Retention { return Retention{Count: 10} } })
	peer.Expect(100)
	eventually(t, "cut", func() bool { return peer.Status().Oldest == 91 })
	forged := &forger{peer}
	r, _ := replicaAt(t, t.TempDir(), &liar{modelRing: ring, near: []Puller{forged, peer}}, nil)
	r.Expect(100)
	caughtUp(t, r, ring)
	if s := r.Status(); s.Oldest != 91 {
		t.Errorf("%+v", s)
	}
	if res, err := r.Verify(t.Context()); err != nil || !res.OK {
		t.Error(res, err)
	}
}

// forger tells a wrong hash at the cut, and records that follow from it.
type forger struct{ *Replica }

func (f *forger) Fetch(ctx context.Context, after uint64, limit int) ([]Encoded, error) {
	got, err := f.Replica.Fetch(ctx, after, limit)
	if gap := (*Compacted)(nil); errors.As(err, &gap) {
		forged := *gap
		forged.Hash[0] ^= 1
		return nil, &forged
	}
	var h event.Hash
	s := f.Status()
	if after == s.Oldest-1 {
		h = f.head.CutHash
		h[0] ^= 1
	}
	for i := range got {
		h = h.Next(got[i].Bytes)
		got[i].Hash = h
	}
	return got, err
}

func TestReplicaDiskFailure(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]error{"full": syscall.ENOSPC, "failing": syscall.EIO} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ring, dir, alarms := filled("x", 10), t.TempDir(), &alarmList{}
			var broken atomic.Bool
			r, _ := replicaAt(t, dir, ring, func(o *ReplicaOptions) {
				o.Alarm = alarms.add
				o.hooks.commit = func() error {
					if broken.Load() {
						return fault
					}
					return nil
				}
			})
			r.Expect(10)
			caughtUp(t, r, ring)
			broken.Store(true)
			ring.fill("y", 10)
			r.Expect(20)
			eventually(t, "alarm", func() bool { return alarms.has(AlarmReplicaDegraded, false) })
			if d := r.Durable(); d != 10 {
				t.Error("durable:", d)
			}
			broken.Store(false)
			caughtUp(t, r, ring)
			if !alarms.has(AlarmReplicaDegraded, true) {
				t.Error("the alarm is not over")
			}
		})
	}
}
