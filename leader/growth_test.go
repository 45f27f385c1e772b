package leader

import (
	"sync"
	"testing"

	"github.com/hashicorp/raft"
)

// What is written while the log is being cut is told again at once only if that alone is much.
func TestGrowthTellsOnce(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		meanwhile int64
		again     bool
	}{"nothing": {0, false}, "little": {1, false}, "as much again": {10, true}} {
		g := newGrowth()
		g.next(10)
		g.add(1, 10)
		<-g.over
		entries, bytes := g.entries.Load(), g.bytes.Load()
		if c.meanwhile > 0 {
			g.add(1, c.meanwhile)
		}
		g.entries.Add(-entries)
		g.bytes.Add(-bytes)
		g.next(10)
		if again := len(g.over) > 0; again != c.again {
			t.Errorf("%s meanwhile: told again: %v", name, again)
		}
	}
}

// What stays behind a snapshot and whether a node stands for election are changed beside one another in the same settings.
func TestTrailingLeavesElectionsAlone(t *testing.T) {
	t.Parallel()
	n := bare(Ports{})
	r, _ := follower(t, n, 0)
	own := r.ReloadableConfig()
	s := &seat{raft: r, heartbeat: own.HeartbeatTimeout}
	for i := range 200 {
		stand, stay := i%2 == 0, uint64(i+1)
		var wg sync.WaitGroup
		wg.Go(func() {
			n.standing.Lock()
			defer n.standing.Unlock()
			n.campaign(s, stand)
		})
		wg.Go(func() {
			for j := range stay {
				if err := n.setTrailing(s, j+1); err != nil {
					t.Error(err)
				}
			}
		})
		wg.Wait()
		want := own
		want.TrailingLogs = stay
		if !stand {
			want.HeartbeatTimeout, want.ElectionTimeout = never, never
		}
		if got := r.ReloadableConfig(); got != want {
			t.Fatalf("%d: %+v, want %+v", i, got, want)
		}
	}
}

// A log that was long when the process ended is long when it begins.
func TestGrowthOutlivesAStart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for start := range 2 {
		s, err := OpenStore(dir)
		if err != nil {
			t.Fatal(err)
		}
		if start == 0 {
			for i := range uint64(3) {
				err = s.StoreLog(&raft.Log{Index: i + 1, Term: 1, Data: make([]byte, 100)})
			}
		} else {
			err = s.Verify()
		}
		if entries, bytes := s.grown.entries.Load(), s.grown.bytes.Load(); err != nil || entries != 3 || bytes != 300 {
			t.Errorf("start %d: %d entries of %d bytes, %v", start, entries, bytes, err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// A large state is not written down for a log that is short beside it.
func TestGrowthLimit(t *testing.T) {
	t.Parallel()
	n := bare(Ports{})
	n.cfg.Snapshots.Bytes = 100
	for size, want := range map[int]int64{10: 100, 300: 600} {
		snaps := raft.NewInmemSnapshotStore()
		_, trans := raft.NewInmemTransport("one")
		sink, err := snaps.Create(1, 1, 1, raft.Configuration{}, 1, trans)
		if err == nil {
			_, err = sink.Write(make([]byte, size))
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := n.growthLimit(&seat{snaps: snaps}); got != want {
			t.Errorf("with a snapshot of %d bytes: %d, want %d", size, got, want)
		}
	}
}
