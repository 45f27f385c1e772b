package state

import (
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
