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

	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/id"
)

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

// TestRetentionByAClockThatIsNotSet: a machine that boots years ago drops nothing by age, and by count as ever, also where it has
// placed records of that time itself.
func TestRetentionByAClockThatIsNotSet(t *testing.T) {
	t.Parallel()
	ring := filled("x", 100)
	ring.at(time.UnixMicro(1e9).Add(-2*time.Hour), "own", 3)
	r, _ := replicaAt(t, t.TempDir(), ring, func(o *ReplicaOptions) {
		o.Retention = func() Retention { return Retention{Count: 93, Age: time.Minute} }
		o.Now = func() time.Time { return time.UnixMicro(1e9).Add(-2 * time.Hour) }
	})
	r.Expect(103)
	caughtUp(t, r, ring)
	eventually(t, "oldest 11", func() bool { return r.Status().Oldest == 11 })
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

// TestTailOfAFileThatIsBeingOpenedAnew waits, and ends with who follows it.
func TestTailOfAFileThatIsBeingOpenedAnew(t *testing.T) {
	t.Parallel()
	r, err := OpenReplica(ReplicaOptions{Path: filepath.Join(t.TempDir(), "events.db")})
	if err != nil {
		t.Fatal(err)
	}
	r.mu.Lock()
	db := r.db
	r.db = nil
	r.mu.Unlock()
	defer db.Close()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		for _, err := range r.Tail(ctx, FromStart(), Filter{}, true) {
			ended <- err
			return
		}
	}()
	select {
	case err := <-ended:
		t.Fatal("it did not wait: ", err)
	case <-time.After(10 * time.Millisecond):
	}
	cancel()
	eventually(t, "an end", func() bool {
		select {
		case err := <-ended:
			return errors.Is(err, context.Canceled)
		default:
			return false
		}
	})
}
