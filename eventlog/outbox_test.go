package eventlog

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/ringagent/ringagent/eventlog/event"
)

func TestPublishReachesTheLogInOrder(t *testing.T) {
	t.Parallel()
	ring := newModelRing()
	o, _ := outboxAt(t, t.TempDir(), ring, nil)
	want := numbered("a", 50)
	publishAll(t, o, want)
	id, seq, err := o.PublishWait(t.Context(), note("last"), external)
	if err != nil || seq != 51 || id != event.MakeID(o.Status().Origin, 51) {
		t.Fatal(id, seq, err)
	}
	if diff := cmp.Diff(append(want, "last"), ring.texts(t)); diff != "" {
		t.Error(diff)
	}
	eventually(t, "all acknowledged", func() bool { return o.Status().Acked == 51 })
	var p *event.ProblemError
	if _, err := o.Publish(t.Context(), event.Draft{Type: "OPERATOR_NOTE"}, external); !errors.As(err, &p) || p.Field != "text" {
		t.Error(err)
	}
}

func TestPublishWithoutCoordinator(t *testing.T) {
	t.Parallel()
	ring := newModelRing()
	ring.down = true
	dir := t.TempDir()
	o, stop := outboxAt(t, dir, ring, nil)
	publishAll(t, o, numbered("a", 3))
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for o.Status().Last < 4 {
			select {
			case <-time.After(time.Millisecond):
			case <-t.Context().Done():
				return
			}
		}
		time.AfterFunc(5*time.Millisecond, cancel)
	}()
	id, seq, err := o.PublishWait(ctx, note("b"), external)
	if !errors.Is(err, context.Canceled) || id == "" || seq != 0 {
		t.Fatal(id, seq, err)
	}
	stop()
	o, _ = outboxAt(t, dir, ring, nil)
	ring.set(func() { ring.down = false })
	eventually(t, "all placed", func() bool { return o.Status().Acked == 4 })
	if diff := cmp.Diff(append(numbered("a", 3), "b"), ring.texts(t)); diff != "" {
		t.Error(diff)
	}
}

func TestKeyGivesTheSameEvent(t *testing.T) {
	t.Parallel()
	ring := newModelRing()
	dir := t.TempDir()
	o, stop := outboxAt(t, dir, ring, nil)
	keyed := PublishOptions{By: event.ByExternal, Key: "k"}
	type got struct {
		id  string
		seq uint64
	}
	results := make([]got, 8)
	var wg sync.WaitGroup
	for i := range results {
		wg.Go(func() {
			id, seq, err := o.PublishWait(t.Context(), note("x"), keyed)
			if err != nil {
				t.Error(err)
			}
			results[i] = got{id, seq}
		})
	}
	wg.Wait()
	for _, r := range results {
		if r != results[0] || r.seq == 0 {
			t.Errorf("%v, %v", results[0], r)
		}
	}
	if _, err := o.Publish(t.Context(), note("y"), keyed); !errors.Is(err, ErrKeyTaken) {
		t.Error(err)
	}
	stop()
	o, _ = outboxAt(t, dir, ring, nil)
	id, seq, err := o.PublishWait(t.Context(), note("x"), keyed)
	if err != nil || (got{id, seq}) != results[0] {
		t.Error("after a restart:", id, seq, err)
	}
	if n := len(ring.texts(t)); n != 1 {
		t.Errorf("%d events", n)
	}
}

// TestAnswersLost loses, repeats and delays, and still every event has one place, in order.
func TestExactlyOnePosition(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		ring := newModelRing()
		every := rapid.IntRange(2, 7).Draw(rt, "every")
		n := 0
		ring.lose = func(Batch) bool { n++; return n%every == 0 }
		ring.drop = func(Batch) bool { n++; return n%(every+1) == 0 }
		dir, err := os.MkdirTemp(t.TempDir(), "")
		if err != nil {
			t.Fatal(err)
		}
		window := rapid.IntRange(1, 5).Draw(rt, "window")
		o, stop := outboxAt(t, dir, ring, func(p *OutboxOptions) {
			p.Sequencer = &shuffled{ring: ring, every: rapid.IntRange(2, 5).Draw(rt, "swap")}
			p.Window, p.BatchEvents = window, 3
		})
		defer stop()
		count := rapid.IntRange(1, 20).Draw(rt, "count")
		publishAll(t, o, numbered("e", count))
		eventually(t, "all acknowledged", func() bool { return o.Status().Acked == uint64(count) })
		if diff := cmp.Diff(numbered("e", count), ring.texts(t)); diff != "" {
			rt.Fatal(diff)
		}
	})
}

