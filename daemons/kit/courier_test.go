package kit

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ringagent/ringagent/internal/id"
)

// slow takes its time for every transfer, and ends with the context.
type slow struct {
	Orders
	takes time.Duration
	mu    sync.Mutex
	tries map[id.Node]int
}

func (s *slow) Fetch(ctx context.Context, n id.Node, _ id.Digest) error {
	s.mu.Lock()
	s.tries[n]++
	s.mu.Unlock()
	select {
	case <-time.After(s.takes):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Many nodes and few transfers at once: whoever waits for a turn longer than a transfer may take has not failed.
func TestCourierDoesNotBlameWhoWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := &slow{takes: 50 * time.Second, tries: map[id.Node]int{}}
		c := NewCourier(&Courier{Orders: o, Parallel: 2, Limit: time.Minute, First: time.Hour, Slowest: time.Hour})
		ctx, cancel := context.WithCancel(t.Context())
		var wanted []Delivery
		for i := range 8 {
			wanted = append(wanted, Delivery{id.DigestOf([]byte("m")), id.Node(fmt.Sprint(i))})
		}
		c.Want(ctx, wanted, time.Now())
		time.Sleep(5 * time.Minute)
		for _, d := range wanted {
			if n, err := c.Failures(d); n != 0 || o.tries[d.Node] != 1 {
				t.Errorf("node %s: asked %d times, %d failures (%v)", d.Node, o.tries[d.Node], n, err)
			}
		}
		o.takes = 2 * time.Minute // a transfer itself is limited still
		c.Want(ctx, []Delivery{{id.DigestOf([]byte("n")), "0"}}, time.Now())
		time.Sleep(90 * time.Second)
		if n, _ := c.Failures(Delivery{id.DigestOf([]byte("n")), "0"}); n != 1 {
			t.Errorf("%d failures of a transfer beyond its limit", n)
		}
		cancel()
		c.Wait()
	})
}
