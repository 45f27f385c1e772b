package state

import (
	"encoding/json"
	"testing"

	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// effects is one command of every kind that a singleton may propose, each of which the state would take.
func effects(r *rig) map[string]any {
	model := r.artifact("model-1", ring.KindModel, nodeA, nodeB, nodeC)
	failed := r.enqueue(item("selfplay", "failed"))
	r.ok(CancelWork{Work: failed, Reason: "test"}, nil)
	pending := r.enqueue(item("selfplay", "pending"))
	claimed := r.enqueue(item("selfplay", "claimed"))
	r.claim(claimed, "c1", nodeA)
	_, version := r.m.View().Settings()
	settings, _ := r.m.View().Settings()
	name := SetName{Key: ring.ModelName(c4), Digest: model.Digest}
	return map[string]any{
		"name":        name,
		"enqueue":     Enqueue{[]ring.WorkItem{item("selfplay", "new")}},
		"cancel":      CancelWork{Work: pending, Reason: "test"},
		"retry":       RetryWork{Work: failed},
		"release":     ReleaseWork{Work: claimed, Claim: "c1", Reason: "test"},
		"finish":      FinishWork{Work: claimed, Claim: "c1", Error: "broken"},
		"artifacts":   AddArtifacts{[]ring.Artifact{{Digest: digest("x"), Kind: ring.KindFile, Bytes: 1, Holders: []id.Node{nodeA}}}},
		"receipts":    AddReceipts{[]ring.Receipt{{Node: nodeA, Digest: model.Digest}}},
		"drop copies": DropCopies{Receipts: []ring.Receipt{{Node: nodeC, Digest: model.Digest}}},
		"positions":   SetPositions{[]ring.Position{{Consumer: "AUTO_PROMOTION/main", Seq: 3}}},
		"note":        PutNote{Key: "plan", Value: []byte(`{"a":1}`)},
		"dead letter": PutDeadLetter{Letter: ring.DeadLetter{ID: "e1/AUTO_PROMOTION", Handler: "AUTO_PROMOTION"}},
		"settings":    PutSettings{Expect: version, Settings: settings},
		"status":      SetStatus{Node: nodeB, Boot: bootOf(nodeB), Status: ring.Draining, Cause: "test"},
		"effect":      Effect{[]Step{{KindName, name}, {KindNote, PutNote{Key: "k", Value: []byte(`1`)}}}},
	}
}

// olderEpochTakesEffect applies every kind of effect under an epoch that is over and names the first one that was taken.
func olderEpochTakesEffect(t *testing.T, change func(*Machine)) string {
	names := []string{"name", "enqueue", "cancel", "retry", "release", "finish", "artifacts", "receipts", "drop copies",
		"positions", "note", "dead letter", "settings", "status", "effect"}
	for _, name := range names {
		for _, who := range []id.Node{"", nodeA, nodeB} {
			r := newRig(t)
			old := r.assign("AUTO_PROMOTION", nodeA)
			r.assign("AUTO_PROMOTION", nodeB)
			body := effects(r)[name]
			change(r.m)
			res := r.command(Command{Kind: kindOf(body), By: who, Fence: old, Body: body})
			if res.Code != CodeStale {
				return name
			}
		}
	}
	return ""
}

func TestOlderEpochIsRefused(t *testing.T) {
	t.Parallel()
	if name := olderEpochTakesEffect(t, func(*Machine) {}); name != "" {
		t.Errorf("%s took effect under an older epoch", name)
	}
	broken := func(m *Machine) { m.rules.fence = func(*State, ring.Fence, id.Node) error { return nil } }
	if olderEpochTakesEffect(t, broken) == "" {
		t.Error("a machine that checks no fence passed: the test proves nothing")
	}
}

func TestCurrentEpochTakesEffect(t *testing.T) {
	t.Parallel()
	for name := range effects(newRig(t)) {
		r := newRig(t)
		f := r.assign("AUTO_PROMOTION", nodeA)
		body := effects(r)[name]
		if res := r.command(Command{Kind: kindOf(body), By: nodeA, Fence: f, Body: body}); res.Code != "" {
			t.Errorf("%s: %s: %s", name, res.Code, res.Message)
		}
	}
}

func TestFenceOfAnotherNodeIsRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	f := r.assign("AUTO_PROMOTION", nodeA)
	body := PutNote{Key: "k", Value: []byte("1")}
	if res := r.command(Command{Kind: KindNote, By: nodeB, Fence: f, Body: body}); res.Code != CodeStale {
		t.Fatalf("%+v", res)
	}
}

