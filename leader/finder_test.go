package leader

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

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
	if f.known.node != "" || f.doubts(twoNode) || !f.strays(twoNode) {
		t.Errorf("a way to nowhere: known %+v, doubted %v, strayed %v", f.known, f.doubted, f.strayed)
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
	astray := says(3, "another", false)
	astray.strayed = true
	ranking := []answer{ // the best first
		says(4, "another", true), says(3, "itself", false), says(3, "another", false), astray, says(3, "itself", true),
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

// orphans is a Caller in a ring whose coordinator has died: its host refuses calls, and the two others name it until one of them is
// elected.
type orphans struct {
	Caller
	elected      atomic.Bool
	who, relayed atomic.Int32
}

func (o *orphans) CallRaw(_ context.Context, n id.Node, method string, _ []byte) ([]byte, error) {
	if method == methodWho {
		o.who.Add(1)
	}
	switch elected := o.elected.Load(); {
	case n == oneNode:
		return nil, neverSent{errors.New("connection refused")}
	case method == methodWho && elected:
		return seal1(json.Marshal(whoAnswer{Coordinator: twoNode, Term: 6})), nil
	case method == methodWho:
		return seal1(json.Marshal(whoAnswer{Coordinator: oneNode, Term: 5})), nil
	case elected && n == twoNode:
		return seal1([]byte("{}"), nil), nil
	}
	o.relayed.Add(1)
	return seal1(nil, ErrNoCoordinator), nil
}

// However many calls wait for a coordinator after the last one has died, the others are asked for it a few times in a second, and the
// new one is found soon.
func TestCallersOfADeadCoordinatorAskTogether(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const callers, three = 50, id.Node("0000000000000003")
		n := bare(Ports{Seeds: func() []id.Node { return []id.Node{oneNode, twoNode, three} }})
		n.finder.n = n
		n.finder.known = remote{n: n, node: oneNode}
		n.cfg.Self.Node = "0000000000000009"
		caller := &orphans{}
		n.cfg.Caller = caller
		begin := time.Now()
		var group sync.WaitGroup
		for i := range callers {
			group.Go(func() {
				time.Sleep(time.Duration(i) * time.Millisecond)
				if err := n.toCoordinator(t.Context(), methodHeartbeat, HeartbeatCall{}, nil, nil); err != nil {
					t.Error(err)
				}
				if took := time.Since(begin); took > 2*time.Second+vainPause+retryPause+callers*time.Millisecond {
					t.Errorf("found after %s", took)
				}
			})
		}
		time.Sleep(2 * time.Second)
		caller.elected.Store(true)
		group.Wait()
		if got := caller.who.Load(); got > 3*15 {
			t.Errorf("%d questions in 2 seconds", got)
		}
		if caller.relayed.Load() == 0 || n.finder.doubts(twoNode) || n.finder.doubts(three) || !n.finder.doubts(oneNode) {
			t.Errorf("%d calls relayed, doubted %v", caller.relayed.Load(), n.finder.doubted)
		}
	})
}

// slow is a Caller that takes its time to say who coordinates.
type slow struct {
	Caller
	who atomic.Int32
}

func (s *slow) CallRaw(ctx context.Context, n id.Node, _ string, _ []byte) ([]byte, error) {
	s.who.Add(1)
	if !sleep(ctx, 500*time.Millisecond) {
		return nil, ctx.Err()
	}
	return seal1(json.Marshal(whoAnswer{Coordinator: n, Term: 1})), nil
}

// Who comes while the others are being asked waits for what they say; if whoever asked goes away meanwhile, another one asks.
func TestOneQuestionAtATime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := bare(Ports{Seeds: func() []id.Node { return []id.Node{oneNode} }})
		n.finder.n = n
		caller := &slow{}
		n.cfg.Caller = caller
		first, leave := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer leave()
		var group sync.WaitGroup
		group.Go(func() {
			if r, ok := n.finder.find(first); ok {
				t.Errorf("found %+v after it has gone", r)
			}
		})
		synctest.Wait()
		for range 20 {
			group.Go(func() {
				if r, ok := n.finder.find(t.Context()); !ok || r.node != oneNode {
					t.Errorf("found %+v", r)
				}
			})
		}
		group.Wait()
		if got := caller.who.Load(); got != 2 {
			t.Errorf("asked %d times", got)
		}
	})
}