// shuffled hands every few batches over after the one that follows.
type shuffled struct {
	ring  *modelRing
	every int
	n     int
	held  func()
}

func (s *shuffled) Append(ctx context.Context, b Batch) <-chan Answer {
	s.n++
	if s.held != nil {
		ch := s.ring.Append(ctx, b)
		s.held()
		s.held = nil
		return ch
	}
	if s.n%s.every != 0 {
		return s.ring.Append(ctx, b)
	}
	ch := make(chan Answer, 1)
	var once sync.Once
	deliver := func() { once.Do(func() { ch <- <-s.ring.Append(ctx, b) }) }
	s.held = deliver
	time.AfterFunc(3*time.Millisecond, deliver)
	return ch
}

func (s *shuffled) Origin(ctx context.Context, o event.Origin) (OriginState, error) {
	s.held = nil
	return s.ring.Origin(ctx, o)
}

// copyFile is what a backup or a clone of a disk does.
func copyFile(t testing.TB, from, to string) {
	t.Helper()
	src, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	dst, err := os.Create(to)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(dst, src); err != nil {
		t.Fatal(err)
	}
	if err := dst.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestSetBack sets an outbox back to an older copy of itself, with all that may have happened in between.
func TestSetBack(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name    string
		before  int // published and placed before the copy
		open    int // published before the copy, placed after it
		after   int // published and placed after the copy
		fresh   int // published on the copy before it meets the ring
		altered bool
	}{
		{"nothing new", 3, 0, 0, 0, false},
		{"the ring went on", 3, 0, 4, 0, false},
		{"open ones were placed", 3, 5, 0, 0, false},
		{"open ones and more", 3, 5, 4, 0, false},
		{"fewer fresh ones than were placed", 3, 5, 4, 2, false},
		{"as many fresh ones as were placed", 3, 5, 4, 4, true},
		{"more fresh ones than were placed", 0, 0, 4, 9, true},
		{"fresh ones only", 3, 0, 0, 9, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			dir, ring, alarms := t.TempDir(), newModelRing(), &alarmList{}
			o, stop := outboxAt(t, dir, ring, nil)
			publishAll(t, o, numbered("before", tc.before))
			eventually(t, "placed", func() bool { return o.Status().Acked == uint64(tc.before) })
			ring.set(func() { ring.down = true })
			publishAll(t, o, numbered("open", tc.open))
			stop()
			file := filepath.Join(dir, "outbox.db")
			copyFile(t, file, file+".copy")
			ring.set(func() { ring.down = false })
			o, stop = outboxAt(t, dir, ring, nil)
			publishAll(t, o, numbered("after", tc.after))
			eventually(t, "placed", func() bool { return o.Status().Acked == uint64(tc.before+tc.open+tc.after) })
			stop()

			copyFile(t, file+".copy", file)
			ring.set(func() { ring.down = true })
			o, _ = outboxAt(t, dir, ring, func(p *OutboxOptions) { p.Alarm = alarms.add })
			publishAll(t, o, numbered("fresh", tc.fresh))
			ring.set(func() { ring.down = false })
			want := slices.Concat(numbered("before", tc.before), numbered("open", tc.open), numbered("after", tc.after), numbered("fresh", tc.fresh))
			if _, seq, err := o.PublishWait(t.Context(), note("end"), external); err != nil || seq != uint64(len(want)+1) {
				t.Error("place of the last:", seq, err)
			}
			if diff := cmp.Diff(append(want, "end"), ring.texts(t)); diff != "" {
				t.Error(diff)
			}
			if got := alarms.has(AlarmOutboxAltered, false); got != tc.altered {
				t.Errorf("alarm %t, want %t", got, tc.altered)
			}
		})
	}
}

