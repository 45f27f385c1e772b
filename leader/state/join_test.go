package state

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

var edgeNodes = []id.Node{nodeD, "eeeeeeeeeeeeeeee"}

// joinRig is a ring with n packs of 5 games, each on two core nodes, and a file that is to take their place.
type joinRig struct {
	*rig
	packs []id.Digest
	file  id.Digest
}

func newJoinRig(t *testing.T, n int) joinRig {
	t.Helper()
	r := joinRig{rig: newRig(t), file: digest("joined")}
	r.ok(PutToken{ring.Token{ID: "edge", SecretHash: "hash", Class: id.Edge, Uses: 50, Expires: r.at.Add(time.Hour)}}, nil)
	for _, e := range edgeNodes {
		r.enrol(e, "edge", id.Edge)
		r.report(e, bootOf(e))
	}
	for i := range n {
		d := digest(fmt.Sprint("pack", i))
		r.packs = append(r.packs, d)
		r.ok(AddArtifacts{[]ring.Artifact{r.games(d, ring.KindPack, nodeA, nodeB)}}, nil)
	}
	return r
}

func (r joinRig) games(d id.Digest, k ring.Kind, holders ...id.Node) ring.Artifact {
	a := ring.Artifact{Digest: d, Kind: k, Config: c4, Bytes: 1, Holders: holders, Counters: map[string]int64{ring.CounterGames: 5}}
	if k == ring.KindFile {
		a.Labels = map[string]string{ring.LabelJoins: string(c4), "a": "b"}
	}
	return a
}

func (r joinRig) addFile(holders ...id.Node) {
	r.ok(AddArtifacts{[]ring.Artifact{r.games(r.file, ring.KindFile, holders...)}}, nil)
}

func (r joinRig) counted() (games int64, packs int) {
	for a := range r.m.View().Artifacts(ring.KindPack, c4, 0) {
		if a.Safe {
			games += a.Games()
			packs++
		}
	}
	return games, packs
}

func (r joinRig) joinedList() []id.Digest {
	var out []id.Digest
	for a := range r.m.View().Artifacts(ring.ListJoined, c4, 0) {
		if a.Joined != "" {
			out = append(out, a.Digest)
		}
	}
	return out
}

func dropOf(d id.Digest, nodes ...id.Node) DropCopies {
	var out DropCopies
	for _, n := range nodes {
		out.Receipts = append(out.Receipts, ring.Receipt{Node: n, Digest: d})
	}
	return out
}

// A joined pack takes the place of others: the count stays, the others leave the list, and the state with their last copy.
func TestPacksAreJoined(t *testing.T) {
	t.Parallel()
	r := newJoinRig(t, 4)
	r.ok(StateRepeats{[]ring.Repeat{{Digest: r.packs[1], Games: 2}}}, nil)
	r.addFile(nodeA, nodeC)
	older, _ := r.m.View().Artifact(r.packs[2])
	oldest, _ := r.m.View().Artifact(r.packs[0])
	r.ok(JoinPacks{r.file, 13, r.packs[:3]}, nil)
	if games, packs := r.counted(); games != 18 || packs != 2 {
		t.Fatalf("%d games in %d packs, want 18 in 2", games, packs)
	}
	to, _ := r.m.View().Artifact(r.file)
	if to.Kind != ring.KindPack || !to.Safe || to.Order() != older.Seq || to.First != oldest.Seq || to.Seq <= older.Seq || joining(to) || to.Labels["a"] != "b" || to.Games() != 13 {
		t.Fatalf("%+v", to)
	}
	if got := slices.Collect(r.m.View().Artifacts(ring.KindFile, c4, 0)); len(got) != 0 {
		t.Fatalf("still a file: %v", got)
	}
	if got := r.joinedList(); !slices.Equal(got, r.packs[:3]) {
		t.Fatalf("joined: %v", got)
	}
	// What is announced once more is what it was.
	r.ok(AddArtifacts{[]ring.Artifact{r.games(r.packs[0], ring.KindPack, nodeA)}}, nil)
	r.ok(StateRepeats{[]ring.Repeat{{Digest: r.packs[0], Games: 5}}}, nil)
	if games, _ := r.counted(); games != 18 {
		t.Fatalf("%d games", games)
	}
	before := r.m.View().ArtifactCount()
	r.ok(dropOf(r.packs[0], nodeA), nil)
	r.ok(dropOf(r.packs[0], nodeB), nil)
	if _, ok := r.m.View().Artifact(r.packs[0]); ok || r.m.View().ArtifactCount() != before-1 || len(r.joinedList()) != 2 {
		t.Fatal("a pack without copies is still known")
	}
	r.ok(DropCopies{Receipts: []ring.Receipt{{Node: nodeA, Digest: r.packs[1]}, {Node: nodeB, Digest: r.packs[1]}}, Lost: true}, nil)
	r.ok(dropOf(r.packs[2], nodeA, nodeB), nil)
	if len(r.joinedList()) != 0 {
		t.Fatal("packs without copies are still known")
	}
	if games, packs := r.counted(); games != 18 || packs != 2 {
		t.Fatalf("%d games in %d packs", games, packs)
	}
}

