package leader_test

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/leader"
	"github.com/ringagent/ringagent/leader/leadertest"
	"github.com/ringagent/ringagent/leader/state"
)

// lagging is a copy of the event log that is on disk a little after everything.
type lagging struct{ seq atomic.Uint64 }

func (l *lagging) Durable() uint64 { return l.seq.Load() }

func (l *lagging) placed(_ []state.Placed, head ring.LogHead) {
	time.AfterFunc(15*time.Millisecond, func() {
		for had := l.seq.Load(); had < head.Seq && !l.seq.CompareAndSwap(had, head.Seq); had = l.seq.Load() {
		}
	})
}

// A ring to which events are published without a pause keeps its log short on every voter: not only at the coordinator, and also
// where the copy of the event log is never quite up to date. Who was off meanwhile comes back behind a snapshot.
func TestLogStaysShortUnderLoad(t *testing.T) {
	t.Parallel()
	const limit = 1 << 20
	if most := mostKept(t, limit); most > 3*limit {
		t.Errorf("a voter keeps %d bytes of the log, of which %d are enough to cut it", most, limit)
	}
}

// The broken variant: a log that is cut by its number of entries alone.
func TestLongLogIsSeen(t *testing.T) {
	t.Parallel()
	if most := mostKept(t, 1<<40); most < 6<<20 {
		t.Errorf("at most %d bytes were kept: the test sees nothing", most)
	}
}

// mostKept publishes 8 MiB and returns the most bytes of entries that a voter had at any time, and once all was over.
func mostKept(t *testing.T, limit int64) (most int64) {
	const each = 2200
	gates := make(map[id.Node]*lagging)
	var mu sync.Mutex
	config := func(m *leadertest.Member, c *leader.Config) {
		mu.Lock()
		defer mu.Unlock()
		if gates[m.ID] == nil {
			gates[m.ID] = &lagging{}
		}
		c.Ports.Replica, c.Ports.Placed = gates[m.ID], gates[m.ID].placed
		c.Snapshots.Bytes = limit
	}
	bubble(t, leadertest.Options{Core: 3, Voters: 3, Config: config}, func(t *testing.T, r *leadertest.Ring) {
		r.Wait(20*time.Second, "three voters", voters(r, 3))
		lead, off := r.Coordinator(), others(r, r.Coordinator())[0]
		r.Kill(off)
		o := &outbox{origin: "00000000000000a1", node: lead.ID, next: 1}
		for i := range 80 {
			b, h := o.batch(each) // about 100 KB
			res, err := lead.Node.ProposeEvents(t.Context(), b)
			if err != nil || res.Next != o.next+each {
				t.Fatalf("batch %d: %+v, %v", i, res, err)
			}
			o.next, o.hash = res.Next, h
			time.Sleep(5 * time.Millisecond)
			for _, m := range others(r, off) {
				most = max(most, m.Node.LogBytes(t))
			}
		}
		r.Start(off)
		settled(t, r, "AFTER", lead, off)
		settled(t, r, "AT-LAST", r.Members...)
		for _, m := range r.Members {
			most = max(most, m.Node.LogBytes(t))
			if stay := m.Node.Raft().ReloadableConfig().TrailingLogs; stay != 1024 {
				t.Errorf("behind the next snapshot of %s %d entries would stay", m.Name, stay)
			}
			if seq := m.Node.View().LogHead().Seq; seq < 80*each {
				t.Errorf("%s has the log up to %d", m.Name, seq)
			}
		}
	})
	return most
}

func TestTrailing(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		entries, bytes int64
		want           uint64
	}{
		{8192, 1 << 20, 1024}, // small ones: by number
		{256, 64 << 20, 256},  // large ones: as many bytes as may grow
		{512, 128 << 20, 256}, // late
		{1, 256 << 20, 1},     // one is always left
		{1 << 40, 1, 1024},    // and nothing overflows
	} {
		s := leader.Snapshots{Bytes: 64 << 20, Trailing: 1024}
		if got := leader.Trailing(s, c.entries, c.bytes); got != c.want {
			t.Errorf("%d entries of %d bytes: %d stay, want %d", c.entries, c.bytes, got, c.want)
		}
	}
}
