package agent

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/ringagent/ringagent/internal/blob"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/leader/state"
)

// joinTwo has two packs of five games joined into one.
func joinTwo(f *folded) (packs []id.Digest, to id.Digest) {
	f.t.Helper()
	for _, name := range []string{"one", "two"} {
		packs = append(packs, f.add(name, ring.KindPack, edgeC, 5, coreA, coreB, edgeC))
	}
	to = id.DigestOf([]byte("joined"))
	f.do(state.KindArtifacts, state.AddArtifacts{Artifacts: []ring.Artifact{{Digest: to, Kind: ring.KindFile, Config: four, Bytes: 200, Created: f.now(),
		Origin: coreA, Holders: []id.Node{coreA, coreB}, Labels: map[string]string{ring.LabelJoins: string(four)}}}})
	f.do(state.KindJoin, state.JoinPacks{Joined: to, Games: 10, Packs: packs})
	return packs, to
}

// Packs are joined only once every core node knows how.
func TestJoinsWaitForOldBuilds(t *testing.T) {
	t.Parallel()
	f := newFolded(t)
	for i, version := range []int{2, state.VersionJoin, state.VersionJoin} {
		n := []id.Node{coreB, coreA, coreB}[i]
		f.do(state.KindReport, state.Report{Member: ring.Member{ID: n, Boot: id.Boot("0" + n[1:]), Commands: version}})
		v, err := views{state: standing{f.m.View()}}.Current(t.Context())
		if err != nil || v.Joins != (i == 2) {
			t.Errorf("step %d: %v, %v", i, v.Joins, err)
		}
	}
}

// A join changes nothing of what people are shown but the number of packs.
func TestJoinedPacksAreShownOnce(t *testing.T) {
	t.Parallel()
	f := newFolded(t)
	packs, to := joinTwo(f)
	if f.games() != 10 {
		t.Errorf("%d games", f.games())
	}
	var shown []id.Digest
	for _, a := range f.reading().artifacts(ring.KindPack, "", nil) {
		shown = append(shown, a.SHA256)
	}
	if !slices.Equal(shown, []id.Digest{to}) {
		t.Errorf("packs: %v", shown)
	}
	for _, a := range f.reading().artifacts("", "", nil) {
		if (a.Joined == to) != slices.Contains(packs, a.SHA256) {
			t.Errorf("%s: joined into %q", a.SHA256.Short(), a.Joined)
		}
	}
	f.do(state.KindDropCopy, state.DropCopies{Receipts: []ring.Receipt{{Node: coreA, Digest: packs[0]}, {Node: edgeC, Digest: packs[0]}}})
	if short := f.reading().underReplicated("", ""); len(short) != 0 {
		t.Errorf("asked for copies of what may go: %+v", short)
	}
}

// A rented node hears of the joined packs that it holds, and of nobody else's.
func TestEdgeHearsOfItsJoinedPacks(t *testing.T) {
	t.Parallel()
	f := newFolded(t)
	packs, _ := joinTwo(f)
	s := f.m.View()
	fail := false
	v := edgeViews{views: views{state: standing{s}}, self: edgeC, ask: func(_ context.Context, c recordsCall) (recordsAnswer, error) {
		var out recordsAnswer
		if fail {
			return out, errors.New("no answer")
		}
		if c.Joined {
			for a := range s.Artifacts(ring.ListJoined, "", 0) {
				out.Artifacts = append(out.Artifacts, a)
			}
		}
		return out, nil
	}}
	got, err := v.Current(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	list := got.Library.Artifacts(ring.ListJoined, "")
	if len(list) != 2 || list[0].Digest != packs[0] || list[0].Joined == "" || len(got.Library.Artifacts(ring.ListJoined, "hex_2p")) != 0 {
		t.Errorf("%+v", list)
	}
	if fail = true; len(got.Library.Artifacts(ring.ListJoined, "")) != 0 {
		t.Error("an answer out of nowhere")
	}
}

// A permit is for the artifact that it names.
func TestPermitIsForOneArtifact(t *testing.T) {
	t.Parallel()
	one, two := id.DigestOf([]byte("one")), id.DigestOf([]byte("two"))
	var p blob.Permit = permitted(one)
	if p.Allow(one) != nil || p.Allow(two) == nil {
		t.Error("it allows the wrong one")
	}
}
