package transfer

import (
	"errors"
	"time"
)

const (
	// leastRate is what a transfer has to come to, in bytes a second, for others to wait until it is done; one that is slower has
	// its stream for leastTurn, and for the chunk that is under way then. A link of 1 Mbit/s has twice that, and where it is
	// divided its transfers take turns.
	leastRate = 64 << 10
	leastTurn = time.Minute
)

// errGaveWay says that a transfer was too slow to go on while others waited for its stream. It is taken up again.
var errGaveWay = errors.New("too slow while others wait")

// pace is how fast one transfer has been of late.
type pace struct {
	since time.Time
	bytes int64
}

// slow judges the time since the last judgement, once that is long enough: what was fast before is no excuse.
func (p *pace) slow() bool {
	took := time.Since(p.since)
	if took < leastTurn {
		return false
	}
	slow := float64(p.bytes) < leastRate*took.Seconds()
	p.since, p.bytes = time.Now(), 0
	return slow
}
