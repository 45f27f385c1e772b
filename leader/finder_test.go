package leader

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/ringagent/ringagent/internal/id"
)

// What is known of the way to the coordinator is forgotten for its own failures only, not for those of calls that went another
// way, or that were under way before it was found.
func TestLateFailureLeavesAGoodWay(t *testing.T) {
	t.Parallel()
	late := fmt.Errorf("late: %w", ErrUnknownOutcome)
	f := &finder{n: bare(Ports{})}
	through := remote{n: f.n, node: oneNode, via: twoNode, found: 2}
	f.known = through
	f.doubt(remote{n: f.n, node: oneNode, found: 1}, late)
	if f.known != through || !f.doubts(oneNode) || f.doubts(twoNode) {
		t.Errorf("a call that went directly: known %+v, doubted %v", f.known, f.doubted)
	}
	before := through
	before.found = 1
	f.doubt(before, late)
	if f.known != through || f.doubts(twoNode) {
		t.Errorf("a call from before: known %+v, doubted %v", f.known, f.doubted)
	}
	f.doubt(through, errors.New("no answer"))
	if f.known.node != "" || f.doubts(twoNode) {
		t.Errorf("its own failure: known %+v, doubted %v", f.known, f.doubted)
	}
	f.known = through
	f.doubt(through, ErrNoCoordinator)
	if f.known.node != "" || !f.doubts(twoNode) {
		t.Errorf("a way to nowhere: known %+v, doubted %v", f.known, f.doubted)
	}
}

func TestBetterAnswer(t *testing.T) {
	t.Parallel()
	const three = "0000000000000003"
	says := func(term uint64, by string, doubted bool) answer {
		a := answer{doubted: doubted, whoAnswer: whoAnswer{Coordinator: oneNode, Term: term}}
		a.by = twoNode
		if by == "itself" {
			a.by = oneNode
		}
		return a
	}
	ranking := []answer{ // the best first
		says(4, "another", true), says(3, "itself", false), says(3, "another", false), says(3, "itself", true),
		says(3, "another", true), {by: three},
	}
	for i, a := range ranking {
		for j, b := range ranking {
			if a.better(b) != (i < j) {
				t.Errorf("%d before %d: %v", i, j, a.better(b))
			}
		}
	}
}

// refusing is a Caller whose first call of the coordinator surely does not arrive.
type refusing struct {
	Caller
	calls int
}

type neverSent struct{ error }

func (neverSent) Unsent() bool { return true }

func (r *refusing) CallRaw(_ context.Context, n id.Node, method string, _ []byte) ([]byte, error) {
	if method == methodWho {
		return seal1(json.Marshal(whoAnswer{Coordinator: n, Term: 1})), nil
	}
	if r.calls++; r.calls == 1 {
		return nil, neverSent{errors.New("connection refused")}
	}
	return seal1([]byte("{}"), nil), nil
}

// A call that has surely not arrived is made again: its outcome is not unknown.
func TestCallThatDidNotArriveIsMadeAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := bare(Ports{Seeds: func() []id.Node { return []id.Node{oneNode} }})
		n.finder.n = n
		n.cfg.Self.Node = twoNode
		caller := &refusing{}
		n.cfg.Caller = caller
		if err := n.toCoordinator(t.Context(), methodHeartbeat, HeartbeatCall{}, nil, nil); err != nil || caller.calls != 2 {
			t.Errorf("%d calls: %v", caller.calls, err)
		}
		if !n.finder.doubts(oneNode) {
			t.Error("the way that failed is not in doubt")
		}
	})
}
