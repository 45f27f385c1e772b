package datasync

import (
	"testing"
	"testing/synctest"

	"github.com/ringagent/ringagent/daemons/kit/kittest"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// A pack that only machines have which are gone is not asked for: each of them costs the time of a dial, in every look.
func TestPacksOfGoneMachinesAreNotAskedFor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := kittest.New(t, c4)
		core, gone, back := r.AddNode("core", id.Core, ring.Slots{}), r.AddNode("gone", id.Edge, ring.Slots{}), r.AddNode("back", id.Edge, ring.Slots{})
		r.SetStatus(gone, ring.Failed)
		env := core.Env(AutoSync(), "")
		m, v := newMerger(env, JoinSettings{}), env.View.Near()
		for name, c := range map[string]struct {
			holders []id.Node
			want    bool
		}{
			"gone":                 {[]id.Node{gone.ID}, false},
			"gone and there":       {[]id.Node{gone.ID, back.ID}, true},
			"nobody":               {nil, false},
			"nobody in the roster": {[]id.Node{"n0000000000000000"}, false},
		} {
			if got := m.reachable(v, ring.Artifact{Digest: "x", Holders: c.holders}); got != c.want {
				t.Errorf("%s: %v", name, got)
			}
		}
	})
}