// TestAlteredIsNeverAcknowledged: the log holds other bytes under a number of ours.
func TestAlteredIsNeverAcknowledged(t *testing.T) {
	t.Parallel()
	run := func(t *testing.T, broken bool) (texts []string, alarmed bool) {
		ring, alarms := newModelRing(), &alarmList{}
		ring.down = true
		o, _ := outboxAt(t, t.TempDir(), ring, func(p *OutboxOptions) { p.Alarm, p.hooks.noCompare = alarms.add, broken })
		publishAll(t, o, numbered("mine", 2))
		ring.set(func() {
			d := note("not mine")
			d.Node = testNode
			ring.place(Batch{Origin: o.Status().Origin, Node: testNode, First: 1, Drafts: [][]byte{d.Encode(), d.Encode()}})
			ring.down = false
		})
		eventually(t, "all acknowledged", func() bool { s := o.Status(); return s.Acked == s.Last })
		return ring.texts(t), alarms.has(AlarmOutboxAltered, false)
	}
	texts, alarmed := run(t, false)
	if want := []string{"not mine", "not mine", "mine0", "mine1"}; !cmp.Equal(want, texts) || !alarmed {
		t.Errorf("%v, alarm %t", texts, alarmed)
	}
	if texts, alarmed := run(t, true); alarmed || slices.Contains(texts, "mine0") {
		t.Errorf("the variant that does not compare was not told apart: %v", texts)
	}
}

// TestRingWentBack: after a recovery the ring lacks what it had acknowledged: the newest events of an outbox, or all it knew of it.
func TestRingWentBack(t *testing.T) {
	t.Parallel()
	const long = 31 * 24 * time.Hour
	for _, tc := range []struct {
		name  string
		cut   uint64
		keep  int64 // bytes
		later time.Duration
		want  []string
		lost  uint64 // number up to which the ring states a loss
	}{
		{name: "kept here", cut: 3, want: append(numbered("a", 6), "b")},
		{name: "before the first event", cut: 0, want: append(numbered("a", 6), "b")},
		{name: "no longer kept", cut: 3, keep: 1, want: append(numbered("a", 3), "b"), lost: 6},
		{name: "before the first event, the first no longer kept", cut: 0, keep: 400, want: []string{"a4", "a5", "b"}, lost: 4},
		{name: "forgotten after a month", cut: 0, later: long, want: []string{"b"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			ring, dir, alarms := newModelRing(), t.TempDir(), &alarmList{}
			change := func(p *OutboxOptions) { p.Alarm, p.KeepBytes = alarms.add, tc.keep }
			o, stop := outboxAt(t, dir, ring, change)
			publishAll(t, o, numbered("a", 6))
			eventually(t, "placed", func() bool { s := o.Status(); return s.Acked == 6 && (tc.keep == 0 || s.Bytes <= tc.keep) })
			stop()
			ring.cut(tc.cut)
			o, _ = outboxAt(t, dir, ring, func(p *OutboxOptions) {
				change(p)
				p.Keep = 2 * long
				p.Now = func() time.Time { return time.Now().Add(tc.later) }
			})
			if _, _, err := o.PublishWait(t.Context(), note("b"), external); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, ring.texts(t)); diff != "" {
				t.Error(diff)
			}
			var lost uint64
			for _, r := range ring.records(t) {
				if r.Marks&event.MarkLost != 0 {
					lost = r.Number
				}
			}
			if lost != tc.lost || alarms.has(AlarmEventsLost, false) != (tc.lost > 0) {
				t.Errorf("lost up to %d instead of %d, or no alarm", lost, tc.lost)
			}
		})
	}
}

// cut takes everything after seq out of the ring, as a recovery from an old voter does.
func (m *modelRing) cut(seq uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	old := m.log[:seq]
	m.log, m.hash, m.origins = nil, event.Hash{}, map[event.Origin]*modelOrigin{}
	for _, e := range old {
		r, err := event.DecodeRecord(e.Bytes)
		if err != nil {
			panic(err)
		}
		o := m.origins[r.Origin]
		if o == nil {
			o = &modelOrigin{}
			m.origins[r.Origin] = o
		}
		o.drafts = append(o.drafts, r.Draft.Encode())
		o.hash = o.hash.Next(r.Draft.Encode())
		m.put(r)
	}
}

// TestWipedNode: a new file is a new origin, so that nothing it publishes is mistaken for old news.
func TestWipedNode(t *testing.T) {
	t.Parallel()
	ring := newModelRing()
	o, stop := outboxAt(t, t.TempDir(), ring, nil)
	publishAll(t, o, numbered("same", 3))
	eventually(t, "placed", func() bool { return o.Status().Acked == 3 })
	stop()
	o, _ = outboxAt(t, t.TempDir(), ring, nil)
	publishAll(t, o, numbered("same", 3))
	eventually(t, "placed", func() bool { return o.Status().Acked == 3 })
	if n := len(ring.texts(t)); n != 6 {
		t.Errorf("%d events", n)
	}
}

