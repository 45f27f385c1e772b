//go:build !linux

package leader

import "time"

// systemClock takes Go's monotonic clock. On macOS that one stops during sleep (mach_absolute_time), and the one that does
// not (mach_continuous_time) cannot be reached without cgo; there a sleep shows as a jump of the wall clock, which moment
// believes.
type systemClock struct{ born time.Time }

func newSystemClock() Clock { return systemClock{born: time.Now()} }

func (c systemClock) Elapsed() time.Duration { return time.Since(c.born) }
func (systemClock) Wall() time.Time          { return time.Now() }
