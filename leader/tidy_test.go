package leader

import (
	"testing"

	"github.com/hashicorp/raft"
)

// What a crash left between a snapshot and the clearing of the log before it is cleared; a log that goes on from it is not.
func TestTidy(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		last, term, snapshot, snapshotTerm, want uint64
	}{
		"ends before":             {5, 1, 7, 1, 0},
		"longer, of an old term":  {9, 3, 7, 1 << 20, 0},
		"goes on":                 {9, 3, 7, 3, 9},
		"goes on in a newer term": {9, 4, 7, 3, 9},
		"ends with it":            {7, 3, 7, 3, 7},
		"no snapshot":             {9, 3, 0, 0, 9},
		"no log":                  {0, 0, 7, 3, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			logs, snaps := raft.NewInmemStore(), raft.NewInmemSnapshotStore()
			for i := uint64(1); i <= c.last; i++ {
				if err := logs.StoreLog(&raft.Log{Index: i, Term: c.term}); err != nil {
					t.Fatal(err)
				}
			}
			if c.snapshot > 0 {
				sink, err := snaps.Create(1, c.snapshot, c.snapshotTerm, raft.Configuration{}, 1, nil)
				if err == nil {
					err = sink.Close()
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			if err := tidy(logs, logs, snaps); err != nil {
				t.Fatal(err)
			}
			if last, err := logs.LastIndex(); err != nil || last != c.want {
				t.Errorf("the log ends at %d, want %d (%v)", last, c.want, err)
			}
		})
	}
}
