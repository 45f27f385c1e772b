package state

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

func TestNameMovesByCompareAndSet(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	one, two := r.artifact("one", ring.KindModel, nodeA), r.artifact("two", ring.KindModel, nodeA)
	set := r.artifact("set", ring.KindDataset, nodeA)
	f := r.assign("AUTO_PROMOTION", nodeA)
	key := ring.ModelName(c4)
	name := func(a ring.Artifact, expect uint64, elo float64) SetName {
		return SetName{Key: key, Expect: expect, Digest: a.Digest, Values: map[string]float64{"elo": elo}}
	}
	r.refused(CodeConflict, name(one, 1, 1), f)
	r.refused(CodeRefused, SetName{Key: key, Digest: digest("unknown")}, f)
	r.refused(CodeRefused, name(set, 0, 1), f)
	r.refused(CodeRefused, SetName{Key: "model/hex8_2p", Digest: one.Digest}, f)
	end := r.seq()
	r.ok(name(one, 0, 1200), f)
	r.refused(CodeConflict, name(two, 0, 1300), f)
	r.at = r.at.Add(time.Minute)
	r.ok(name(two, 1, 1300), f)
	got, _ := r.m.View().Champion(c4)
	if got.Version != 2 || got.Previous != one.Digest || got.By != *f || len(got.History) != 1 || got.History[0].Digest != one.Digest ||
		!got.History[0].Until.Equal(r.at) {
		t.Fatalf("%+v", got)
	}
	recs := r.records(end)
	if len(recs) != 2 || recs[1].Daemon != "AUTO_PROMOTION" || recs[1].Epoch != f.Epoch {
		t.Fatalf("%+v", recs)
	}
	p := payload(t, recs[1])
	if p["version"] != 2.0 || p["sha256"] != string(two.Digest) || p["previous_sha256"] != string(one.Digest) || p["elo_delta"] != 100.0 {
		t.Fatalf("%v", p)
	}
	for _, rec := range recs {
		inCatalogue(t, rec)
	}

	r.m.rules.expect = func(uint64, uint64) error { return nil }
	if r.do(name(one, 0, 1), f).Code != "" {
		t.Error("the broken variant refuses too: the test proves nothing")
	}
}

func TestPromotionEventMustAgreeWithTheName(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	one, two := r.artifact("one", ring.KindModel, nodeA), r.artifact("two", ring.KindModel, nodeA)
	f := r.assign("AUTO_PROMOTION", nodeA)
	r.ok(SetName{Key: ring.ModelName(c4), Digest: one.Digest}, f)
	said := func(version int, now, was id.Digest) event.Draft {
		return event.Draft{Type: evPromoted, Node: nodeA, Payload: json.RawMessage(fmt.Sprintf(
			`{"node_id":%q,"config_key":%q,"version":%d,"sha256":%q,"previous_sha256":%q,"elo":1,"elo_delta":null}`, nodeA, c4, version, now, was))}
	}
	body := SetName{Key: ring.ModelName(c4), Expect: 1, Digest: two.Digest}
	r.refused(CodeInvalid, body, f, said(3, two.Digest, one.Digest))
	r.refused(CodeInvalid, body, f, said(2, one.Digest, one.Digest))
	r.refused(CodeInvalid, body, f, said(2, two.Digest, two.Digest))
	r.refused(CodeInvalid, PutNote{Key: "k", Value: []byte("1")}, f, said(2, two.Digest, one.Digest))
	end := r.seq()
	res := r.ok(body, f, said(2, two.Digest, one.Digest))
	if d := cmp.Diff([]string{"MODEL_PROMOTED"}, r.told(end)); d != "" || len(res.Seqs) != 1 {
		t.Fatalf("promoted more than once: %s", d)
	}
}

func TestPositionsNeverGoBack(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	f := r.assign("EVALUATION", nodeA)
	at := func(seq uint64) SetPositions {
		return SetPositions{[]ring.Position{{Consumer: "EVALUATION", Seq: seq}}}
	}
	r.ok(at(3), f)
	r.ok(at(3), f)
	r.refused(CodeConflict, at(2), f)
	r.refused(CodeInvalid, at(r.seq()+1), f)
	if p, _ := r.m.View().Position("EVALUATION"); p.Seq != 3 || p.Epoch != f.Epoch {
		t.Fatalf("%+v", p)
	}
	r.m.rules.position = func(uint64, uint64) error { return nil }
	if r.do(at(1), f).Code != "" {
		t.Error("the broken variant refuses too: the test proves nothing")
	}
}

