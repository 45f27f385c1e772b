package datasync

import (
	"testing"

	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/daemons/kit/kittest"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// What is needed here is what the state takes for needed: every other answer would be asked for in vain, or waited for.
func TestWhichPacksAreNeeded(t *testing.T) {
	t.Parallel()
	const other = id.Config("hex8_2p")
	for name, c := range map[string]struct {
		work func(r *kittest.Ring, n *kittest.Node, pack id.Digest) ring.WorkItem
		done bool
		want bool
	}{
		"an export of it": {want: true, work: func(_ *kittest.Ring, _ *kittest.Node, p id.Digest) ring.WorkItem {
			return ring.WorkItem{Type: kit.StageExport, Config: c4, Inputs: []ring.Input{{Role: kit.RolePack, Digest: p}}}
		}},
		"it is over": {done: true, work: func(_ *kittest.Ring, _ *kittest.Node, p id.Digest) ring.WorkItem {
			return ring.WorkItem{Type: kit.StageExport, Config: c4, Inputs: []ring.Input{{Role: kit.RolePack, Digest: p}}}
		}},
		"any work with it": {want: true, work: func(_ *kittest.Ring, _ *kittest.Node, p id.Digest) ring.WorkItem {
			return ring.WorkItem{Type: "own", Inputs: []ring.Input{{Role: "own", Digest: p}}}
		}},
		"an export of another": {work: func(r *kittest.Ring, n *kittest.Node, _ id.Digest) ring.WorkItem {
			return ring.WorkItem{Type: kit.StageExport, Config: c4, Inputs: []ring.Input{{Role: kit.RolePack,
				Digest: r.AddArtifact(ring.KindPack, c4, "another", nil, nil, n).Digest}}}
		}},
		"a list": {want: true, work: func(r *kittest.Ring, n *kittest.Node, _ id.Digest) ring.WorkItem {
			return ring.WorkItem{Type: kit.StageExport, Config: c4, Inputs: []ring.Input{{Role: kit.RolePackList,
				Digest: r.AddArtifact(ring.KindFile, c4, "list", nil, nil, n).Digest}}}
		}},
		"a file by another role": {want: true, work: func(r *kittest.Ring, n *kittest.Node, _ id.Digest) ring.WorkItem {
			return ring.WorkItem{Type: kit.StageExport, Config: c4, Inputs: []ring.Input{{Role: kit.RolePack,
				Digest: r.AddArtifact(ring.KindFile, c4, "list", nil, nil, n).Digest}}}
		}},
		"what nobody knows": {want: true, work: func(*kittest.Ring, *kittest.Node, id.Digest) ring.WorkItem {
			return ring.WorkItem{Type: kit.StageExport, Config: c4, Inputs: []ring.Input{{Role: kit.RolePack, Digest: id.DigestOf([]byte("unknown"))}}}
		}},
		"a list of another config": {work: func(r *kittest.Ring, n *kittest.Node, _ id.Digest) ring.WorkItem {
			return ring.WorkItem{Type: kit.StageExport, Config: other, Inputs: []ring.Input{{Role: kit.RolePackList,
				Digest: r.AddArtifact(ring.KindFile, other, "list", nil, nil, n).Digest}}}
		}},
		"a list of work that exports nothing": {work: func(r *kittest.Ring, n *kittest.Node, _ id.Digest) ring.WorkItem {
			return ring.WorkItem{Type: "own", Config: c4, Inputs: []ring.Input{{Role: kit.RolePackList,
				Digest: r.AddArtifact(ring.KindFile, c4, "list", nil, nil, n).Digest}}}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := kittest.New(t, c4, other)
			n := r.AddNode("core", id.Core, ring.Slots{})
			pack := r.AddArtifact(ring.KindPack, c4, "pack", nil, nil, n)
			env := n.Env(AutoSync(), "")
			w := c.work(r, n, pack.Digest)
			w.Key = "k"
			items, err := env.Effects.Enqueue(t.Context(), w)
			if err == nil && c.done {
				err = env.Effects.Cancel(t.Context(), items[0].ID, "over")
			}
			if err != nil {
				t.Fatal(err)
			}
			v := r.View("")
			if got := needed(v, c4, setOf([]id.Digest{pack.Digest})); got != c.want {
				t.Errorf("needed: %v", got)
			}
			if got := len(unread(v, []ring.Artifact{pack})); (got == 0) != c.want {
				t.Errorf("%d may be asked for", got)
			}
		})
	}
}
