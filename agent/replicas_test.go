package agent

import (
	"errors"
	"fmt"
	"testing"

	"github.com/ringagent/ringagent/agent/api"
)

// A replica is held against the asked node's where both have a seq, whichever of the two is ahead; the first seq that differs is named.
func TestReplicaAheadIsCompared(t *testing.T) {
	t.Parallel()
	chain := func(last, differs uint64) func(uint64) (string, error) {
		return func(seq uint64) (string, error) {
			if seq < 1 || seq > last {
				return "", fmt.Errorf("seq %d is not there", seq)
			}
			if differs != 0 && seq >= differs {
				return fmt.Sprint("other ", seq), nil
			}
			return fmt.Sprint(seq), nil
		}
	}
	row := func(name string, oldest, last uint64, hash func(uint64) (string, error)) api.VerifyNode {
		h, _ := hash(last)
		return api.VerifyNode{Node: name, OK: new(true), Oldest: &oldest, LastSeq: &last, Hash: &h}
	}
	mine := chain(100, 0)
	here := row("here", 3, 100, mine)
	for _, c := range []struct{ oldest, last, differs, want uint64 }{
		{1, 100, 0, 0}, {1, 150, 0, 0}, {1, 60, 0, 0}, {1, 0, 0, 0},
		{1, 150, 77, 77}, {1, 150, 100, 100}, {1, 150, 1, 3}, {90, 150, 40, 90}, {1, 60, 60, 60}, {1, 60, 9, 9}, {1, 100, 50, 50},
		{1, 150, 101, 0},  // they agree as far as both go
		{120, 150, 40, 0}, // nothing in common is kept
	} {
		its := chain(c.last, c.differs)
		got := compared(here, row("there", c.oldest, c.last, its), mine, its)
		switch {
		case c.want == 0 && !*got.OK:
			t.Errorf("%+v: %+v", c, got)
		case c.want != 0 && (*got.OK || got.FirstBad == nil || *got.FirstBad != c.want):
			t.Errorf("%+v: ok %v, first bad %v", c, *got.OK, got.FirstBad)
		}
	}
	// What cannot be compared is no proof.
	gone := func(uint64) (string, error) { return "", errors.New("gone") }
	if got := compared(here, row("there", 1, 150, chain(150, 0)), mine, gone); got.OK != nil || got.Error == "" {
		t.Errorf("not compared: %+v", got)
	}
	// A difference that was seen stays one, though where it begins cannot be found.
	once := func(hash func(uint64) (string, error)) func(uint64) (string, error) {
		asked := 0
		return func(seq uint64) (string, error) {
			if asked++; asked > 1 {
				return gone(seq)
			}
			return hash(seq)
		}
	}
	its := chain(150, 40)
	if got := compared(here, row("there", 1, 150, its), mine, once(its)); got.OK == nil || *got.OK || got.FirstBad == nil || *got.FirstBad != 100 || got.Error == "" {
		t.Errorf("a difference whose beginning is not found: %+v", got)
	}
	for _, bad := range []api.VerifyNode{{Node: "silent"}, {Node: "odd", OK: new(true)}, {Node: "broken", OK: new(false)}} {
		if got := compared(here, bad, mine, gone); got.Error != "" {
			t.Errorf("%+v", got)
		}
	}
}
