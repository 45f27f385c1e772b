package leadertest

import (
	"sync"
	"time"
)

// Clock is a machine's clock on top of the bubble's: Suspend lets it run on while everything else stands still.
type Clock struct {
	mu   sync.Mutex
	born time.Time
	slept,
	jumped time.Duration
}

// Elapsed counts suspended time.
func (c *Clock) Elapsed() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.born.IsZero() {
		c.born = time.Now()
	}
	return time.Since(c.born) + c.slept
}

// Wall is the wall clock.
func (c *Clock) Wall() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.slept + c.jumped)
}

// Suspend is the moment after the machine has slept for d.
func (c *Clock) Suspend(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.slept += d
}

// Jump sets the wall clock forward by d.
func (c *Clock) Jump(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.jumped += d
}
