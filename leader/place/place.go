package place

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// Node is a member that may be given singletons.
type Node struct {
	ring.Member
	Ready bool // has given a sign of life lately, under Member.Boot
	Load  int  // singletons that it runs
}

// Request is one singleton that needs a place.
type Request struct {
	Daemon string
	// May says why a member must not run the daemon; "" means that it may.
	May func(ring.Member) string
	// Last is where it ran, and its standby.
	Last ring.Assignment
	// But is a node that must not be chosen, since it let its lease lapse; "" = none.
	But id.Node
}

// Choice is the answer; with Node "" there is no place, and Reason says why.
type Choice struct {
	Node    id.Node
	Boot    id.Boot
	Standby id.Node
	Reason  string
}

// Fit says why a node cannot run the daemon now; "" means that it can.
func (r Request) Fit(n Node) string {
	switch {
	case n.Revoked:
		return "revoked"
	case n.Status != ring.Alive:
		return string(n.Status)
	case n.Boot == "":
		return "has not reported since its enrolment"
	case r.But != "" && n.ID == r.But:
		return "its lease lapsed"
	case !n.Ready:
		return "silent"
	case r.May == nil:
		return ""
	}
	return r.May(n.Member)
}

// Choose finds a place: the node where the daemon ran, or else its standby, or else the least loaded; ties go to the lower
// id, so that the answer is the same whoever asks. The standby is the next best, in another failure domain if there is one.
func Choose(r Request, nodes []Node) Choice {
	var able []Node
	var not []string
	for _, n := range nodes {
		if why := r.Fit(n); why != "" {
			not = append(not, fmt.Sprintf("%s: %s", label(n.Member), why))
		} else {
			able = append(able, n)
		}
	}
	if len(able) == 0 {
		slices.Sort(not)
		if len(not) == 0 {
			not = []string{"no nodes"}
		}
		return Choice{Reason: "no node can run it (" + strings.Join(not, ", ") + ")"}
	}
	rank := func(n Node) int {
		switch n.ID {
		case r.Last.Node:
			return 0
		case r.Last.Standby:
			return 1
		}
		return 2
	}
	slices.SortFunc(able, func(a, b Node) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.Load, b.Load), cmp.Compare(a.ID, b.ID))
	})
	best := able[0]
	c := Choice{Node: best.ID, Boot: best.Boot, Reason: [...]string{"stays where it ran", "was standby", "least loaded"}[rank(best)]}
	rest := able[1:]
	slices.SortFunc(rest, func(a, b Node) int {
		return cmp.Or(
			boolCompare(a.Domain() == best.Domain(), b.Domain() == best.Domain()),
			cmp.Compare(a.Load, b.Load), cmp.Compare(a.ID, b.ID))
	})
	if len(rest) > 0 {
		c.Standby = rest[0].ID
	}
	return c
}

func boolCompare(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

func label(m ring.Member) string {
	if m.Name != "" {
		return m.Name
	}
	return string(m.ID)
}