// Each of these would lose games, count them wrongly, or take bytes from somebody who needs them.
func TestJoinsThatAreRefused(t *testing.T) {
	t.Parallel()
	work := func(r joinRig, w ring.WorkItem) {
		w.Type, w.Config, w.Key = TypeExport, c4, "k"
		r.ok(Enqueue{Items: []ring.WorkItem{w}}, nil)
	}
	for name, c := range map[string]struct {
		code  Code
		spoil func(r joinRig, j *JoinPacks)
	}{
		"of unknown bytes":        {CodeNotFound, func(_ joinRig, j *JoinPacks) { j.Joined = digest("nothing") }},
		"into another pack":       {CodeInvalid, func(r joinRig, j *JoinPacks) { j.Joined, j.Packs = r.packs[0], r.packs[1:] }},
		"into a file of somebody": {CodeInvalid, func(r joinRig, j *JoinPacks) { j.Joined = r.artifact("file", ring.KindFile, nodeA, nodeB).Digest }},
		"of one pack":             {CodeInvalid, func(r joinRig, j *JoinPacks) { j.Packs = r.packs[:1] }},
		"of too many":             {CodeInvalid, func(_ joinRig, j *JoinPacks) { j.Packs = make([]id.Digest, MaxJoined+1) }},
		"of one pack twice":       {CodeInvalid, func(r joinRig, j *JoinPacks) { j.Packs = append(slices.Clone(r.packs), r.packs[0]) }},
		"of an unknown pack":      {CodeNotFound, func(r joinRig, j *JoinPacks) { j.Packs = append(slices.Clone(r.packs), digest("nothing")) }},
		"of a model": {CodeInvalid, func(r joinRig, j *JoinPacks) {
			j.Packs = append(slices.Clone(r.packs), r.artifact("m", ring.KindModel, nodeA).Digest)
		}},
		"of a pack without receipts": {CodeRefused, func(r joinRig, j *JoinPacks) {
			j.Packs = append(slices.Clone(r.packs), r.artifact("p", ring.KindPack, nodeA).Digest)
		}},
		"with fewer games": {CodeRefused, func(_ joinRig, j *JoinPacks) { j.Games = 14 }},
		"with no games":    {CodeRefused, func(_ joinRig, j *JoinPacks) { j.Games = 0 }},
		"that work needs": {CodeConflict, func(r joinRig, _ *JoinPacks) {
			work(r, ring.WorkItem{Inputs: []ring.Input{{Role: "pack", Digest: r.packs[1]}}})
		}},
		"that may be on a list": {CodeConflict, func(r joinRig, _ *JoinPacks) {
			work(r, ring.WorkItem{Inputs: []ring.Input{{Role: "packlist", Digest: r.artifact("list", ring.KindFile, nodeA).Digest}}})
		}},
		"that is on one failed node": {CodeRefused, func(r joinRig, _ *JoinPacks) {
			r.ok(SetStatus{Node: nodeC, Boot: bootOf(nodeC), Status: ring.Failed, Cause: "x"}, nil)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newJoinRig(t, 3)
			r.addFile(nodeA, nodeC)
			j := JoinPacks{r.file, 15, r.packs}
			c.spoil(r, &j)
			r.refused(c.code, j, nil)
			if games, packs := r.counted(); games != 15 || packs != 3 {
				t.Fatalf("%d games in %d packs", games, packs)
			}
			if c.code == CodeNotFound || c.code == CodeInvalid {
				r.ok(JoinPacks{r.file, 15, r.packs}, nil)
				r.refused(CodeInvalid, JoinPacks{r.file, 15, r.packs}, nil)
			}
		})
	}
}

// TestJoinedOnce: neither a joined pack nor one that was joined is joined again.
func TestJoinedOnce(t *testing.T) {
	t.Parallel()
	r := newJoinRig(t, 4)
	r.addFile(nodeA, nodeC)
	r.ok(JoinPacks{r.file, 15, r.packs[:3]}, nil)
	again := r.games(digest("again"), ring.KindFile, nodeA, nodeC)
	r.ok(AddArtifacts{[]ring.Artifact{again}}, nil)
	r.refused(CodeInvalid, JoinPacks{again.Digest, 20, []id.Digest{r.file, r.packs[3]}}, nil)
	r.refused(CodeConflict, JoinPacks{again.Digest, 20, []id.Digest{r.packs[3], r.packs[0]}}, nil)
	// A file that came to nothing leaves with its last copy.
	r.ok(dropOf(again.Digest, nodeA), nil)
	r.ok(dropOf(again.Digest, nodeC), nil)
	if _, ok := r.m.View().Artifact(again.Digest); ok {
		t.Fatal("it is still known")
	}
}

