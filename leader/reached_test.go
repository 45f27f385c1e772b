package leader

import (
	"bytes"
	"context"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ringagent/ringagent/leader/state"
)

// Who has not followed a recovery yet may have a higher index than the ring: what it has is older all the same.
func TestReadWaitsForTheGeneration(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		late, ring := bare(Ports{}), bare(Ports{})
		fill(t, late)
		fill(t, ring)
		apply(t, late, 8, state.KindDaemonSwitch, state.SwitchDaemon{Daemon: "Y", Off: true}) // what only the lost had beside it
		apply(t, late, 9, state.KindDaemonSwitch, state.SwitchDaemon{Daemon: "Z", Off: true})
		if err := ring.machine.Succeed(time.Now(), nil, 0); err != nil {
			t.Fatal(err)
		}
		now := momentOf(ring.machine.View())
		if now.Generation != 1 || now.Index >= 9 {
			t.Fatalf("the recovered ring is at %+v", now)
		}
		follows := time.Now().Add(time.Second)
		time.AfterFunc(time.Second, func() {
			var b bytes.Buffer
			if err := state.WriteSnapshot(&b, ring.machine.View()); err != nil {
				t.Error(err)
			}
			if err := (fsm{n: late}).Restore(io.NopCloser(&b)); err != nil {
				t.Error(err)
			}
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		s, err := late.reached(ctx, now)
		if err != nil || s.Generation() != 1 || time.Now().Before(follows) {
			t.Errorf("%s before it followed: %+v, %v", time.Until(follows), momentOf(s), err)
		}
		// A build that does not tell of its generation.
		if s, err = late.reached(ctx, stateMoment{Index: now.Index}); err != nil || momentOf(s) != now {
			t.Errorf("what is there is waited for: %+v, %v", momentOf(s), err)
		}
		if s, err = late.reached(ctx, stateMoment{Index: 1000}); err == nil {
			t.Errorf("answered at %+v, asked for 1000", momentOf(s))
		}
	})
}
