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
	c.note(telling{7, at(3)}, 5) // another coordinator, which knows of less: the ring has 9 all the same
	for _, applied := range []uint64{5, 8} {
		if got := c.asOf(applied); got != at(1) {
			t.Errorf("with %d applied: %v", applied, got)
		}
	}
	if got := c.asOf(9); got != at(2) {
		t.Error("with 9 applied:", got)
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

// A sign that a later call has overtaken says nothing of the ring as it is when it comes.
func TestOvertakenSignIsNoNews(t *testing.T) {
	t.Parallel()
	at := func(s int) time.Time { return time.Unix(int64(s), 0) }
	var stuck, sound told
	for _, to := range []*told{&stuck, &sound} {
		to.note(telling{12, at(1)}, 12)
		to.note(telling{20, at(2)}, 12)
	}
	stuck.note(telling{12, at(9)}, 12) // a copy that stands still
	if got := stuck.asOf(12); !got.Equal(at(1)) {
		t.Errorf("as of %v", got)
	}
	sound.note(telling{12, at(9)}, 20)
	if got := sound.asOf(20); !got.Equal(at(2)) {
		t.Errorf("as of %v", got)
	}
	sound.note(telling{20, at(10)}, 20) // the same once more
	if got := sound.asOf(20); !got.Equal(at(10)) {
		t.Errorf("as of %v", got)
	}
}
