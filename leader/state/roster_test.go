package state

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

const nodeD id.Node = "dddddddddddddddd"

func TestEnrol(t *testing.T) {
	t.Parallel()
	token := func(uses int) PutToken {
		return PutToken{ring.Token{ID: "t", SecretHash: "hash", Class: id.Edge, Uses: uses, Expires: epochStart.Add(time.Hour)}}
	}
	used := func(r *rig) int { tok, _ := r.m.View().Token("t"); return len(tok.Used) }
	e := enrolment(nodeD, "t", id.Edge)
	with := func(change func(*Enrol)) Enrol { x := e; change(&x); return x }
	for _, test := range []struct {
		name string
		prep func(*rig)
		body Enrol
		want Code
	}{
		{"fresh", nil, e, ""},
		{"unknown token", nil, with(func(x *Enrol) { x.TokenID = "z" }), CodeUnauth},
		{"no token", nil, with(func(x *Enrol) { x.TokenID = "" }), CodeUnauth},
		{"wrong secret", nil, with(func(x *Enrol) { x.SecretHash = "other" }), CodeUnauth},
		{"other class", nil, with(func(x *Enrol) { x.Class = id.Core }), CodeRefused},
		{"no class", nil, with(func(x *Enrol) { x.Class = "" }), CodeInvalid},
		{"expired", func(r *rig) { r.at = r.at.Add(2 * time.Hour) }, e, CodeUnauth},
		{"revoked token", func(r *rig) { r.ok(RevokeToken{"t"}, nil) }, e, CodeUnauth},
		{"used by another key", func(r *rig) {
			r.ok(with(func(x *Enrol) { x.Member.ID, x.Member.KeyHash, x.Member.Name = "eeeeeeeeeeeeeeee", "k", "n-e" }), nil)
		}, e, CodeUnauth},
		{"same key again, its answer lost", func(r *rig) { r.ok(e, nil) }, e, ""},
		{"same key again after the token's end", func(r *rig) { r.ok(e, nil); r.at = r.at.Add(2 * time.Hour) }, e, ""},
		{"same key, other secret", func(r *rig) { r.ok(e, nil) }, with(func(x *Enrol) { x.SecretHash = "other" }), CodeUnauth},
		{"revoked key", func(r *rig) { r.ok(e, nil); r.ok(Revoke{Node: nodeD}, nil) }, e, CodeUnauth},
		{"revoked key of a forgotten node, new id", func(r *rig) { r.ok(e, nil); r.ok(Revoke{Node: nodeD, Prune: true}, nil) },
			with(func(x *Enrol) { x.Member.ID = "eeeeeeeeeeeeeeee" }), CodeUnauth},
		{"id of another machine", nil, with(func(x *Enrol) { x.Member.ID = nodeA }), CodeRefused},
		{"name taken", nil, with(func(x *Enrol) { x.Member.Name = "n-a" }), CodeRefused},
		{"name of a failed node", func(r *rig) {
			r.ok(SetStatus{Node: nodeA, Boot: bootOf(nodeA), Status: ring.Failed, Cause: "x"}, nil)
		}, with(func(x *Enrol) { x.Member.Name = "n-a" }), ""},
		{"bad id", nil, with(func(x *Enrol) { x.Member.ID = "d" }), CodeInvalid},
		{"bad name", nil, with(func(x *Enrol) { x.Member.Name = "-" }), CodeInvalid},
		{"no key", nil, with(func(x *Enrol) { x.Member.KeyHash = "" }), CodeInvalid},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.ok(token(1), nil)
			if test.prep != nil {
				test.prep(r)
			}
			had, tried := r.m.View().TryEnrol(test.body, r.at)
			if test.want != "" {
				res := r.refused(test.want, test.body, nil)
				if res.Message == "" {
					t.Error("refused without a message")
				}
				if tried.Code != res.Code || tried.Message != res.Message || had != nil {
					t.Errorf("tried: %v %+v, then refused with %+v", had, tried, res)
				}
				return
			}
			if again := used(r) > 0; tried.Code != "" || (had != nil) != again {
				t.Errorf("tried: %v %+v, then admitted; again: %v", had, tried, again)
			}
			m := r.ok(test.body, nil).Value.(ring.Member)
			if had != nil && had.ID != m.ID {
				t.Errorf("tried: %+v, then %+v", had, m)
			}
			if m.ID != test.body.Member.ID || m.Class != id.Edge {
				t.Errorf("%+v", m)
			}
			if tok, _ := r.m.View().Token("t"); len(tok.Used) != 1 {
				t.Errorf("uses of the token: %v", tok.Used)
			}
			if by, _ := r.m.View().MemberByName(m.Name); by.ID != m.ID {
				t.Errorf("%s means %s", m.Name, by.ID)
			}
		})
	}
}

func TestNameGoesBackToAnOlderBearer(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.ok(SetStatus{Node: nodeA, Boot: bootOf(nodeA), Status: ring.Left, Cause: "bye"}, nil)
	e := enrolment(nodeD, "tok", id.Core)
	e.Member.Name = "n-a"
	r.ok(e, nil)
	r.ok(Revoke{Node: nodeD, Prune: true}, nil)
	if m, _ := r.m.View().MemberByName("n-a"); m.ID != nodeA {
		t.Fatalf("%+v", m)
	}
	r.ok(Forget{nodeA}, nil)
	if _, ok := r.m.View().MemberByName("n-a"); ok {
		t.Fatal("a forgotten node bears a name")
	}
	r.refused(CodeRefused, Forget{nodeB}, nil)
}

