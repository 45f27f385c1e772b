package leader

import (
	"testing"
	"time"
)

func TestCopyIsAsNewAsTheNewestWordItFulfils(t *testing.T) {
	t.Parallel()
	at := func(s int) time.Time { return time.Unix(int64(s), 0) }
	var c told
	if !c.asOf(100).IsZero() {
		t.Error("nobody has spoken yet")
	}
	c.note(telling{5, at(1)}, 4)
	if !c.asOf(4).IsZero() {
		t.Error("5 of 5 are not applied")
	}
	c.note(telling{9, at(2)}, 5)
	c.note(telling{7, at(3)}, 5) // another coordinator, which knows of less
	if got := c.asOf(5); got != at(1) {
		t.Error("with 5 applied:", got)
	}
	if got := c.asOf(8); got != at(3) {
		t.Error("with 8 applied:", got)
	}
	for i := range 5 * tellingsKept {
		c.note(telling{uint64(100 + i), at(10 + i)}, 8)
	}
	if len(c.ahead) > tellingsKept {
		t.Error("kept:", len(c.ahead))
	}
	if got := c.asOf(1000); got != at(9+5*tellingsKept) {
		t.Error("after it has caught up:", got)
	}
	if c.spoke(at(1)); c.asOf(1000) != at(9+5*tellingsKept) {
		t.Error("went back")
	}
}
