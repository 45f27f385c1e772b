package eventlog

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	bolt "go.etcd.io/bbolt"
	"pgregory.net/rapid"

	"github.com/ringagent/ringagent/eventlog/event"
)

// desk is a replica with a dispatcher on it.
type desk struct {
	ring    *modelRing
	replica *Replica
	db      *bolt.DB
	letters *LocalLetters
	*Dispatcher
}

func newDesk(t testing.TB, ring *modelRing, change func(*DispatcherOptions)) *desk {
	t.Helper()
	dir := t.TempDir()
	db, err := bolt.Open(filepath.Join(dir, "state.db"), 0o600, options())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	db.MaxBatchDelay = 0
	d := &desk{ring: ring, db: db}
	d.replica, _ = replicaAt(t, dir, ring, nil)
	ring.set(func() { ring.fed = append(ring.fed, d.replica) })
	d.replica.Expect(ring.end().Seq)
	d.again(t, change)
	return d
}

// again is a new dispatcher on the same files, as after a restart.
func (d *desk) again(t testing.TB, change func(*DispatcherOptions)) {
	t.Helper()
	cursors, err := NewLocalCursors(d.db)
	if err != nil {
		t.Fatal(err)
	}
	if d.letters, err = NewLocalLetters(d.db); err != nil {
		t.Fatal(err)
	}
	opt := DispatcherOptions{
		Replica: d.replica, Node: testNode, Cursors: cursors, Letters: d.letters,
		Deadline: 10 * time.Second, Grace: 10 * time.Second, MinBackoff: time.Millisecond, MaxBackoff: 2 * time.Millisecond,
		SaveEvery: time.Millisecond,
	}
	if change != nil {
		change(&opt)
	}
	d.Dispatcher = NewDispatcher(opt)
}

func (d *desk) subscribe(t testing.TB, c Consumer) (stop func()) {
	t.Helper()
	return start(t, func(ctx context.Context) error { return d.Subscribe(ctx, c) })
}

// seen collects what a handler was given.
type seen struct {
	mu   sync.Mutex
	seqs []uint64
}

func (s *seen) add(r event.Record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seqs = append(s.seqs, r.Seq)
}

func (s *seen) list() []uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]uint64(nil), s.seqs...)
}

func upTo(n int) []uint64 {
	out := make([]uint64, n)
	for i := range out {
		out[i] = uint64(i + 1)
	}
	return out
}

// TestHandlersOfAllKinds: one that fails twice and then succeeds, one that fails for ever at one event, one that panics
// there, one that blocks there whatever its context says, and a good one that waits for none of them.
func TestHandlersOfAllKinds(t *testing.T) {
	t.Parallel()
	const n, bad = 20, 5
	d := newDesk(t, filled("x", n), func(o *DispatcherOptions) {
		o.Deadline, o.Grace = 400*time.Millisecond, 100*time.Millisecond // generous: a good handler may have to wait for the CPU
	})
	block := make(chan struct{})
	t.Cleanup(func() { close(block) })
	var stuck atomic.Int32
	handlers := map[string]func(ctx context.Context, tries int) error{
		"good": func(context.Context, int) error { return nil },
		"fails twice": func(_ context.Context, tries int) error {
			if tries <= 2 {
				return errors.New("not yet")
			}
			return nil
		},
		"fails": func(context.Context, int) error { return errors.New("never") },
		"panics": func(context.Context, int) error {
			panic("no")
		},
		"too slow": func(ctx context.Context, _ int) error { <-ctx.Done(); return ctx.Err() },
		"blocks":   func(context.Context, int) error { <-block; return nil },
	}
	all := map[string]*seen{}
	for name, h := range handlers {
		s := &seen{}
		all[name] = s
		var tries atomic.Int32
		d.subscribe(t, Consumer{
			Name: name,
			Handler: func(ctx context.Context, r event.Record) error {
				if r.Seq == bad {
					if err := h(ctx, int(tries.Add(1))); err != nil {
						return err
					}
				}
				s.add(r)
				return nil
			},
			OnStuck: func(event.Record) { stuck.Add(1) },
		})
	}
	for name, s := range all {
		want := upTo(n)
		if name != "good" && name != "fails twice" {
			want = append(upTo(bad-1), upTo(n)[bad:]...)
		}
		eventually(t, name+" is through", func() bool { return len(s.list()) >= len(want) })
		if diff := cmp.Diff(want, s.list()); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	letters, err := d.letters.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]int{}
	for _, l := range letters {
		if l.Seq != bad || l.EventID != event.MakeID("o", bad) || l.Error == "" || l.FirstFailed.After(l.LastFailed) {
			t.Errorf("%+v", l)
		}
		got[l.Handler] = l.Attempts
	}
	if diff := cmp.Diff(map[string]int{"fails": 5, "panics": 5, "too slow": 5, "blocks": 5}, got); diff != "" {
		t.Error(diff)
	}
	if stuck.Load() != 5 {
		t.Errorf("OnStuck was called %d times", stuck.Load())
	}
}