func TestEffectsThatNeedAFence(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	f := r.assign("AUTO_PROMOTION", nodeA)
	other := r.assign("EVALUATION", nodeB)
	r.refused(CodeStale, PutNote{Key: "k", Value: []byte("1")}, nil)
	pos := SetPositions{[]ring.Position{{Consumer: "AUTO_PROMOTION", Seq: 1}}}
	r.refused(CodeStale, pos, nil)
	r.refused(CodeStale, pos, other)
	r.ok(pos, f)
	letter := PutDeadLetter{Letter: ring.DeadLetter{ID: "x", Handler: "AUTO_PROMOTION/h"}}
	r.refused(CodeStale, letter, nil)
	r.ok(letter, f)
	r.ok(PutDeadLetter{Letter: letter.Letter, Drop: true}, nil)
}

// bootsUnderOneEpoch restarts a node that holds singletons, and names one whose epoch was seen with two boots.
func bootsUnderOneEpoch(t *testing.T, change func(*Machine)) string {
	r := newRig(t)
	change(r.m)
	held := map[id.Epoch]id.Boot{}
	look := func() (twice string) {
		for a := range r.m.View().Assignments() {
			if a.Node == "" {
				continue
			}
			if b, ok := held[a.Epoch]; ok && b != a.Boot {
				twice = a.Daemon
			}
			held[a.Epoch] = a.Boot
		}
		return twice
	}
	for life, boot := range []id.Boot{bootOf(nodeA), "1111111111111111", "2222222222222222"} {
		if life > 0 {
			r.report(nodeA, boot)
		}
		if twice := look(); twice != "" {
			return twice
		}
		for _, daemon := range []string{"AUTO_PROMOTION", "EVALUATION"} {
			cur, _ := r.m.View().Assignment(daemon)
			r.ok(Assign{Daemon: daemon, Node: nodeA, Boot: boot, Standby: nodeB, Previous: cur.Epoch}, nil)
		}
		look()
	}
	return ""
}

func TestNoEpochHasTwoBoots(t *testing.T) {
	t.Parallel()
	if name := bootsUnderOneEpoch(t, func(*Machine) {}); name != "" {
		t.Errorf("%s: two boots under one epoch", name)
	}
	if bootsUnderOneEpoch(t, (*Machine).KeepOverBoots) == "" {
		t.Error("a machine that keeps assignments over a new boot passed: the test proves nothing")
	}
}

func TestEpochsOnlyGrow(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	last := r.assign("EVALUATION", nodeA).Epoch
	grows := func(what string) {
		t.Helper()
		a, _ := r.m.View().Assignment("EVALUATION")
		if a.Epoch <= last {
			t.Fatalf("%s: epoch %d is not above %d", what, a.Epoch, last)
		}
		last = a.Epoch
	}
	fence := func() *ring.Fence { return &ring.Fence{Daemon: "EVALUATION", Epoch: last} }
	nobody := func(what string) {
		t.Helper()
		f := fence()
		grows(what)
		if a, _ := r.m.View().Assignment("EVALUATION"); a.Node != "" {
			t.Fatalf("%s: still assigned to %s", what, a.Node)
		}
		r.refused(CodeStale, PutNote{Key: "k", Value: []byte("1")}, f)
		r.refused(CodeStale, PutNote{Key: "k", Value: []byte("1")}, fence())
	}
	r.refused(CodeConflict, Assign{Daemon: "EVALUATION", Node: nodeB, Boot: bootOf(nodeB), Previous: last - 1}, nil)
	r.refused(CodeConflict, Assign{Daemon: "EVALUATION", Node: nodeB, Boot: bootOf(nodeA), Previous: last}, nil)
	r.report(nodeA, "1111111111111111") // a new boot gives the old one's assignments up
	nobody("new boot")
	r.refused(CodeConflict, Report{ring.Member{ID: nodeA, Boot: bootOf(nodeA)}}, nil) // a late word of the old boot
	r.assign("EVALUATION", nodeB)
	grows("assigned")
	r.ok(Raise{Generation: true}, nil)
	nobody("generation")
	if id.Epoch(last).Generation() != 1 {
		t.Fatalf("epoch %d is not of generation 1", last)
	}
	r.assign("EVALUATION", nodeB)
	grows("assigned")
	r.ok(SwitchDaemon{Daemon: "EVALUATION", Off: true}, nil)
	nobody("switched off")
	r.refused(CodeRefused, Assign{Daemon: "EVALUATION", Node: nodeB, Boot: bootOf(nodeB), Previous: last}, nil)
	r.ok(SwitchDaemon{Daemon: "EVALUATION"}, nil)
	r.assign("EVALUATION", nodeB)
	grows("assigned")
	r.ok(Revoke{Node: nodeB}, nil)
	nobody("revoked")
	r.refused(CodeUnauth, Assign{Daemon: "EVALUATION", Node: nodeB, Boot: bootOf(nodeB), Previous: last}, nil)
	r.ok(SetStatus{Node: nodeC, Boot: bootOf(nodeC), Status: ring.Failed, Cause: "test"}, nil)
	r.refused(CodeRefused, Assign{Daemon: "EVALUATION", Node: nodeC, Boot: bootOf(nodeC), Previous: last}, nil)
}