// TestJoinedCopiesGoByPermit: what has been joined may go only while the joined pack is as safe as a pack is.
func TestJoinedCopiesGoByPermit(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(joinRig){
		"a copy is lost": func(r joinRig) { r.ok(DropCopies{Receipts: dropOf(r.file, nodeC).Receipts, Lost: true}, nil) },
		"a node has failed": func(r joinRig) {
			r.ok(SetStatus{Node: nodeC, Boot: bootOf(nodeC), Status: ring.Failed, Cause: "x"}, nil)
		},
		"no core node has it": func(r joinRig) {
			r.ok(AddReceipts{[]ring.Receipt{{Node: nodeD, Digest: r.file}, {Node: edgeNodes[1], Digest: r.file}}}, nil)
			r.ok(DropCopies{Receipts: dropOf(r.file, nodeA, nodeC).Receipts, Lost: true}, nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newJoinRig(t, 3)
			r.addFile(nodeA, nodeC)
			r.ok(JoinPacks{r.file, 15, r.packs}, nil)
			lose(r)
			r.refused(CodeRefused, dropOf(r.packs[0], nodeB), nil)
			if a, _ := r.m.View().Artifact(r.packs[0]); len(a.Holders) != 2 {
				t.Fatalf("%v", a.Holders)
			}
			r.m.rules.carries = func(*txn, ring.Artifact) bool { return true }
			if r.do(dropOf(r.packs[0], nodeB), nil).Code != "" {
				t.Error("the broken variant refuses too: the test proves nothing")
			}
		})
	}
}

// Work that was asked for from an older view finds the packs that it reads.
func TestJoinedCopiesStayForWork(t *testing.T) {
	t.Parallel()
	r := newJoinRig(t, 3)
	r.addFile(nodeA, nodeC)
	r.ok(JoinPacks{r.file, 15, r.packs}, nil)
	r.ok(Enqueue{Items: []ring.WorkItem{{ID: "w1", Type: TypeExport, Config: c4, Key: "k", Inputs: []ring.Input{{Role: "pack", Digest: r.packs[1]}}}}}, nil)
	r.refused(CodeConflict, dropOf(r.packs[1], nodeA), nil)
	both := DropCopies{Receipts: []ring.Receipt{{Node: nodeB, Digest: r.packs[0]}, {Node: nodeB, Digest: r.packs[1]}}}
	r.refused(CodeConflict, both, nil)
	if a, _ := r.m.View().Artifact(r.packs[0]); !a.Held(nodeB) {
		t.Fatal("half a permit")
	}
	r.ok(dropOf(r.packs[0], nodeA), nil)
	r.ok(CancelWork{Work: "w1", Reason: "x"}, nil)
	r.ok(dropOf(r.packs[1], nodeA), nil)
}

// TestJoinedGamesStayCounted: the check that a join takes no game from the count is there.
func TestJoinedGamesStayCounted(t *testing.T) {
	t.Parallel()
	r := newJoinRig(t, 3)
	r.addFile(nodeA, nodeC)
	r.refused(CodeRefused, JoinPacks{r.file, 14, r.packs}, nil)
	r.m.rules.joined = func(int64, int64) error { return nil }
	r.ok(JoinPacks{r.file, 14, r.packs}, nil)
	if games, _ := r.counted(); games == 15 {
		t.Error("the broken variant counts right: the test proves nothing")
	}
}

// A node that is forgotten holds nothing any more, and what only it had of joined packs is forgotten with it.
func TestForgottenNodesHoldNoJoinedPacks(t *testing.T) {
	t.Parallel()
	r := newJoinRig(t, 3)
	r.addFile(nodeA, nodeC)
	r.ok(JoinPacks{r.file, 15, r.packs}, nil)
	r.ok(dropOf(r.packs[0], nodeA), nil)
	r.ok(SetStatus{Node: nodeB, Boot: bootOf(nodeB), Status: ring.Left, Cause: "x"}, nil)
	r.ok(Forget{nodeB}, nil)
	if got := r.joinedList(); !slices.Equal(got, r.packs[1:]) {
		t.Fatalf("%v", got)
	}
}

// A full state takes no artifact but what makes room.
func TestFullStateTakesJoinedPacks(t *testing.T) {
	t.Parallel()
	tx := txn{s: *emptyState(), m: New()}
	tx.s.members.put(string(nodeA), memberRow{Member: ring.Member{ID: nodeA, Class: id.Core, Status: ring.Alive}})
	fill := func(upTo int) {
		for n := tx.s.artifacts.len(); n < upTo; n++ {
			tx.s.artifacts.put(fmt.Sprint(n), artifactRow{})
		}
	}
	r := joinRig{}
	for _, c := range []struct {
		have int
		a    ring.Artifact
		ok   bool
	}{
		{MaxArtifacts - 1, r.games(digest("last"), ring.KindPack, nodeA), true},
		{MaxArtifacts, r.games(digest("pack"), ring.KindPack, nodeA), false},
		{MaxArtifacts, r.games(digest("join"), ring.KindFile, nodeA), true},
		{MaxArtifacts + spareForJoins, r.games(digest("more"), ring.KindFile, nodeA), false},
	} {
		fill(c.have)
		if _, err := tx.addArtifacts([]ring.Artifact{c.a}); (err == nil) != c.ok {
			t.Errorf("with %d: %v", c.have, err)
		}
	}
}
