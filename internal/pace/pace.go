// Package pace lets the periodic work of a process fall on the same moments, so that an agent with nothing to do wakes
// once for all of it. Waking costs an idle machine more than what is looked at.
//
// It owns nothing but the arithmetic; whoever has a period calls it. Work that asks other nodes must not use it: the clocks
// of a ring agree, and all nodes would ask at once.
package pace

import "time"

// Until is how long to wait so that the wait ends with the others of this process, on the clock's whole seconds (or half and
// quarter seconds, for periods that are shorter). It is at most d and more than d less a second; where d is below a quarter
// of a second it is d.
func Until(d time.Duration) time.Duration {
	now := time.Now()
	for _, grid := range []time.Duration{time.Second, time.Second / 2, time.Second / 4} {
		if d >= grid {
			return now.Add(d).Truncate(grid).Sub(now.Round(0))
		}
	}
	return d
}