func TestEventsOfACommandFollowItsFence(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	old := r.assign("SELFPLAY_COORDINATOR", nodeA)
	f := r.assign("SELFPLAY_COORDINATOR", nodeB)
	body := PutNote{Key: "plan", Value: []byte("1")}
	d := event.Draft{Type: "SELFPLAY_ALLOCATION_UPDATED", Node: nodeB, Payload: json.RawMessage(`{}`)}
	stale := d
	stale.Daemon, stale.Epoch = old.Daemon, old.Epoch
	r.refused(CodeStale, body, f, stale)
	res := r.ok(body, f, d)
	recs := r.records(res.Seqs[0] - 1)
	if len(recs) != 1 || recs[0].Daemon != f.Daemon || recs[0].Epoch != f.Epoch || recs[0].Origin != event.StateOrigin ||
		recs[0].Number != recs[0].Seq || !recs[0].Time.Equal(r.at) {
		t.Fatalf("%+v", recs)
	}
	d.Type = evWorkQueued
	r.refused(CodeInvalid, body, f, d)
	d.Type = evNodeDead
	r.refused(CodeInvalid, body, f, d)
	d.Type = evHealthy
	r.refused(CodeInvalid, body, f, d)
}

func TestEffectIsAllOrNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	f := r.assign("AUTO_PROMOTION", nodeA)
	e := Effect{[]Step{
		{KindEnqueue, Enqueue{[]ring.WorkItem{item("selfplay", "k1")}}},
		{KindNote, PutNote{Key: "k", Value: []byte("1")}},
		{KindName, SetName{Key: "other/x", Digest: digest("unknown")}},
	}}
	r.refused(CodeRefused, e, f, event.Draft{Type: "OPERATOR_NOTE", Payload: json.RawMessage("{}")})
	e.Steps[2].Body = SetName{Key: "other/x", Digest: r.artifact("known", ring.KindFile, nodeA).Digest}
	res := r.ok(e, f)
	if v := res.Value.([]any); len(v) != 3 || v[2].(ring.Name).Version != 1 {
		t.Fatalf("%+v", res.Value)
	}
}

func TestOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	f := r.assign("AUTO_PROMOTION", nodeA)
	c := Command{Kind: KindEnqueue, Fence: f, Body: Enqueue{[]ring.WorkItem{item("selfplay", "k1")}}, Once: "o1"}
	first := r.command(c)
	end := r.seq()
	r.assign("AUTO_PROMOTION", nodeB) // the first answer stands though the epoch is over
	again := r.command(c)
	if again.Code != "" || again.Index != first.Index || again.Value.([]ring.WorkItem)[0].ID != first.Value.([]ring.WorkItem)[0].ID || r.seq() != end {
		t.Fatalf("%+v, want %+v", again, first)
	}
	c.Kind, c.Body = KindNote, PutNote{Key: "k", Value: []byte("1")}
	if res := r.command(c); res.Code != CodeConflict {
		t.Fatalf("%+v", res)
	}
	// A refusal is not kept: nothing happened.
	c = Command{Kind: KindCancel, Body: CancelWork{Work: "w9", Reason: "x"}, Once: "o2"}
	if res := r.command(c); res.Code != CodeNotFound {
		t.Fatalf("%+v", res)
	}
	c.Body = CancelWork{Work: first.Value.([]ring.WorkItem)[0].ID, Reason: "x"}
	if res := r.command(c); res.Code != "" {
		t.Fatalf("%+v", res)
	}
	for i := range keptOnce {
		r.command(Command{Kind: KindDaemonSwitch, Body: SwitchDaemon{Daemon: "D"}, Once: string(rune('a'+i%26)) + string(rune(0x4e00+i))})
	}
	if n := r.m.View().once.len(); n != keptOnce {
		t.Fatalf("%d once keys are kept", n)
	}
}
