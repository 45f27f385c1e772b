package kittest_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/daemons/kit/kittest"
	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

const c4 = id.Config("connect4_2p")

// spread wants one artifact on every live node.
func spread(d id.Digest) kit.Spec {
	return kit.Spec{Name: "MODEL_DISTRIBUTION", Scope: kit.ScopeCluster, Every: 5 * time.Second, New: func(env kit.Env) (kit.Daemon, error) {
		statement := func(t event.Type) func(kit.Want, []id.Node, []id.Node) kit.Statement {
			return func(w kit.Want, ok, missing []id.Node) kit.Statement {
				return kit.Statement{Type: t, Payload: event.Distribution{About: event.About{Config: c4}, Digest: w.Digest, OK: ok, Missing: missing}}
			}
		}
		return kit.NewSpread(env, kit.Spread{
			Courier: &kit.Courier{First: time.Second, Limit: time.Minute, Parallel: 2},
			Wants: func(v kit.View) []kit.Want {
				w := kit.Want{Ledger: "x", Key: string(d), Digest: d, Config: c4}
				for _, m := range v.Fleet.Members() {
					if m.Live() {
						w.Targets = append(w.Targets, m.ID)
					} else {
						w.Absent = append(w.Absent, m.ID)
					}
				}
				return []kit.Want{w}
			},
			Done: statement(event.ModelDistributionComplete.Type()),
			Failed: func(w kit.Want, n id.Node, attempts int, err error) kit.Statement {
				return statement(event.ModelDistributionFailed.Type())(w, nil, []id.Node{n})
			},
		}), nil
	}}
}

func completed(t *testing.T, r *kittest.Ring) []string {
	var out []string
	for _, e := range r.Log(event.ModelDistributionComplete.Type()) {
		p, err := event.ModelDistributionComplete.Read(e)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, fmt.Sprintf("%d ok, %d missing", len(p.OK), len(p.Missing)))
	}
	return out
}

func TestSpreadCompletesOncePerSetOfNodes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := kittest.New(t, c4)
		a, b, c := r.AddNode("a", id.Core, ring.Slots{}), r.AddNode("b", id.Core, ring.Slots{}), r.AddNode("c", id.Edge, ring.Slots{})
		m := r.AddArtifact(ring.KindModel, c4, "m", nil, nil, a)
		r.SetStatus(c, ring.Failed)
		stop := a.Start(spread(m.Digest), "")
		r.Eventually(10*time.Second, "partial", func() bool { return slices.Equal(completed(t, r), []string{"2 ok, 1 missing"}) })
		time.Sleep(time.Minute)
		if err := stop(); err != nil {
			t.Error(err)
		}
		b.Start(spread(m.Digest), "") // a successor says nothing again
		time.Sleep(time.Minute)
		r.SetStatus(c, ring.Alive)
		r.Eventually(10*time.Second, "whole", func() bool {
			return slices.Equal(completed(t, r), []string{"2 ok, 1 missing", "3 ok, 0 missing"})
		})
		time.Sleep(time.Minute)
		if got := completed(t, r); len(got) != 2 || c.Fetched(m.Digest) != 1 {
			t.Errorf("%v, %d transfers", got, c.Fetched(m.Digest))
		}
	})
}

