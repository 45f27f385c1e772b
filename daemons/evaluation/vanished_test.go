package evaluation

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/daemons/kit/kittest"
	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/rating"
	"github.com/ringagent/ringagent/internal/ring"
)

// promoting is a ring in which a candidate has passed every gate, and the node that judges it.
func promoting(t *testing.T) (r *kittest.Ring, judge, edge *kittest.Node) {
	r = kittest.New(t, c4)
	return r, r.AddNode("a", id.Core, ring.Slots{CPU: 1}), r.AddNode("b", id.Edge, ring.Slots{CPU: 1})
}

func passing() []rating.Match {
	return append(played("me", "random", 100, 95), played("me", "heuristic", 100, 80)...)
}

// slowly makes whatever n fetches fail after the time of a dial, but for some.
func slowly(n *kittest.Node, but func(id.Digest) bool) {
	n.Set(func(n *kittest.Node) {
		n.FetchFault = func(ctx context.Context, d id.Digest) error {
			if but(d) {
				return nil
			}
			select {
			case <-time.After(15 * time.Second):
				return errors.New("no answer")
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	})
}

// Matches of long ago, whose holders have failed for good or hang, keep nobody from being promoted within the time in which
// the watchdog wants to see progress.
func TestLostMatchesHoldNoPromotionUp(t *testing.T) {
	t.Parallel()
	for name, status := range map[string]ring.Status{"failed": ring.Failed, "hanging": ring.Alive} {
		synctest.Test(t, func(t *testing.T) {
			r, judge, edge := promoting(t)
			gone := map[id.Digest]bool{}
			for i := range 60 {
				gone[r.AddArtifact(ring.KindMatches, c4, fmt.Sprint("old", i), nil, nil, edge).Digest] = true
			}
			r.SetStatus(edge, status)
			slowly(judge, func(d id.Digest) bool { return !gone[d] })
			good := evaluated(r, judge, "good", passing(), "")
			judge.Start(Promotion(), "")
			r.Eventually(time.Minute, name+": promoted", func() bool {
				n, _ := r.Name(ring.ModelName(c4))
				return n.Digest == good
			})
		})
	}
}

// A candidate whose matches, or who itself, vanished with a machine waits for that; meanwhile the daemon makes progress, the others
// are judged, and no name points to bytes that nobody can give.
func TestVanishedCandidateWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, judge, edge := promoting(t)
		slowly(judge, func(d id.Digest) bool { a, _ := r.View("").Library.Artifact(d); return a.Held(judge.ID) })
		lost := evaluated(r, edge, "lost", passing(), "")
		r.SetStatus(edge, ring.Failed)
		judge.Start(Promotion(), "")
		time.Sleep(30 * time.Minute)
		if n := judge.Progressed("AUTO_PROMOTION"); n < 25 {
			t.Errorf("%d steps of progress in half an hour", n)
		}
		bad := evaluated(r, judge, "bad", append(played("me", "random", 100, 50), played("me", "heuristic", 100, 10)...), "")
		r.Eventually(2*time.Minute, "the other is judged", func() bool { return len(r.Log(event.PromotionRejected.Type())) == 1 })
		if p, err := event.PromotionRejected.Read(r.Log(event.PromotionRejected.Type())[0]); err != nil || p.Digest != bad {
			t.Errorf("%+v, %v", p, err)
		}
		if _, ok := r.Name(ring.ModelName(c4)); ok {
			t.Error("the name points to a model that nobody has")
		}
		judge.Set(func(n *kittest.Node) { n.FetchFault = nil })
		r.SetStatus(edge, ring.Alive)
		r.Eventually(2*time.Minute, "promoted when it is back", func() bool { n, _ := r.Name(ring.ModelName(c4)); return n.Digest == lost })
	})
}

