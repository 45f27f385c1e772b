package kit

import (
	"context"
	"sync"
	"time"

	"github.com/ringagent/ringagent/internal/id"
)

// Delivery is one artifact that one node is to hold.
type Delivery struct {
	Digest id.Digest
	Node   id.Node
}

// Courier runs fetch orders in the background, a bounded number at a time, and remembers for each delivery how often it
// failed and when it may be tried again. A slow node therefore delays nobody else, and a want that is gone stops its
// transfer. Memory only: a successor simply asks again, which holders of the bytes answer at once.
type Courier struct {
	Orders   Orders
	Parallel int           // transfers at once; default 4
	Limit    time.Duration // of one transfer; default 10 min
	First    time.Duration // delay after the first failure, doubling; default 5 s
	Slowest  time.Duration // default 5 min

	mu    sync.Mutex
	tries map[Delivery]*try
	sem   chan struct{}
	poke  chan struct{}
	group sync.WaitGroup
}

type try struct {
	cancel context.CancelFunc // not nil while it runs
	fails  int
	next   time.Time
	err    error
}

// NewCourier fills c's defaults in.
func NewCourier(c *Courier) *Courier {
	if c.Parallel <= 0 {
		c.Parallel = 4
	}
	if c.Limit <= 0 {
		c.Limit = 10 * time.Minute
	}
	if c.First <= 0 {
		c.First = 5 * time.Second
	}
	if c.Slowest <= 0 {
		c.Slowest = 5 * time.Minute
	}
	c.tries = map[Delivery]*try{}
	c.sem = make(chan struct{}, c.Parallel)
	c.poke = make(chan struct{}, 1)
	return c
}

// Poked gets a value when a transfer has ended; it suits Loop.Poke.
func (c *Courier) Poked() <-chan struct{} { return c.poke }

// Want starts what is due of wanted and stops what is no longer wanted. Transfers end with ctx at the latest.
func (c *Courier) Want(ctx context.Context, wanted []Delivery, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	keep := make(map[Delivery]bool, len(wanted))
	for _, d := range wanted {
		keep[d] = true
		t := c.tries[d]
		if t == nil {
			t = &try{}
			c.tries[d] = t
		}
		if t.cancel != nil || now.Before(t.next) {
			continue
		}
		run, cancel := context.WithCancel(ctx)
		t.cancel = cancel
		c.group.Add(1)
		go c.fetch(run, d, t)
	}
	for d, t := range c.tries {
		if !keep[d] {
			if t.cancel != nil {
				t.cancel()
			}
			delete(c.tries, d)
		}
	}
}

func (c *Courier) fetch(ctx context.Context, d Delivery, t *try) {
	defer c.group.Done()
	err := ctx.Err()
	select {
	case c.sem <- struct{}{}:
		// The time for a turn is not the node's: else those at the end of a long queue would be blamed for the others.
		limited, cancel := context.WithTimeout(ctx, c.Limit)
		err = Guard(limited, func(ctx context.Context) error { return c.Orders.Fetch(ctx, d.Node, d.Digest) })
		cancel()
		<-c.sem
	case <-ctx.Done():
		err = ctx.Err()
	}
	c.mu.Lock()
	t.cancel()
	t.cancel = nil
	t.err = err
	if err != nil {
		t.fails++
		t.next = time.Now().Add(jitter(min(c.First<<min(t.fails-1, 16), c.Slowest)))
	} else {
		// The receipt is in the state before the order is answered; should it be missing all the same, ask again soon.
		t.next = time.Now().Add(c.First)
		t.fails = 0
	}
	c.mu.Unlock()
	select {
	case c.poke <- struct{}{}:
	default:
	}
}

// Failures says how often a delivery failed in a row, and how the last time.
func (c *Courier) Failures(d Delivery) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t := c.tries[d]; t != nil && t.fails > 0 {
		return t.fails, t.err
	}
	return 0, nil
}

// Wait returns when no transfer runs any more; the context given to Want must have ended.
func (c *Courier) Wait() { c.group.Wait() }