func TestNotes(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	f := r.assign("EVALUATION", nodeA)
	big := func(n int) []byte { return []byte(`"` + strings.Repeat("x", n-2) + `"`) }
	r.refused(CodeInvalid, PutNote{Key: "k", Value: []byte("{")}, f)
	r.refused(CodeInvalid, PutNote{Value: []byte("1")}, f)
	r.refused(CodeRefused, PutNote{Key: "k", Value: big(MaxNote + 1)}, f)
	r.ok(PutNote{Key: "k", Value: []byte(" { \"a\" : 1 } ")}, f)
	if n, _ := r.m.View().Note("EVALUATION", "k"); string(n.Value) != `{"a":1}` || n.Epoch != f.Epoch {
		t.Fatalf("%+v", n)
	}
	n := 0
	for r.do(PutNote{Key: fmt.Sprint("n", n), Value: big(MaxNote)}, f).Code == "" {
		n++
	}
	if n != MaxNotes/MaxNote-1 {
		t.Fatalf("%d notes of %d bytes", n, MaxNote)
	}
	r.ok(PutNote{Key: "n0"}, f)
	r.ok(PutNote{Key: "again", Value: big(MaxNote)}, f)
	if got := len(slices.Collect(r.m.View().Notes("EVALUATION"))); got != n+1 {
		t.Fatalf("%d notes are kept", got)
	}
	if got := len(slices.Collect(r.m.View().Notes("EVAL"))); got != 0 {
		t.Fatalf("%d notes of another daemon", got)
	}
}

func TestArtifactsAndReceipts(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.refused(CodeRefused, AddArtifacts{[]ring.Artifact{{Digest: digest("x"), Kind: ring.KindPack, Bytes: 1}}}, nil)
	r.refused(CodeRefused, AddArtifacts{[]ring.Artifact{{Digest: digest("x"), Kind: ring.KindPack, Bytes: 1, Holders: []id.Node{nodeD}}}}, nil)
	r.refused(CodeInvalid, AddArtifacts{[]ring.Artifact{{Digest: "x", Kind: ring.KindPack, Bytes: 1, Holders: []id.Node{nodeA}}}}, nil)
	r.refused(CodeInvalid, AddArtifacts{[]ring.Artifact{{Digest: digest("x"), Kind: "toy", Bytes: 1, Holders: []id.Node{nodeA}}}}, nil)
	one := r.artifact("one", ring.KindPack, nodeB, nodeA, nodeB)
	first := r.index
	two := r.artifact("two", ring.KindModel, nodeA)
	three := r.artifact("three", ring.KindPack, nodeC)
	r.artifact("one", ring.KindPack, nodeC) // known: one holder more
	res := r.ok(AddReceipts{[]ring.Receipt{{Node: nodeB, Digest: two.Digest}, {Node: nodeB, Digest: digest("?")}}}, nil)
	if d := cmp.Diff([]id.Digest{digest("?")}, res.Value); d != "" {
		t.Error(d)
	}
	got, _ := r.m.View().Artifact(one.Digest)
	if !slices.Equal(got.Holders, []id.Node{nodeA, nodeB, nodeC}) || got.Seq != first {
		t.Errorf("%+v", got)
	}
	list := func(k ring.Kind, c id.Config, after uint64) (out []id.Digest) {
		for a := range r.m.View().Artifacts(k, c, after) {
			out = append(out, a.Digest)
		}
		return out
	}
	for _, test := range []struct{ got, want []id.Digest }{
		{list(ring.KindPack, "", 0), []id.Digest{one.Digest, three.Digest}},
		{list(ring.KindPack, c4, first), []id.Digest{three.Digest}},
		{list(ring.KindPack, "hex8_2p", 0), nil},
		{list("", "", 0), []id.Digest{one.Digest, two.Digest, three.Digest}},
		{list("", c4, first), []id.Digest{two.Digest, three.Digest}},
	} {
		if d := cmp.Diff(test.want, test.got); d != "" {
			t.Error(d)
		}
	}
	if got := slices.Collect(r.m.View().ArtifactsByPrefix(string(two.Digest[:9]))); len(got) != 1 || got[0].Digest != two.Digest {
		t.Errorf("%v", got)
	}
}