// The champion is on a core node before the name moves, so that the machine that trained it may vanish at once.
func TestPromotedModelIsOnACoreNode(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, judge, edge := promoting(t)
		good := evaluated(r, edge, "good", passing(), "")
		judge.Set(func(n *kittest.Node) {
			n.FetchFault = func(_ context.Context, d id.Digest) error {
				if d == good {
					return errors.New("deliberate")
				}
				return nil
			}
		})
		judge.Start(Promotion(), "")
		time.Sleep(10 * time.Minute)
		if _, ok := r.Name(ring.ModelName(c4)); ok {
			t.Fatal("promoted although only a rented machine has it")
		}
		if judge.Progressed("AUTO_PROMOTION") < 5 {
			t.Error("the watchdog saw no progress")
		}
		judge.Set(func(n *kittest.Node) { n.FetchFault = nil })
		r.Eventually(2*time.Minute, "promoted", func() bool { n, _ := r.Name(ring.ModelName(c4)); return n.Digest == good })
		if !judge.Holds(good) {
			t.Error("the champion is on a rented machine only")
		}
	})
}

// A candidate whose copy on the judge's own machine was altered after it was measured is not made champion, whatever receipts say,
// until there is a whole copy. Meanwhile others are judged.
func TestAlteredCandidateIsNotPromoted(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		whole func(core, edge *kittest.Node) *kittest.Node // who has a whole copy from the start
	}{
		{"the judge has the only copy", nil},
		{"so has a rented machine", func(_, edge *kittest.Node) *kittest.Node { return edge }},
		{"so has another core node", func(core, _ *kittest.Node) *kittest.Node { return core }},
	} {
		synctest.Test(t, func(t *testing.T) {
			r, judge, edge := promoting(t)
			core := r.AddNode("c", id.Core, ring.Slots{CPU: 1})
			good := evaluated(r, judge, "good", passing(), "")
			judge.Damage(good)
			if c.whole != nil {
				r.AddArtifact(ring.KindModel, c4, "good", nil, nil, c.whole(core, edge))
			}
			judge.Start(Promotion(), "")
			if c.whole == nil {
				time.Sleep(30 * time.Minute)
				if n, ok := r.Name(ring.ModelName(c4)); ok {
					t.Fatalf("%s: the name points to %s, whose right bytes nobody has", c.name, n.Digest.Short())
				}
				bad := evaluated(r, judge, "bad", append(played("me", "random", 100, 50), played("me", "heuristic", 100, 10)...), "")
				r.Eventually(2*time.Minute, c.name+": the other is judged", func() bool { return len(r.Log(event.PromotionRejected.Type())) == 1 })
				if p, err := event.PromotionRejected.Read(r.Log(event.PromotionRejected.Type())[0]); err != nil || p.Digest != bad {
					t.Errorf("%s: %+v, %v", c.name, p, err)
				}
				r.AddArtifact(ring.KindModel, c4, "good", nil, nil, edge)
			}
			r.Eventually(5*time.Minute, c.name+": promoted when there is a whole copy", func() bool { n, _ := r.Name(ring.ModelName(c4)); return n.Digest == good })
			if !judge.Holds(good) && !core.Holds(good) {
				t.Errorf("%s: the name moved, and no core node has the right bytes", c.name)
			}
		})
	}
}

// A candidate that another core node has is promoted although the judge could not fetch it, as on a slow link or a full disk.
func TestCandidateOfACoreNodeIsNotFetched(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, judge, _ := promoting(t)
		good := evaluated(r, r.AddNode("c", id.Core, ring.Slots{CPU: 1}), "good", passing(), "")
		slowly(judge, func(d id.Digest) bool { return d != good })
		judge.Start(Promotion(), "")
		r.Eventually(2*time.Minute, "promoted", func() bool { n, _ := r.Name(ring.ModelName(c4)); return n.Digest == good })
	})
}

// Candidates whose machine is there and hangs keep nobody from being judged, in their config or another one, and the daemon goes on.
func TestHangingMachineHoldsNoOtherCandidateUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, judge, edge := promoting(t)
		other := r.AddNode("c", id.Edge, ring.Slots{CPU: 1})
		hang := map[id.Digest]bool{}
		for i := range 4 {
			hang[evaluated(r, edge, fmt.Sprint("hanging", i), passing(), "")] = true
		}
		judge.Set(func(n *kittest.Node) {
			n.FetchFault = func(ctx context.Context, d id.Digest) error {
				if !hang[d] {
					return nil
				}
				<-ctx.Done()
				return ctx.Err()
			}
		})
		good := evaluated(r, other, "good", passing(), "")
		judge.Start(Promotion(), "")
		r.Eventually(15*time.Minute, "promoted", func() bool { n, _ := r.Name(ring.ModelName(c4)); return n.Digest == good })
		// How many steps that took depends on whose turn it was first.
		before := judge.Progressed("AUTO_PROMOTION")
		r.Eventually(15*time.Minute, "goes on", func() bool { return judge.Progressed("AUTO_PROMOTION") > before+2 })
	})
}

