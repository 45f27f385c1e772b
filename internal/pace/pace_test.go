package pace

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestUntil(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ at, d, want time.Duration }{
		{0, time.Second, time.Second},
		{time.Nanosecond, time.Second, time.Second - time.Nanosecond},
		{300 * time.Millisecond, time.Second, 700 * time.Millisecond},
		{999 * time.Millisecond, time.Second, time.Millisecond},
		{999 * time.Millisecond, 5 * time.Second, 4001 * time.Millisecond},
		{0, 1500 * time.Millisecond, time.Second},
		{100 * time.Millisecond, 500 * time.Millisecond, 400 * time.Millisecond},
		{100 * time.Millisecond, 250 * time.Millisecond, 150 * time.Millisecond},
		{100 * time.Millisecond, 249 * time.Millisecond, 249 * time.Millisecond},
		{100 * time.Millisecond, 0, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			time.Sleep(c.at) // the bubble's clock begins at a whole second
			if got := Until(c.d); got != c.want {
				t.Errorf("at %v: Until(%v) = %v, want %v", c.at, c.d, got, c.want)
			}
		})
	}
}

// What began at different moments wakes together.
func TestWaitsComeTogether(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var group sync.WaitGroup
		moments := map[time.Time]bool{}
		for i := range 10 {
			group.Go(func() {
				time.Sleep(time.Duration(i) * 37 * time.Millisecond)
				for range 20 {
					time.Sleep(Until(time.Second))
					mu.Lock()
					moments[time.Now()] = true
					mu.Unlock()
				}
			})
		}
		group.Wait()
		if len(moments) > 20 {
			t.Errorf("ten periods of a second woke at %d moments in twenty seconds", len(moments))
		}
	})
}
