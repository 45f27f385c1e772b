package ring_test

import (
	"slices"
	"testing"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

func TestReceipted(t *testing.T) {
	t.Parallel()
	member := func(n id.Node, c id.Class, s ring.Status) ring.Member { return ring.Member{ID: n, Class: c, Status: s} }
	a, b := member("a", id.Core, ring.Alive), member("b", id.Core, ring.Alive)
	played := member("played", id.Edge, ring.Alive)
	for name, tc := range map[string]struct {
		members []ring.Member
		holders []id.Node
		copies  int
		want    bool
	}{
		"nobody":                              {[]ring.Member{a, b, played}, nil, 2, false},
		"only where it was played":            {[]ring.Member{a, b, played}, []id.Node{"played"}, 1, false},
		"one of two":                          {[]ring.Member{a, b, played}, []id.Node{"played", "a"}, 2, false},
		"both":                                {[]ring.Member{a, b, played}, []id.Node{"a", "b"}, 2, true},
		"all that a small ring allows":        {[]ring.Member{a, played}, []id.Node{"a"}, 2, true},
		"none on a core node":                 {[]ring.Member{a, member("e", id.Edge, ring.Alive), played}, []id.Node{"e"}, 1, false},
		"the copy of a node that left":        {[]ring.Member{a, b, member("e", id.Edge, ring.Left), played}, []id.Node{"a", "e"}, 2, false},
		"a node that left makes no room":      {[]ring.Member{a, member("b", id.Core, ring.Left), played}, []id.Node{"a"}, 2, true},
		"a dead node may yet come back":       {[]ring.Member{a, member("b", id.Core, ring.Failed), played}, []id.Node{"a"}, 2, false},
		"the copy of a node that is shut out": {[]ring.Member{a, b, {ID: "e", Class: id.Core, Revoked: true}, played}, []id.Node{"a", "e"}, 2, false},
	} {
		art := ring.Artifact{Origin: "played", Holders: tc.holders}
		if got := art.Receipted(slices.Values(tc.members), tc.copies); got != tc.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
