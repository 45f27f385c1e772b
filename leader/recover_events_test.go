package leader

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/leader/state"
)

// full is a snapshot's file on a full disk.
type full struct{ sink }

func (f *full) Write([]byte) (int, error) { return 0, errors.New("no space left on device") }

// The events of a log that nobody may have committed get into this node's copy of the event log once the snapshot is written and has
// room for its end: with them there a recovery that failed would have made it another copy than the others'.
func TestFailedRecoveryLeavesTheEventLogAlone(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		sink interface {
			raft.SnapshotSink
			over() bool
		}
		behind bool // the copy never gets on disk
		placed bool
		want   bool
	}{
		{"the disk is full", &full{}, false, false, false},
		{"the copy is broken", &sink{}, true, true, false},
		{"all is well", &sink{}, false, true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				gate := &replica{}
				var seqs []uint64
				n := bare(Ports{})
				n.cfg.Self.Node, n.cfg.Dir = "0000000000000001", t.TempDir()
				reserve := filepath.Join(n.cfg.Dir, reserveFile)
				fill(t, n)
				head := n.machine.View().LogHead().Seq
				// The same log once more, as a recovery reads it.
				n.cfg.Ports = Ports{Replica: gate, Placed: func(records []state.Placed, _ ring.LogHead) {
					if c.sink.over() {
						t.Error("the snapshot counts already")
					}
					if st, err := os.Stat(reserve); err != nil || st.Size() != reserved {
						t.Errorf("no room is kept for the end of the snapshot: %v", err)
					}
					for _, r := range records {
						seqs = append(seqs, r.Seq)
					}
					if last := records[len(records)-1].Seq; !c.behind {
						time.AfterFunc(time.Duration(last)*10*time.Millisecond, func() { gate.seq.Store(last) })
					}
				}}
				s := &successor{n: n, ctx: t.Context(), machine: state.New()}
				for i, l := range filling() {
					s.Apply(&raft.Log{Index: uint64(i + 2), Data: encode(t, l.Kind, l.Body)})
				}
				snap, err := s.Snapshot()
				if err != nil {
					t.Fatal(err)
				}
				if len(seqs) > 0 {
					t.Error("events were placed before there is a snapshot")
				}
				err = snap.Persist(c.sink)
				if (err == nil) != c.want || c.sink.over() != c.want {
					t.Errorf("%v, closed %t", err, c.sink.over())
				}
				if want := slices.IsSorted(seqs) && len(seqs) == int(head); c.placed && !want || !c.placed && len(seqs) > 0 {
					t.Errorf("placed %v of %d", seqs, head)
				}
				if _, err := os.Stat(reserve); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("the room is still taken: %v", err)
				}
				time.Sleep(time.Minute) // the timers
			})
		})
	}
}