func TestSecondOpener(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	outboxAt(t, dir, newModelRing(), nil)
	if _, err := OpenOutbox(OutboxOptions{Path: filepath.Join(dir, "outbox.db"), Catalogue: event.Catalogue()}); !errors.Is(err, ErrInUse) {
		t.Error(err)
	}
}

// TestOutboxOnReplica wires both as the agent does: lost answers are found in this node's own copy of the log.
func TestOutboxOnReplica(t *testing.T) {
	t.Parallel()
	ring, dir := newModelRing(), t.TempDir()
	ring.lose = func(Batch) bool { return true }
	var o atomic.Pointer[Outbox]
	r, _ := replicaAt(t, dir, ring, func(p *ReplicaOptions) {
		p.OnAppend = func(rs []event.Record) {
			if x := o.Load(); x != nil {
				x.Observe(rs)
			}
		}
	})
	ring.set(func() { ring.fed = append(ring.fed, r) })
	x, _ := outboxAt(t, dir, ring, func(p *OutboxOptions) { p.Finder = r })
	o.Store(x)
	for i := range 5 {
		if _, seq, err := x.PublishWait(t.Context(), note("x"), external); err != nil || seq != uint64(i+1) {
			t.Fatal(seq, err)
		}
	}
}

// TestPublisherIsToldOnce: its answer may come between the fsync and the moment in which the writer tells.
func TestPublisherIsToldOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	o, err := OpenOutbox(OutboxOptions{Path: filepath.Join(dir, "outbox.db"), Quarantine: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer o.db.Close()
	o.mu.Lock()
	defer o.mu.Unlock()
	u := &put{wait: true, place: place{o.origin, o.last + 1}, seq: 7, stored: true, done: make(chan putResult, 1)}
	o.await(u)
	o.last, o.durable = u.place.number, u.place.number
	o.learn(u.place, 7)
	told := make(chan struct{})
	go func() { o.tellPlain(u); close(told) }() // as the writer does, which holds mu then
	select {
	case <-told:
	case <-time.After(10 * time.Second):
		t.Fatal("the writer waits for a publisher that was told already")
	}
	if r := <-u.done; r.seq != 7 || len(o.plain) != 0 {
		t.Error(r, o.plain)
	}
}

// TestMemoryOfAnOutboxIsBounded: large events wait in the file for a coordinator that cannot be reached.
func TestMemoryOfAnOutboxIsBounded(t *testing.T) {
	t.Parallel()
	ring := newModelRing()
	ring.down = true
	o, _ := outboxAt(t, t.TempDir(), ring, nil)
	const events, text = 300, 60 << 10
	var wg sync.WaitGroup
	for range events {
		wg.Go(func() {
			if _, err := o.Publish(t.Context(), note(strings.Repeat("x", text)), external); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	size := int64(0)
	o.mu.Lock()
	for _, k := range o.tail {
		size += k.size()
	}
	o.mu.Unlock()
	if size > tailBytes || size < tailBytes-text-1000 {
		t.Errorf("%d bytes in memory", size)
	}
	ring.set(func() { ring.down = false })
	eventually(t, "placed", func() bool { return o.Status().Acked == events })
}

// TestOutboxDropsMuchAtOnce: what is acknowledged stays as long as there is room, and then goes in pieces, not by one record a commit.
func TestOutboxDropsMuchAtOnce(t *testing.T) {
	t.Parallel()
	const keep, events = 16 << 10, 400
	o, _ := outboxAt(t, t.TempDir(), newModelRing(), func(p *OutboxOptions) { p.KeepBytes = keep })
	drops, base, full := 0, uint64(0), false
	for range events {
		if _, _, err := o.PublishWait(t.Context(), note(strings.Repeat("x", 100)), external); err != nil {
			t.Fatal(err)
		}
		o.mu.Lock()
		if o.base > base {
			base, drops = o.base, drops+1
		}
		size := o.bytes
		o.mu.Unlock()
		full = full || size > keep-keep/16
		if size > keep+1000 || full && size < keep-keep/16-1000 {
			t.Fatalf("%d bytes are kept of %d", size, keep)
		}
	}
	if base < events/2 || drops > events/4 {
		t.Errorf("%d records were dropped in %d commits", base, drops)
	}
}
