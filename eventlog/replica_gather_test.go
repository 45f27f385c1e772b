package eventlog

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/ringagent/ringagent/eventlog/event"
)

// The writer gathers three times as long as the disk took for the append before, but never longer than Gather.
func TestReplicaGathersAsLongAsItsDiskAsks(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ took, want time.Duration }{
		{0, 3 * time.Millisecond},
		{2 * time.Millisecond, 6 * time.Millisecond},
		{time.Second, 10 * time.Millisecond},
	} {
		synctest.Test(t, func(t *testing.T) {
			ring := filled("x", 3)
			stored := make(chan time.Time, 3)
			r, stop := replicaAt(t, t.TempDir(), nil, func(o *ReplicaOptions) {
				o.Gather = 10 * time.Millisecond
				o.hooks.commit = func() error { time.Sleep(tc.took); return nil }
				o.OnAppend = func([]event.Record) { stored <- time.Now() }
			})
			r.Offer(ring.log[:1])
			first := <-stored
			r.Offer(ring.log[1:2])
			if got := (<-stored).Sub(first) - tc.took; got != tc.want {
				t.Errorf("a disk that takes %s: gathered for %s, want %s", tc.took, got, tc.want)
			}
			time.Sleep(time.Minute) // of rest: the next one does not wait
			asked := time.Now()
			r.Offer(ring.log[2:])
			if got := (<-stored).Sub(asked); got != tc.took {
				t.Errorf("after a pause it took %s, want %s", got, tc.took)
			}
			stop()
		})
	}
}
