package place

import (
	"testing"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

func node(name string, load int, change ...func(*Node)) Node {
	n := Node{Member: ring.Member{ID: id.Node(name), Boot: "b", Class: id.Core, Status: ring.Alive, FailureDomain: name}, Ready: true, Load: load}
	for _, c := range change {
		c(&n)
	}
	return n
}

func edge(n *Node)     { n.Class = id.Edge }
func silent(n *Node)   { n.Ready = false }
func draining(n *Node) { n.Status = ring.Draining }
func revoked(n *Node)  { n.Revoked = true }
func in(domain string) func(*Node) {
	return func(n *Node) { n.FailureDomain = domain }
}

func core(m ring.Member) string {
	if m.Class != id.Core {
		return "class " + string(m.Class)
	}
	return ""
}

func TestChoose(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name          string
		req           Request
		nodes         []Node
		want, standby id.Node
		reason        string
	}{
		{"least loaded", Request{}, []Node{node("a", 3), node("b", 1), node("c", 2)}, "b", "c", "least loaded"},
		{"ties by id", Request{}, []Node{node("b", 1), node("a", 1)}, "a", "b", "least loaded"},
		{"sticky", Request{Last: ring.Assignment{Node: "a"}}, []Node{node("a", 9), node("b", 0)}, "a", "b", "stays where it ran"},
		{"standby follows", Request{Last: ring.Assignment{Node: "x", Standby: "c"}}, []Node{node("a", 0), node("c", 5)}, "c", "a", "was standby"},
		{"not who lapsed", Request{Last: ring.Assignment{Node: "a"}, But: "a"}, []Node{node("a", 0), node("b", 5)}, "b", "", "least loaded"},
		{"not the silent", Request{}, []Node{node("a", 0, silent), node("b", 5)}, "b", "", "least loaded"},
		{"not who drains", Request{}, []Node{node("a", 0, draining), node("b", 5)}, "b", "", "least loaded"},
		{"class", Request{May: core}, []Node{node("a", 0, edge), node("b", 5)}, "b", "", "least loaded"},
		{"standby elsewhere", Request{}, []Node{node("a", 0, in("x")), node("b", 1, in("x")), node("c", 2, in("y"))}, "a", "c", "least loaded"},
		{"nobody", Request{May: core}, []Node{node("a", 0, edge), node("b", 0, revoked), node("c", 0, silent)}, "", "",
			"no node can run it (a: class edge, b: revoked, c: silent)"},
		{"no nodes", Request{}, nil, "", "", "no node can run it (no nodes)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got := Choose(c.req, c.nodes)
			if got.Node != c.want || got.Standby != c.standby || got.Reason != c.reason {
				t.Errorf("got %+v", got)
			}
		})
	}
}
