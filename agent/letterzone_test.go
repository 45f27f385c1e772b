package agent

import (
	"testing"
	"time"

	"github.com/ringagent/ringagent/eventlog"
)

// Times are UTC for whoever reads JSON, also those that an older build has kept in its own zone.
func TestLettersAreInUTC(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.FixedZone("far", 5*3600))
	l := toRing(eventlog.Letter{FirstFailed: at, LastFailed: at})
	if l.FirstFailed.Location() != time.UTC || l.LastFailed.Location() != time.UTC || !l.LastFailed.Equal(at) {
		t.Errorf("%s, %s", l.FirstFailed, l.LastFailed)
	}
}