// A node that takes for ever, and one that refuses, delay nobody else; the refusing one is reported once.
func TestSpreadIsNotHeldUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := kittest.New(t, c4)
		a, hangs, refuses, fine := r.AddNode("a", id.Core, ring.Slots{}), r.AddNode("hangs", id.Core, ring.Slots{}),
			r.AddNode("refuses", id.Edge, ring.Slots{}), r.AddNode("fine", id.Edge, ring.Slots{})
		m := r.AddArtifact(ring.KindModel, c4, "m", nil, nil, a)
		hangs.FetchFault = func(ctx context.Context, _ id.Digest) error { <-ctx.Done(); return ctx.Err() }
		refuses.FetchFault = func(context.Context, id.Digest) error { return errors.New("deliberate") }
		a.Start(spread(m.Digest), "")
		r.Eventually(5*time.Second, "the fine node has it", func() bool { return fine.Holds(m.Digest) })
		time.Sleep(time.Hour)
		reported := map[id.Node]int{}
		for _, e := range r.Log(event.ModelDistributionFailed.Type()) {
			p, _ := event.ModelDistributionFailed.Read(e)
			reported[p.Missing[0]]++
		}
		if reported[refuses.ID] != 1 || reported[hangs.ID] != 1 || len(completed(t, r)) != 0 {
			t.Errorf("reported %v, completed %v", reported, completed(t, r))
		}
		if a.Progressed("MODEL_DISTRIBUTION") < 100 {
			t.Error("a hanging transfer looks like a stuck daemon")
		}
		hangs.Set(func(n *kittest.Node) { n.FetchFault = nil })
		refuses.Set(func(n *kittest.Node) { n.FetchFault = nil })
		r.Eventually(10*time.Minute, "all have it", func() bool { return slices.Equal(completed(t, r), []string{"4 ok, 0 missing"}) })
	})
}

// A fetch that says yes and leaves no receipt is no success: who holds what is read from the state.
func TestSpreadBelievesReceiptsOnly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := kittest.New(t, c4)
		a, b := r.AddNode("a", id.Core, ring.Slots{}), r.AddNode("b", id.Core, ring.Slots{})
		m := r.AddArtifact(ring.KindModel, c4, "m", nil, nil, a)
		s := spread(m.Digest)
		env := a.Env(s, "")
		env.Orders = liar{}
		d, err := s.New(env)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if err := d.Run(ctx); err != nil {
			t.Error(err)
		}
		if got := completed(t, r); len(got) != 0 || b.Holds(m.Digest) {
			t.Errorf("completed %v", got)
		}
	})
}

type liar struct{}

func (liar) Fetch(context.Context, id.Node, id.Digest) error            { return nil }
func (liar) Ping(context.Context, id.Node) (d time.Duration, err error) { return 0, nil }

func TestFormerHolderIsRefused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := kittest.New(t, c4)
		a, b := r.AddNode("a", id.Core, ring.Slots{}), r.AddNode("b", id.Core, ring.Slots{})
		spec := kit.Spec{Name: "QUEUE_POPULATOR", Scope: kit.ScopeCluster, Every: time.Second, New: func(env kit.Env) (kit.Daemon, error) {
			n := 0
			return kit.NewPlanner(env, kit.Planner{Plan: func(kit.View, time.Time) (kit.Plan, error) {
				n++
				return kit.Plan{Items: []ring.WorkItem{{Type: "selfplay", Config: c4, Key: fmt.Sprintf("%s/%d", env.Self.Name, n)}}}, nil
			}}), nil
		}}
		stop := a.Start(spec, "")
		time.Sleep(5 * time.Second)
		b.Start(spec, "")
		before := len(r.Work(""))
		time.Sleep(10 * time.Second)
		for _, w := range r.Work("")[before:] {
			if w.Key[0] == 'a' {
				t.Errorf("%s was added under the old epoch", w.Key)
			}
		}
		if err := stop(); !errors.Is(err, kit.ErrStaleEpoch) {
			t.Errorf("the former holder ended with %v", err)
		}
		if len(r.Refused()) != 1 {
			t.Errorf("refused %v", r.Refused())
		}
	})
}

