package leader

import (
	"context"
	"testing"
)

// An office that was lost before it was entered takes nothing from the one that was taken after it, not for a moment.
func TestLostOfficeUnseatsNobody(t *testing.T) {
	t.Parallel()
	n := bare(Ports{})
	ended, end := context.WithCancel(t.Context())
	first, second := &term{n: n, ctx: ended, cancel: end}, &term{n: n, ctx: t.Context(), cancel: func() {}}
	end()
	if !n.enter(second) || n.term.Load() != second {
		t.Fatal("the office is not taken")
	}
	if n.enter(first) || n.term.Load() != second {
		t.Error("a lost office is taken, or has unseated another")
	}
}
