package leader

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/raft"

	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/leader/state"
)

// What a run has made is of its item's config and made of its item's inputs, whatever the node says of it, and of the kind that the
// item is for.
func TestWhatARunHasMade(t *testing.T) {
	t.Parallel()
	const node, other id.Node = "0000000000000002", "0000000000000003"
	in := func(role, name string) ring.Input { return ring.Input{Role: role, Digest: id.DigestOf([]byte(name))} }
	evaluation := ring.WorkItem{Type: state.TypeEvaluate, Config: "connect4_2p",
		Inputs: []ring.Input{in(state.RoleCandidate, "c"), in(state.RoleModel, "m"), in("champion", "c")}}
	training := ring.WorkItem{Type: state.TypeTrain, Config: "connect4_2p", Inputs: []ring.Input{in("dataset", "d"), in("champion", "c")}}
	selfplay := ring.WorkItem{Type: state.TypeSelfplay, Config: "connect4_2p"}
	said := func(k ring.Kind) ring.Artifact {
		return ring.Artifact{Kind: k, Config: "chess_2p", Origin: node, Holders: []id.Node{node}, Parents: []id.Digest{id.DigestOf([]byte("rival"))}}
	}
	for name, c := range map[string]struct {
		item    ring.WorkItem
		says    ring.Artifact
		parents []string // in order of their digests; nil: refused
	}{
		"matches of the candidate":   {evaluation, said(ring.KindMatches), []string{"c"}},
		"a model":                    {training, said(ring.KindModel), []string{"d", "c"}},
		"a report beside it":         {training, said(ring.KindFile), []string{"d", "c"}},
		"matches of a training":      {training, said(ring.KindMatches), nil},
		"a model of an evaluation":   {evaluation, said(ring.KindModel), nil},
		"a dataset of a self-play":   {selfplay, said(ring.KindDataset), nil},
		"games, which are gathered":  {selfplay, said(ring.KindPack), nil},
		"a kind that is none":        {selfplay, said(""), nil},
		"what another node has":      {training, ring.Artifact{Kind: ring.KindModel, Origin: node, Holders: []id.Node{other}}, nil},
		"what another node has made": {training, ring.Artifact{Kind: ring.KindModel, Origin: other, Holders: []id.Node{node}}, nil},
	} {
		got, err := made(c.item, node, []ring.Artifact{c.says})
		if (err == nil) != (c.parents != nil) {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil {
			continue
		}
		var want []id.Digest
		for _, p := range c.parents {
			want = append(want, id.DigestOf([]byte(p)))
		}
		if diff := cmp.Diff(want, got[0].Parents, cmp.Transformer("set", func(l []id.Digest) map[id.Digest]int {
			m := map[id.Digest]int{}
			for _, d := range l {
				m[d]++
			}
			return m
		})); diff != "" || got[0].Config != "connect4_2p" {
			t.Errorf("%s: of config %s, parents %s", name, got[0].Config, diff)
		}
		if c.says.Config != "chess_2p" {
			t.Errorf("%s: the caller's record was changed", name)
		}
	}
}

// A rented machine whose clock is wrong, or who says so, does not date what is decided.
func TestEdgeNodesCommandHasTheCoordinatorsTime(t *testing.T) {
	t.Parallel()
	n := bare(Ports{})
	fill(t, n)
	const core, edge id.Node = "0000000000000001", "0000000000000002"
	apply(t, n, 8, state.KindToken, state.PutToken{Token: ring.Token{ID: "t", SecretHash: "s", Class: id.Edge, Uses: 1, Expires: time.Unix(2e9, 0)}})
	apply(t, n, 9, state.KindEnrol, state.Enrol{TokenID: "t", SecretHash: "s", Class: id.Edge, Member: ring.Member{ID: edge, Name: "n2", KeyHash: "k2"}})
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for name, c := range map[string]struct {
		from id.Node
		at   time.Time
		kept bool
	}{
		"in time":         {edge, now.Add(-clockRoom), true},
		"in the past":     {edge, now.Add(-time.Hour), false},
		"in the future":   {edge, now.AddDate(5000, 0, 0), false},
		"of the year 1":   {edge, time.Time{}, false},
		"of a core node":  {core, now.Add(-time.Hour), true},
		"of nobody known": {"00000000000000ff", now.Add(-time.Hour), true},
	} {
		cmd := state.Command{Kind: state.KindReport, At: c.at, By: c.from, Body: state.Report{Member: ring.Member{ID: c.from}}}
		data, err := state.Encode(cmd)
		if err != nil {
			t.Fatal(err)
		}
		got, data, err := (&term{n: n}).stamped(c.from, cmd, data, now)
		if err != nil {
			t.Fatal(err)
		}
		entry, err := state.Decode(data)
		if err != nil {
			t.Fatal(err)
		}
		if want := map[bool]time.Time{true: c.at, false: now}[c.kept]; !got.At.Equal(want) || !entry.At.Equal(want) {
			t.Errorf("%s: dated %v, and %v in the entry; want %v", name, got.At, entry.At, want)
		}
	}
}

// One node cannot fill the state with outboxes, each of which is remembered for as long as the node is there.
func TestOutboxesOfOneNodeAreCounted(t *testing.T) {
	t.Parallel()
	n := bare(Ports{})
	fill(t, n)
	const node id.Node = "0000000000000001"
	var batches []state.EventBatch
	for _, origin := range []event.Origin{"a", "b", "c"} {
		batches = append(batches, state.EventBatch{Origin: origin, Node: node, First: 1, Drafts: [][]byte{event.Draft{Type: "OPERATOR_NOTE", Node: node}.Encode()}})
	}
	fsm{n: n}.Apply(&raft.Log{Index: 10, Data: state.AppendEvents(time.Unix(1e9, 0), batches)})
	s := n.machine.View()
	if crowded(s, node, 4) || !crowded(s, node, 3) || crowded(s, "0000000000000009", 1) {
		t.Error("want three outboxes of this node and none of others")
	}
}

// A node of an older build makes what a run has made known before its answer: that is taken as long as the run is its own, and is what
// its item says.
func TestResultIsKnownBeforeTheAnswerOfAnOlderBuild(t *testing.T) {
	t.Parallel()
	n := bare(Ports{})
	fill(t, n)
	const core, edge id.Node = "0000000000000001", "0000000000000002"
	self := ring.Member{ID: edge, Name: "n2", KeyHash: "k2"}
	apply(t, n, 8, state.KindToken, state.PutToken{Token: ring.Token{ID: "t", SecretHash: "s", Class: id.Edge, Uses: 1, Expires: time.Unix(2e9, 0)}})
	apply(t, n, 9, state.KindEnrol, state.Enrol{TokenID: "t", SecretHash: "s", Class: id.Edge, Member: self})
	self.Boot = "00000000000000b2"
	apply(t, n, 10, state.KindReport, state.Report{Member: self})
	set := ring.Artifact{Digest: id.DigestOf([]byte("set")), Kind: ring.KindDataset, Config: "connect4_2p", Bytes: 7, Holders: []id.Node{core}}
	apply(t, n, 11, state.KindArtifacts, state.AddArtifacts{Artifacts: []ring.Artifact{set}})
	in := []ring.Input{{Role: "dataset", Digest: set.Digest}}
	apply(t, n, 12, state.KindEnqueue, state.Enqueue{Items: []ring.WorkItem{{ID: "w", Type: state.TypeTrain, Config: "connect4_2p", Key: "k", Inputs: in}}})
	model := ring.Artifact{
		Digest: id.DigestOf([]byte("m")), Kind: ring.KindModel, Config: "connect4_2p", Bytes: 7, Origin: edge, Holders: []id.Node{edge},
		Parents: []id.Digest{set.Digest}, Labels: map[string]string{"work": "w"},
	}
	may := func(change func(*ring.Artifact)) bool {
		a := model
		change(&a)
		return permit(n.machine.View(), edge, state.Command{Kind: state.KindArtifacts, By: edge, Body: state.AddArtifacts{Artifacts: []ring.Artifact{a}}}) == nil
	}
	if may(func(*ring.Artifact) {}) {
		t.Error("taken of a node that has not claimed the item")
	}
	apply(t, n, 13, state.KindClaim, state.ClaimWork{Work: "w", Inputs: in,
		Claim: ring.Claim{ID: "c", Node: edge, Boot: self.Boot, At: time.Unix(1e9, 0), Lease: ring.Duration(time.Minute)}})
	for name, c := range map[string]struct {
		change func(*ring.Artifact)
		may    bool
	}{
		"as it is":       {func(*ring.Artifact) {}, true},
		"other matches":  {func(a *ring.Artifact) { a.Kind = ring.KindMatches }, false},
		"another config": {func(a *ring.Artifact) { a.Config = "chess_2p" }, false},
		"another parent": {func(a *ring.Artifact) { a.Parents = []id.Digest{id.DigestOf([]byte("x"))} }, false},
		"other work":     {func(a *ring.Artifact) { a.Labels = map[string]string{"work": "v"} }, false},
	} {
		if may(c.change) != c.may {
			t.Errorf("%s: taken %v", name, !c.may)
		}
	}
}

// An answer that is too long would be refused unread, which looks as if nobody had heard it.
func TestAnswerThatIsTooLongIsRefused(t *testing.T) {
	t.Parallel()
	counters := map[string]int64{}
	for i := range 2000 {
		counters[fmt.Sprintf("vs:%060d:games", i)] = 1
	}
	_, err := bare(Ports{}).Finish(t.Context(), state.FinishWork{Work: "w", Claim: "c", Result: &ring.WorkResult{Counters: counters}})
	if r := new(Refused); !errors.As(err, &r) || r.Code != string(state.CodeRefused) {
		t.Errorf("%v", err)
	}
}