// A handler that blocks for ever goes to the dead letters; later events and the reconciling go on.
func TestDeciderOutlivesABlockedHandler(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := kittest.New(t, c4)
		a := r.AddNode("a", id.Core, ring.Slots{})
		var folded, reconciled atomic.Int32
		spec := kit.Spec{Name: "DATA_PIPELINE", Scope: kit.ScopeCluster, Every: 10 * time.Second, New: func(env kit.Env) (kit.Daemon, error) {
			return kit.NewDecider(env, kit.Decider{Types: []event.Type{event.HostOnline.Type()},
				Fold: func(ctx context.Context, rec event.Record) error {
					if rec.Seq == 1 {
						<-ctx.Done()
						return ctx.Err()
					}
					folded.Add(1)
					return nil
				},
				Reconcile: func(context.Context) error { reconciled.Add(1); return nil },
			}), nil
		}}
		for range 3 {
			r.State(event.HostOnline.Type(), event.Host{Subject: event.Subject{NodeID: a.ID}, Boot: a.Boot, Cause: "test"})
		}
		a.Start(spec, "")
		r.Eventually(5*time.Minute, "later events", func() bool { return folded.Load() == 2 && len(r.Letters()) == 1 })
		before := reconciled.Load()
		time.Sleep(time.Minute)
		if reconciled.Load() < before+5 {
			t.Error("it does not reconcile any more")
		}
	})
}

func TestChooseHolders(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 8).Draw(t, "nodes")
		copies := rapid.IntRange(1, 3).Draw(t, "copies")
		var members []ring.Member
		a := ring.Artifact{Digest: id.DigestOf([]byte(rapid.String().Draw(t, "content")))}
		for i := range n {
			m := ring.Member{ID: id.Node(fmt.Sprintf("%016x", i)), Class: id.Core, Boot: "b", Status: ring.Alive}
			if rapid.Bool().Draw(t, "edge") {
				m.Class = id.Edge
			}
			if rapid.Bool().Draw(t, "dead") && i > 0 {
				m.Status = ring.Failed
			}
			m.FailureDomain = rapid.SampledFrom([]string{"", "x", "y"}).Draw(t, "domain")
			if rapid.IntRange(0, 3).Draw(t, "held") == 0 {
				a.Holders = append(a.Holders, m.ID)
			}
			members = append(members, m)
		}
		self := members[0].ID
		targets, short := kit.ChooseHolders(members, a, self, copies, nil)
		after := a
		after.Holders = slices.Concat(a.Holders, targets)
		got, core := kit.Copies(members, after, self)
		if short == 0 && got < copies {
			t.Fatalf("%d copies of %d although nothing is short", got, copies)
		}
		before, hadCore := kit.Copies(members, a, self)
		if got < before || hadCore && !core {
			t.Fatalf("from %d copies to %d", before, got)
		}
		if before >= copies && hadCore && len(targets) > 0 {
			t.Fatal("more than enough")
		}
		for _, id := range targets {
			if id == self || slices.Contains(a.Holders, id) {
				t.Fatalf("target %s", id)
			}
		}
		livecore := slices.ContainsFunc(members, func(m ring.Member) bool {
			return m.Class == "core" && m.Live() && m.ID != self
		})
		if len(targets) > 0 && livecore && !core {
			// A live core node in a failure domain of its own is always taken.
			for _, m := range members {
				if m.Class == id.Core && m.Live() && m.ID != self && !a.Held(m.ID) && !slices.ContainsFunc(members, func(o ring.Member) bool {
					return o.ID != m.ID && o.Domain() == m.Domain() && after.Held(o.ID)
				}) {
					t.Fatal("no copy on a core node although one is free")
				}
			}
		}
	})
}

// What an item is asked for that the state has forgotten is over; the rest of the plan happens.
func TestForgottenWorkStopsNoPlan(t *testing.T) {
	t.Parallel()
	r := kittest.New(t)
	n := r.AddNode("a", id.Core, ring.Slots{CPU: 1})
	env := n.Env(kit.Spec{Name: "X", Scope: kit.ScopeNode}, "")
	plan := kit.Plan{Retry: []string{"w1"}, Cancel: []kit.Cancel{{WorkID: "w2", Reason: "old"}}, Notes: []kit.NoteChange{{Key: "k", Value: 1}}}
	if err := (kit.Executor{Self: env.Self, Effects: env.Effects, Events: env.Events}).Do(t.Context(), plan); err != nil {
		t.Fatal(err)
	}
	if _, kept := r.View("X").Notes.Note("k"); !kept {
		t.Error("the note was not written")
	}
}
