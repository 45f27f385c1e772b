package agent

import (
	"slices"
	"testing"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// Who seems to be gone is asked last, and one at a time; who alone might be there is asked all the same.
func TestLikelyCoreNodes(t *testing.T) {
	t.Parallel()
	core := func(n id.Node, s ring.Status) ring.Member { return ring.Member{ID: n, Class: id.Core, Status: s} }
	revoked := core("r", ring.Alive)
	revoked.Revoked = true
	members := []ring.Member{core("a", ring.Failed), core("b", ring.Alive), core("c", ring.Left), core("d", ring.Draining), core("e", ring.Failed),
		revoked, {ID: "edge", Class: id.Edge, Status: ring.Alive}, core("self", ring.Alive)}
	last := func(n int) int { return n - 1 }
	for _, c := range []struct {
		name string
		of   []ring.Member
		seen map[id.Node]ring.Status
		want []id.Node
	}{
		{"by the roster", members, nil, []id.Node{"b", "d", "e"}},
		{"gossip knows better", members, map[id.Node]ring.Status{"a": ring.Alive, "b": ring.Failed}, []id.Node{"a", "d", "e"}},
		{"nobody is there", []ring.Member{members[0], members[2], members[4]}, nil, []id.Node{"a", "c", "e"}},
		{"nobody is gone", []ring.Member{members[1], members[3]}, nil, []id.Node{"b", "d"}},
		{"nobody", nil, nil, nil},
	} {
		if got := likely(c.of, "self", c.seen, last); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}
