package leader

import (
	"testing"
	"time"
)

func TestSnapshotsCheck(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		s    Snapshots
		ok   bool
	}{
		{"the defaults", Snapshots{}, true},
		{"all smaller", Snapshots{Entries: 16, Trailing: 8, Every: 5 * time.Millisecond}, true},
		{"more stays than was there", Snapshots{Entries: 16}, false},
		{"less than no bytes", Snapshots{Bytes: -1}, false},
		{"too often", Snapshots{Every: time.Millisecond}, false},
		{"backwards", Snapshots{Every: -time.Second}, false},
	} {
		c.s.fill()
		if err := c.s.check(); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	var s Snapshots
	if s.fill(); s != (Snapshots{Entries: 8192, Bytes: 64 << 20, Trailing: 1024, Every: 30 * time.Second}) {
		t.Errorf("the defaults are %+v", s)
	}
}
