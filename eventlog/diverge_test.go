package eventlog

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
)

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
			moved, err := r.Reconcile(t.Context(), func(after uint64) error {
				if s := r.Status(); s.Last != 20 || after != 15 {
					t.Errorf("told of %d while the copy ends at %d", after, s.Last)
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			caughtUp(t, r, now)
			if !alarms.has(AlarmReplicaDiverged, true) {
				t.Error("the alarm is not over")
			}
			// The moved tail is a log of its own that can be looked at.
			side, err := OpenReplica(ReplicaOptions{Path: moved.Path})
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