func TestPermits(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.ok(PutToken{ring.Token{ID: "edge", SecretHash: "hash", Class: id.Edge, Uses: 9, Expires: r.at.Add(time.Hour)}}, nil)
	nodeE := id.Node("eeeeeeeeeeeeeeee")
	for _, n := range []id.Node{nodeD, nodeE} {
		r.enrol(n, "edge", id.Edge)
		r.report(n, bootOf(n))
	}
	drop := func(a ring.Artifact, from ...id.Node) DropCopies {
		var d DropCopies
		for _, n := range from {
			d.Receipts = append(d.Receipts, ring.Receipt{Node: n, Digest: a.Digest})
		}
		return d
	}
	a := r.artifact("pack", ring.KindPack, nodeA, nodeB, nodeC)
	r.refused(CodeNotFound, drop(a, nodeD), nil)
	r.refused(CodeRefused, drop(a, nodeA, nodeB), nil) // both at once would leave one
	r.ok(drop(a, nodeC), nil)
	r.refused(CodeRefused, drop(a, nodeB), nil)
	lost := drop(a, nodeB)
	lost.Lost = true
	r.ok(lost, nil)
	if got, _ := r.m.View().Artifact(a.Digest); !slices.Equal(got.Holders, []id.Node{nodeA}) {
		t.Errorf("%v", got.Holders)
	}
	// Copies on edge nodes alone do not protect a pack; a file of an operator they do.
	p := r.artifact("pack2", ring.KindPack, nodeA, nodeD, nodeE)
	r.refused(CodeRefused, drop(p, nodeA), nil)
	r.ok(drop(r.artifact("file", ring.KindFile, nodeA, nodeD, nodeE), nodeA), nil)
	// A candidate may go to edge nodes, a champion not.
	m := r.artifact("model", ring.KindModel, nodeA, nodeD, nodeE)
	r.ok(SetName{Key: ring.ModelName(c4), Digest: m.Digest}, nil)
	r.refused(CodeRefused, drop(m, nodeA), nil)
	// Two nodes of one host are one copy, and one that is gone is none.
	q := r.artifact("pack3", ring.KindPack, nodeA, nodeB, nodeC)
	r.ok(Report{ring.Member{ID: nodeB, Boot: bootOf(nodeB), FailureDomain: "host"}}, nil)
	r.ok(Report{ring.Member{ID: nodeA, Boot: bootOf(nodeA), FailureDomain: "host"}}, nil)
	r.refused(CodeRefused, drop(q, nodeC), nil)
	r.ok(SetStatus{Node: nodeC, Boot: bootOf(nodeC), Status: ring.Failed, Cause: "x"}, nil)
	r.refused(CodeRefused, drop(q, nodeB), nil)

	r.m.rules.copies = func(int, int) error { return nil }
	if r.do(drop(q, nodeB), nil).Code != "" {
		t.Error("the broken variant refuses too: the test proves nothing")
	}
}

func TestDeadLetters(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.refused(CodeInvalid, PutDeadLetter{}, nil)
	r.refused(CodeNotFound, PutDeadLetter{Letter: ring.DeadLetter{ID: "x"}, Drop: true}, nil)
	r.ok(PutDeadLetter{Letter: ring.DeadLetter{ID: "x", Handler: "OTHER", Attempts: 5}}, nil)
	r.ok(PutDeadLetter{Letter: ring.DeadLetter{ID: "x", Handler: "OTHER", Attempts: 6}}, nil)
	if l, _ := r.m.View().DeadLetter("x"); l.Attempts != 6 {
		t.Fatalf("%+v", l)
	}
	r.ok(PutDeadLetter{Letter: ring.DeadLetter{ID: "x"}, Drop: true}, nil)
	if n := len(slices.Collect(r.m.View().DeadLetters())); n != 0 {
		t.Fatalf("%d letters", n)
	}
}
