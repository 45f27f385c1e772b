package leader

import "time"

// Clock measures leases. Two hands are read, since neither alone tells all: the first stands still when a hypervisor
// freezes the machine, the second can be set.
type Clock interface {
	// Elapsed is the time since some fixed moment, sleep included; it never runs back.
	Elapsed() time.Duration
	// Wall is the wall clock.
	Wall() time.Time
}

// SystemClock returns the machine's clocks.
func SystemClock() Clock { return newSystemClock() }

// wallTolerance is how far the wall clock may get ahead of the other one before a lease is given up for it: less than
// every margin, so that a machine that was frozen does not overrun its lease.
const wallTolerance = 400 * time.Millisecond

// moment is a reading of both hands.
type moment struct {
	elapsed time.Duration
	wall    time.Time
}

func readClock(c Clock) moment { return moment{c.Elapsed(), c.Wall().Round(0)} }

// since is how much time has passed since m, at least: where the wall clock has jumped forward it is believed.
func (m moment) since(c Clock) time.Duration {
	now := readClock(c)
	passed := now.elapsed - m.elapsed
	if wall := now.wall.Sub(m.wall); wall > passed+wallTolerance {
		return wall
	}
	return passed
}
