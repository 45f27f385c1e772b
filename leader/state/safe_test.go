package state

import (
	"slices"
	"testing"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// TestCountedGamesStayCounted: a pack is safe once two failure domains, one of them of a core node, hold it; the copy of the
// edge node that played it does not count, and what happens to holders later takes nothing back.
func TestCountedGamesStayCounted(t *testing.T) {
	t.Parallel()
	tx := txn{s: *emptyState(), m: New()}
	for n, class := range map[id.Node]id.Class{"c1": id.Core, "c2": id.Core, "e1": id.Edge, "e2": id.Edge} {
		tx.s.members.put(string(n), memberRow{Member: ring.Member{ID: n, Class: class, Status: ring.Alive}})
	}
	pack := func(holders ...id.Node) ring.Artifact {
		return ring.Artifact{Kind: ring.KindPack, Origin: "e1", Holders: holders}
	}
	for _, c := range []struct {
		holders []id.Node
		want    bool
	}{
		{[]id.Node{"e1"}, false},
		{[]id.Node{"c1", "e1"}, false},
		{[]id.Node{"e1", "e2"}, false},
		{[]id.Node{"c1", "e1", "e2"}, true},
		{[]id.Node{"c1", "c2"}, true},
	} {
		if got := tx.receipted(pack(c.holders...)).Safe; got != c.want {
			t.Errorf("%v: safe %v, want %v", c.holders, got, c.want)
		}
	}
	lost := tx.receipted(pack("c1", "c2"))
	lost.Holders = []id.Node{"c1"}
	if !tx.receipted(lost).Safe {
		t.Error("games that were counted are uncounted")
	}
}

// What is said of a pack's repeated games only grows, never beyond its games, and only of packs that count.
func TestRepeatedGames(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	add := func(name string, k ring.Kind, holders ...id.Node) id.Digest {
		r.ok(AddArtifacts{[]ring.Artifact{{Digest: digest(name), Kind: k, Config: c4, Bytes: 1, Holders: holders,
			Counters: map[string]int64{ring.CounterGames: 5}}}}, nil)
		return digest(name)
	}
	pack, model := add("pack", ring.KindPack, nodeA, nodeB), add("model", ring.KindModel, nodeA, nodeB)
	pending := add("pending", ring.KindPack, nodeA)
	bare := r.artifact("bare", ring.KindPack, nodeA, nodeB).Digest // says nothing of games
	r.refused(CodeInvalid, StateRepeats{[]ring.Repeat{{Digest: pack, Games: 1}, {Digest: pack, Games: -1}}}, nil)
	for _, c := range []struct {
		d          id.Digest
		said, want int64
	}{{pack, 2, 3}, {pack, 1, 3}, {pack, 4, 1}, {pack, 9, 0}, {pack, 0, 0}, {model, 2, 5}, {pending, 2, 5}, {bare, 2, 0}} {
		r.ok(StateRepeats{[]ring.Repeat{{Digest: digest("unknown"), Games: 1}, {Digest: c.d, Games: c.said}}}, nil)
		if a, _ := r.m.View().Artifact(c.d); a.Games() != c.want {
			t.Errorf("%s after %d repeats: %d games, want %d", c.d.Short(), c.said, a.Games(), c.want)
		}
	}
	// Announced again, and with its receipts again, it is the same pack.
	add("pack", ring.KindPack, nodeA)
	if a, _ := r.m.View().Artifact(pack); a.Games() != 0 {
		t.Errorf("announced again it has %d games", a.Games())
	}
}

// The packs of a node that still lack receipts are listed by themselves, in order of arrival, until they have them.
func TestOpenPacksAreListed(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	one, two := r.artifact("one", ring.KindPack, nodeA).Digest, r.artifact("two", ring.KindPack, nodeA).Digest
	r.artifact("safe", ring.KindPack, nodeA, nodeB)
	r.artifact("no pack", ring.KindModel, nodeA)
	open := func() (out []id.Digest) {
		for _, n := range []id.Node{nodeA, nodeB, nodeC} {
			for a := range r.m.View().OpenPacks(n) {
				out = append(out, a.Digest)
			}
		}
		return out
	}
	origin, _ := r.m.View().Artifact(one)
	if got := open(); !slices.Equal(got, []id.Digest{one, two}) {
		t.Fatalf("%v, want those of %s: %s and %s", got, origin.Origin, one.Short(), two.Short())
	}
	r.ok(AddReceipts{[]ring.Receipt{{Node: nodeB, Digest: one}}}, nil)
	if got := open(); !slices.Equal(got, []id.Digest{two}) {
		t.Errorf("%v although it has its receipts", got)
	}
}