// A ring that was switched off for days finds the machine with a candidate gone when it starts, and gives its evaluation up; but
// the machine comes back a moment later.
func TestEvaluationGivenUpTooEarlyIsAskedForAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, judge, edge := promoting(t)
		r.AddArtifact(ring.KindModel, c4, "candidate", nil, nil, edge)
		stop := judge.Start(Evaluation(), "")
		r.Eventually(time.Minute, "asked for", func() bool { return len(r.Work(kit.StageEvaluate)) == 1 })
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		r.SetStatus(edge, ring.Failed)
		time.Sleep(60 * time.Hour)
		judge.Start(Evaluation(), "")
		state := func() ring.WorkState { return r.Work(kit.StageEvaluate)[0].State }
		r.Eventually(time.Minute, "given up", func() bool { return state() == ring.WorkCancelled })
		r.SetStatus(edge, ring.Alive)
		r.Eventually(2*time.Minute, "asked for again", func() bool { return state() == ring.WorkPending })
	})
}

// Candidates that vanished with their machine press nobody, may come back with it, and are given up in the end.
func TestVanishedCandidatesDoNotPileUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, judge, edge := promoting(t)
		for i := range 4 {
			r.AddArtifact(ring.KindModel, c4, fmt.Sprint(i), nil, nil, edge)
		}
		judge.Start(Evaluation(), `{"pressure_on":3,"pressure_off":1,"hard_limit":4}`)
		r.Eventually(2*time.Minute, "backpressure", func() bool { return len(r.Log(event.EvaluationBackpressure.Type())) == 1 })
		time.Sleep(time.Hour)
		r.SetStatus(edge, ring.Failed)
		r.Eventually(2*time.Minute, "released", func() bool { return len(r.Log(event.EvaluationBackpressureReleased.Type())) == 1 })
		next := r.AddArtifact(ring.KindModel, c4, "next", nil, nil, judge)
		r.Eventually(2*time.Minute, "the next one is asked for", func() bool {
			_, ok := r.View("").Queue.ByKey(kit.EvaluateKey(c4, next.Digest))
			return ok
		})
		open := func() int { n, _ := kit.Unfinished(r.View("").Queue, kit.StageEvaluate, c4); return n }
		time.Sleep(23 * time.Hour)
		if open() != 5 {
			t.Fatalf("%d evaluations wait before the day is over", open())
		}
		r.SetStatus(edge, ring.Alive) // its time begins again
		time.Sleep(time.Hour)
		r.SetStatus(edge, ring.Failed)
		time.Sleep(23 * time.Hour)
		if open() != 5 {
			t.Fatalf("%d evaluations wait although the machine was there yesterday", open())
		}
		time.Sleep(2 * time.Hour)
		if open() != 1 {
			t.Errorf("%d evaluations wait, want that of the candidate that is there", open())
		}
	})
}

// What is remembered of candidates and nodes that were passed over ends, or it would grow for as long as the assignment lasts.
func TestPromoterForgetsWhomItPassedOver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := kittest.New(t, c4)
		env := r.AddNode("core", id.Core, ring.Slots{}).Env(Promotion(), "")
		now := time.Now()
		p := &promoter{now: time.Now, views: env.View, log: env.Log, effects: env.Effects, store: env.Store, courier: kit.NewCourier(&kit.Courier{Orders: env.Orders}),
			later:   map[id.Digest]putOff{"old": {until: now.Add(-longestOff - 1)}, "waits": {until: now.Add(1)}, "just tried": {until: now.Add(-1)}},
			shunned: map[kit.Delivery]time.Time{{Digest: "old"}: now, {Digest: "shunned"}: now.Add(1)}}
		if err := p.step(t.Context()); err != nil {
			t.Fatal(err)
		}
		if len(p.later) != 2 || len(p.shunned) != 1 {
			t.Errorf("%v, %v", p.later, p.shunned)
		}
	})
}
