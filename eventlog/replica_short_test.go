package eventlog

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// silent knows the end of the log, and nobody who has it, until speaks is set.
type silent struct {
	*modelRing
	speaks bool
}

func (s *silent) Near(context.Context) (near []Puller, _ error) {
	s.set(func() {
		if s.speaks {
			near = []Puller{s.modelRing}
		}
	})
	return near, nil
}

// A copy that lacks what nobody supplies says so, once whoever has it had time to start, and until it has it.
func TestCopyThatNobodySuppliesIsTold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ring, alarms := filled("a", 20), &alarmList{}
		src := &silent{modelRing: ring}
		r, stop := replicaAt(t, t.TempDir(), src, func(o *ReplicaOptions) { o.Alarm = alarms.add })
		defer stop()
		r.Expect(20)
		time.Sleep(supplyPatience - time.Second)
		synctest.Wait()
		if alarms.has(AlarmReplicaShort, false) || r.Status().Short {
			t.Error("told at once")
		}
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if !alarms.has(AlarmReplicaShort, false) || !r.Status().Short {
			t.Error("nobody was told")
		}
		src.set(func() { src.speaks = true })
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if s := r.Status(); s.Last != 20 || s.Short || !alarms.has(AlarmReplicaShort, true) {
			t.Errorf("supplied, it ends at %d, short %v", s.Last, s.Short)
		}
	})
}
