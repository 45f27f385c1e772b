package eventlog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ringagent/ringagent/eventlog/event"
)

// filled is a ring with n notes named prefix0, prefix1, …
func filled(prefix string, n int) *modelRing {
	m := newModelRing()
	m.fill(prefix, n)
	return m
}

func (m *modelRing) fill(prefix string, n int) { m.at(time.UnixMicro(1e9), prefix, n) }

// at places n records a microsecond apart.
func (m *modelRing) at(first time.Time, prefix string, n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range n {
		d := note(fmt.Sprintf("%s%d", prefix, i))
		d.Node, d.Time = testNode, first.Add(time.Duration(i)*time.Microsecond)
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

// A node that starts applies again everything since its last snapshot, before its replica runs. Where nobody else has a
// copy, what is new at the end of it must not be turned away for what is stored already.
func TestKnownOffersLeaveRoomForNewOnes(t *testing.T) {
	t.Parallel()
	ring, dir := filled("a", 40), t.TempDir()
	r, stop := replicaAt(t, dir, nil, nil)
	r.Offer(ring.log[:30])
	if err := r.WaitDurable(t.Context(), 30); err != nil {
		t.Fatal(err)
	}
	stop()
	room := 0
	for _, e := range ring.log[29:] {
		room += len(e.Bytes)
	}
	r, err := OpenReplica(ReplicaOptions{Path: r.opt.Path, Quarantine: r.opt.Quarantine, Log: r.opt.Log, QueueBytes: room})
	if err != nil {
		t.Fatal(err)
	}
	for i := range ring.log { // the state machine tells each entry alone
		r.Offer(ring.log[i : i+1])
	}
	start(t, r.Run)
	caughtUp(t, r, ring)
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

// TestPlacedRecordsFollowWhatIsStored: hashes that need not be computed again still have to lead on from what is there.
func TestPlacedRecordsFollowWhatIsStored(t *testing.T) {
	t.Parallel()
	ring, other := filled("x", 9), filled("y", 9)
	for name, tc := range map[string]struct {
		offer  func(r *Replica)
		stored uint64
	}{
		"the ring's": {func(r *Replica) {
			r.OfferPlaced(slices.Clone(ring.log[3:6]))
			r.OfferPlaced(slices.Clone(ring.log[6:]))
		}, 9},
		"another log's":                       {func(r *Replica) { r.OfferPlaced(slices.Clone(other.log[3:])) }, 3},
		"another log's behind a streamed one": {func(r *Replica) { r.Offer(ring.log[3:4]); r.OfferPlaced(slices.Clone(other.log[4:])) }, 3},
		"streamed ones that do not follow": {func(r *Replica) {
			r.OfferPlaced(slices.Clone(ring.log[3:5]))
			r.Offer(other.log[5:])
		}, 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, stop := replicaAt(t, t.TempDir(), nil, nil)
			r.Offer(slices.Clone(ring.log[:3]))
			eventually(t, "stored", func() bool { return r.Durable() == 3 })
			stop()
			r, err := OpenReplica(r.opt)
			if err != nil {
				t.Fatal(err)
			}
			defer r.db.Close()
			tc.offer(r) // all of it is one batch
			_, err = r.take(r.queue)
			if r.Durable() != tc.stored || tc.stored == 9 && err != nil {
				t.Errorf("stored up to %d, not %d: %v", r.Durable(), tc.stored, err)
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
			index := appendBlock(nil, 1, ring.log)[:crcSize+4+4*len(ring.log)]
			if !bytes.Contains(whole, index) {
				t.Fatal("the block of the four events is not in the file")
			}
			for off := range index {
				if res := verifyBytes(t, bytes.ReplaceAll(whole, index, flipped(index, off)), variant.noCRC, variant.noChain); res.OK && variant.finds {
					t.Fatalf("byte %d of the block's index: %+v", off, res)
				}
			}
			for _, e := range ring.log {
				stored := seal(beKey(e.Seq), e.appendBody(nil))
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
	if raceDetector {
		t.Skip("bbolt races with itself on bad pages; `make test` runs this without the detector")
	}
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

// TestCorruptRecordIsRepairedFromAPeer also takes away what is only to be found by the index of its block.
func TestCorruptRecordIsRepairedFromAPeer(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func(t *testing.T, b []byte, log []Encoded) []byte{
		"a record": func(t *testing.T, b []byte, _ []Encoded) []byte { return flipAll(t, b, `"text":"x20"`) },
		"the index of its block": func(_ *testing.T, b []byte, log []Encoded) []byte {
			index := appendBlock(nil, 21, log[20:40])[:crcSize+4+4*20]
			return bytes.ReplaceAll(b, index, flipped(index, crcSize+4+9))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ring, dir, alarms := filled("x", 60), t.TempDir(), &alarmList{}
			r, stop := replicaAt(t, dir, nil, nil)
			for at := 0; at < len(ring.log); at += 20 { // a block each
				r.Offer(ring.log[at : at+20])
				eventually(t, "stored", func() bool { return r.Durable() == uint64(at+20) })
			}
			stop()
			file := filepath.Join(dir, "events.db")
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, damage(t, b, ring.log), 0o600); err != nil {
				t.Fatal(err)
			}
			r, _ = replicaAt(t, dir, ring, func(o *ReplicaOptions) { o.Alarm = alarms.add })
			var bad *CorruptError
			if _, err := r.Read(20, 1); !errors.As(err, &bad) || bad.Seq != 21 {
				t.Fatal(err)
			}
			eventually(t, "repaired", func() bool { return alarms.has(AlarmReplicaCorrupt, true) })
			if res, err := r.Verify(t.Context()); err != nil || !res.OK || res.LastSeq != 60 {
				t.Error(res, err)
			}
		})
	}
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

// A file that can be opened anew is not yet one that can be written: the alarm stays until something is in it.
func TestAlarmOfAFullDiskStaysUntilSomethingIsWritten(t *testing.T) {
	t.Parallel()
	ring, alarms := filled("x", 20), &alarmList{}
	var broken atomic.Bool
	var refused atomic.Int32
	r, _ := replicaAt(t, t.TempDir(), nil, func(o *ReplicaOptions) {
		o.Alarm = alarms.add
		o.hooks.commit = func() error {
			if broken.Load() {
				refused.Add(1)
				return syscall.ENOSPC
			}
			return nil
		}
	})
	r.Offer(ring.log[:10])
	eventually(t, "ten records", func() bool { return r.Durable() == 10 })
	broken.Store(true)
	r.Offer(ring.log[10:])
	eventually(t, "five attempts", func() bool { return refused.Load() >= 5 })
	if !alarms.has(AlarmReplicaDegraded, false) || alarms.has(AlarmReplicaDegraded, true) {
		t.Error("the alarm is not raised, or over before anything was written")
	}
	broken.Store(false)
	caughtUp(t, r, ring)
	eventually(t, "the end of the alarm", func() bool { return alarms.has(AlarmReplicaDegraded, true) })
}

// In a ring of one nobody else has what a full disk kept out of the file.
func TestFullDiskOfARingOfOneLosesNoRecord(t *testing.T) {
	t.Parallel()
	ring, alarms := filled("x", 30), &alarmList{}
	var broken atomic.Bool
	r, _ := replicaAt(t, t.TempDir(), nil, func(o *ReplicaOptions) {
		o.Alarm = alarms.add
		o.hooks.commit = func() error {
			if broken.Load() {
				return syscall.ENOSPC
			}
			return nil
		}
	})
	r.Offer(ring.log[:10])
	eventually(t, "ten records", func() bool { return r.Durable() == 10 })
	broken.Store(true)
	r.Offer(ring.log[10:20])
	eventually(t, "alarm", func() bool { return alarms.has(AlarmReplicaDegraded, false) })
	r.Offer(ring.log[20:]) // what is placed meanwhile
	broken.Store(false)
	caughtUp(t, r, ring)
	if !alarms.has(AlarmReplicaDegraded, true) {
		t.Error("the alarm is not over")
	}
}