func TestRevokeTakesEverything(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.assign("EVALUATION", nodeB)
	a := r.artifact("x", ring.KindPack, nodeA, nodeB)
	w := r.enqueue(item("selfplay", "k"))
	r.claim(w, "c", nodeB)
	end := r.seq()
	r.ok(Revoke{Node: nodeB}, nil)
	v := r.m.View()
	if got, _ := v.Artifact(a.Digest); !slices.Equal(got.Holders, []id.Node{nodeA}) {
		t.Errorf("holders %v", got.Holders)
	}
	if got := r.work(w); got.State != ring.WorkPending || got.Claim != nil {
		t.Errorf("work %+v", got)
	}
	if m, _ := v.Member(nodeB); !m.Revoked || m.Live() || !v.IsRevoked(nodeB) || !v.IsKeyRevoked(m.KeyHash) {
		t.Errorf("member %+v", m)
	}
	if d := cmp.Diff([]string{"HOST_OFFLINE", "NODE_REVOKED", "WORK_RETRY"}, r.told(end)); d != "" {
		t.Error(d)
	}
	r.refused(CodeUnauth, Report{ring.Member{ID: nodeB, Boot: "2222222222222222"}}, nil)
	r.refused(CodeConflict, FinishWork{Work: w, Claim: "c", Error: "late"}, nil)
	r.ok(AddReceipts{[]ring.Receipt{{Node: nodeB, Digest: a.Digest}}}, nil)
	if got, _ := r.m.View().Artifact(a.Digest); got.Held(nodeB) {
		t.Error("a receipt of a revoked node was taken")
	}
}

func TestHostFactsOncePerBoot(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	status := func(s ring.Status) {
		t.Helper()
		r.ok(SetStatus{Node: nodeB, Boot: bootOf(nodeB), Status: s, Cause: "test"}, nil)
	}
	end := r.seq()
	status(ring.Failed)
	status(ring.Failed)
	r.report(nodeB, bootOf(nodeB)) // it was only slow
	if m, _ := r.m.View().Member(nodeB); m.Status != ring.Alive {
		t.Fatalf("%+v", m)
	}
	status(ring.Failed)
	r.report(nodeB, "3333333333333333")
	r.refused(CodeConflict, SetStatus{Node: nodeB, Boot: bootOf(nodeB), Status: ring.Failed, Cause: "old news"}, nil)
	// Facts about the boot come once; the ring of three as a whole falls below its share with each loss, and says so.
	want := []string{"HOST_OFFLINE", "P2P_NODE_DEAD", "P2P_CLUSTER_UNHEALTHY", "P2P_CLUSTER_HEALTHY", "P2P_CLUSTER_UNHEALTHY", "HOST_ONLINE",
		"P2P_CLUSTER_HEALTHY"}
	if d := cmp.Diff(want, r.told(end)); d != "" {
		t.Error(d)
	}
	for _, rec := range r.records(0) {
		inCatalogue(t, rec)
	}
}

func TestRestartKeepsClaims(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	w := r.enqueue(item("selfplay", "k"))
	r.claim(w, "c", nodeB)
	r.ok(StartWork{Work: w, Claim: "c"}, nil)
	r.report(nodeB, "3333333333333333")
	r.ok(FinishWork{Work: w, Claim: "c", Result: &ring.WorkResult{Counters: map[string]int64{"games": 4}, Seconds: 1}}, nil)
	if got := r.work(w); got.State != ring.WorkDone || got.Attempts != 1 {
		t.Fatalf("%+v", got)
	}
}

func TestLeadAndSettings(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.refused(CodeConflict, Lead{Node: nodeB, Term: 1}, nil)
	r.ok(Lead{Node: nodeB, Term: 7}, nil)
	if v := r.m.View(); v.Term() != 7 || v.Coordinator() != nodeB {
		t.Fatalf("term %d of %s", v.Term(), v.Coordinator())
	}
	s := ring.Settings{Timing: ring.TimingDev, Voters: 3}
	r.refused(CodeConflict, PutSettings{Expect: 1, Settings: s}, nil)
	r.ok(PutSettings{Settings: s}, nil)
	r.refused(CodeConflict, PutSettings{Settings: s}, nil)
	s.Voters = 2
	r.refused(CodeInvalid, PutSettings{Expect: 1, Settings: s}, nil)
	if got, version := r.m.View().Settings(); got.Voters != 3 || version != 1 {
		t.Fatalf("%+v at %d", got, version)
	}
}

func TestOldOutboxesOfRemovedNodesAreForgotten(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for _, n := range []id.Node{nodeA, nodeB} {
		o := &outbox{origin: "o-" + event.Origin(n), node: n}
		r.events(o.batch(note(1)))
	}
	r.ok(Revoke{Node: nodeB, Prune: true}, nil)
	r.ok(Lead{Node: nodeA, Term: 2}, nil)
	if _, ok := r.m.View().Origin("o-" + event.Origin(nodeB)); !ok {
		t.Fatal("forgotten too early")
	}
	r.at = r.at.Add(31 * 24 * time.Hour)
	r.ok(Lead{Node: nodeA, Term: 3}, nil)
	if _, ok := r.m.View().Origin("o-" + event.Origin(nodeB)); ok {
		t.Error("kept for ever")
	}
	if _, ok := r.m.View().Origin("o-" + event.Origin(nodeA)); !ok {
		t.Error("a member's outbox was forgotten")
	}
}