func TestRetryOfExactlyThatPair(t *testing.T) {
	t.Parallel()
	far := time.FixedZone("far", 5*3600)
	d := newDesk(t, filled("x", 3), func(o *DispatcherOptions) { o.Now = func() time.Time { return time.Now().In(far) } })
	var good atomic.Bool
	failing, other := &seen{}, &seen{}
	d.subscribe(t, Consumer{Name: "other", Handler: func(_ context.Context, r event.Record) error { other.add(r); return nil }})
	stop := d.subscribe(t, Consumer{Name: "failing", Handler: func(_ context.Context, r event.Record) error {
		if r.Seq == 2 && !good.Load() {
			return errors.New("locked")
		}
		failing.add(r)
		return nil
	}})
	eventually(t, "a dead letter", func() bool { l, _ := d.letters.List(t.Context()); return len(l) == 1 && len(failing.list()) == 2 })
	id := LetterID(2, "failing")
	for i := 1; i <= 5; i++ {
		if err := d.Retry(t.Context(), d.letters, id); err == nil {
			t.Fatal("a retry that failed counted as success")
		}
		l, err := d.letters.Get(t.Context(), id)
		if err != nil || l.Retries != i || l.Abandoned != (i == 5) {
			t.Fatal(l, err)
		}
		for _, at := range []time.Time{l.FirstFailed, l.LastFailed} {
			if _, offset := at.Zone(); offset != 0 {
				t.Errorf("a time of this machine's zone: %s", at)
			}
		}
	}
	good.Store(true)
	if err := d.Retry(t.Context(), d.letters, id); err != nil {
		t.Fatal(err)
	}
	if _, err := d.letters.Get(t.Context(), id); !errors.Is(err, ErrNoLetter) {
		t.Error(err)
	}
	if diff := cmp.Diff([]uint64{1, 3, 2}, failing.list()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(upTo(3), other.list()); diff != "" {
		t.Error("the other handler got it again:", diff)
	}
	if err := d.letters.Drop(t.Context(), id); !errors.Is(err, ErrNoLetter) {
		t.Error(err)
	}
	stop()
	if err := d.letters.Put(t.Context(), Letter{ID: id, Seq: 2, Handler: "failing"}); err != nil {
		t.Fatal(err)
	}
	if err := d.Retry(t.Context(), d.letters, id); !errors.Is(err, ErrNoHandler) {
		t.Error(err)
	}
}

// TestNothingIsPassedOver restarts a subscriber at any moment: it sees every event, in order, some twice.
func TestNothingIsPassedOver(t *testing.T) {
	t.Parallel()
	const n = 40
	for _, broken := range []bool{false, true} {
		t.Run(fmt.Sprint("saved first=", broken), func(t *testing.T) {
			t.Parallel()
			var lost atomic.Bool
			change := func(o *DispatcherOptions) { o.hooks.saveFirst = broken }
			d := newDesk(t, filled("x", n), change)
			last := n
			if broken { // who passes over the last one waits for ever for another
				last--
			}
			runs := 0
			rapid.Check(t, func(rt *rapid.T) {
				if broken && lost.Load() {
					return
				}
				runs++
				name := fmt.Sprint("c", runs)
				next := uint64(1) // everything below was handled
				stops := rapid.SliceOfN(rapid.IntRange(1, last), 1, 4).Draw(rt, "stops")
				for i := 0; next <= n && i < 20; i++ {
					ctx, cancel := context.WithCancel(t.Context())
					stop := uint64(1 << 60)
					if i < len(stops) {
						stop = uint64(stops[i])
					}
					err := d.Subscribe(ctx, Consumer{Name: name, Handler: func(_ context.Context, r event.Record) error {
						if r.Seq == stop {
							cancel()
							return errors.New("killed in the middle")
						}
						if r.Seq > next {
							lost.Store(true)
						}
						next = max(next, r.Seq+1)
						if next > n {
							cancel()
						}
						return nil
					}})
					cancel()
					if err != nil {
						rt.Fatal(err)
					}
					d.again(t, change)
					if broken && lost.Load() {
						return
					}
				}
				if lost.Load() || next <= n {
					rt.Fatalf("lost one; next %d", next)
				}
			})
			if broken && !lost.Load() {
				t.Error("the variant that saves first was not told apart")
			}
		})
	}
}

func TestSubscriberWithoutCursorAndStale(t *testing.T) {
	t.Parallel()
	ring := newModelRing()
	for i := range 6 {
		r := event.Record{Origin: "o", Number: uint64(i + 1), Draft: note("x")}
		if i%2 == 1 {
			r.Marks = event.MarkStale
		}
		ring.put(r)
	}
	d := newDesk(t, ring, nil)
	caughtUp(t, d.replica, ring)
	plain, stale, now := &seen{}, &seen{}, &seen{}
	handle := func(s *seen) func(context.Context, event.Record) error {
		return func(_ context.Context, r event.Record) error { s.add(r); return nil }
	}
	d.subscribe(t, Consumer{Name: "plain", Handler: handle(plain)})
	d.subscribe(t, Consumer{Name: "stale", Stale: true, Handler: handle(stale)})
	stop := d.subscribe(t, Consumer{Name: "now", Start: Now(), Handler: handle(now)})
	eventually(t, "all there", func() bool { return len(stale.list()) == 6 && len(plain.list()) == 3 && len(d.Status()) == 3 })
	if err := d.Subscribe(t.Context(), Consumer{Name: "plain", Handler: handle(plain)}); !errors.Is(err, ErrNameTaken) {
		t.Error(err)
	}
	eventually(t, "subscribed", func() bool { _, ok, _ := d.opt.Cursors.Load(t.Context(), "now"); return ok })
	stop() // an event that comes while it is away is not passed over
	ring.fill("y", 1)
	caughtUp(t, d.replica, ring)
	d.subscribe(t, Consumer{Name: "now", Start: Now(), Handler: handle(now)})
	eventually(t, "the one", func() bool { return cmp.Equal([]uint64{7}, now.list()) })
	if diff := cmp.Diff([]uint64{1, 3, 5, 7}, plain.list()); diff != "" {
		eventually(t, diff, func() bool { return cmp.Equal([]uint64{1, 3, 5, 7}, plain.list()) })
	}
}

func TestSubscriberIsToldTheGap(t *testing.T) {
	t.Parallel()
	ring := filled("x", 50)
	d := newDesk(t, ring, nil)
	caughtUp(t, d.replica, ring)
	if err := d.opt.Cursors.Save(t.Context(), "c", 10); err != nil {
		t.Fatal(err)
	}
	cut := make(chan error, 1)
	d.replica.control <- func(context.Context) {
		d.replica.opt.Retention = func() Retention { return Retention{Count: 20} }
		cut <- d.replica.retain()
	}
	if err := <-cut; err != nil {
		t.Fatal(err)
	}
	got := &seen{}
	gaps := make(chan Compacted, 9)
	tries := 0
	d.subscribe(t, Consumer{
		Name:    "c",
		Handler: func(_ context.Context, r event.Record) error { got.add(r); return nil },
		OnGap: func(_ context.Context, gap Compacted) error {
			if tries++; tries < 3 {
				return errors.New("not yet")
			}
			gaps <- gap
			return nil
		},
	})
	if gap := <-gaps; gap.From != 11 || gap.To != 30 || gap.Oldest != 31 {
		t.Errorf("%+v", gap)
	}
	eventually(t, "the rest", func() bool { return cmp.Equal(upTo(50)[30:], got.list()) })
	eventually(t, "floor", func() bool { f, ok := d.Floor(); return ok && f == 50 })
}
