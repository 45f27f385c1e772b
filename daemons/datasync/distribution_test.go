package datasync

import (
	"context"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/daemons/kit/kittest"
	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// champion makes bytes that n holds the champion.
func champion(t *testing.T, r *kittest.Ring, n *kittest.Node) id.Digest {
	t.Helper()
	m := r.AddArtifact(ring.KindModel, c4, "m", nil, nil, n)
	set := n.Env(kit.Spec{Name: "AUTO_PROMOTION", Scope: kit.ScopeCluster}, "").Effects
	if _, err := set.SetName(t.Context(), ring.ModelName(c4), 0, m.Digest, nil); err != nil {
		t.Fatal(err)
	}
	return m.Digest
}

// told are the completions so far.
func told(t *testing.T, r *kittest.Ring, complete event.Kind[event.Distribution]) []event.Distribution {
	t.Helper()
	var out []event.Distribution
	for _, e := range r.Log(complete.Type()) {
		p, err := complete.Read(e)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, p)
	}
	return out
}

// shut makes nodes take no bytes until open is called.
func shut(nodes ...*kittest.Node) (open func()) {
	var opened atomic.Bool
	for _, n := range nodes {
		n.FetchFault = func(context.Context, id.Digest) error {
			if !opened.Load() {
				return errBlocked
			}
			return nil
		}
	}
	return func() { opened.Store(true) }
}

// A node that is down is named as missing. Back again it gets the bytes, and not before that is it told that all have them. Nobody
// misses who has left the ring.
func TestDistributionNamesWhoIsDown(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		spec     kit.Spec
		complete event.Kind[event.Distribution]
		want     func(*testing.T, *kittest.Ring, *kittest.Node) id.Digest
		slots    ring.Slots // of those that are to hold it besides the first
		first    bool       // whether the first is to hold it too
	}{
		{ModelDistribution(), event.ModelDistributionComplete, champion, ring.Slots{CPU: 1}, true},
		{NPZDistribution(), event.NPZDistributionComplete, func(_ *testing.T, r *kittest.Ring, n *kittest.Node) id.Digest {
			return r.AddArtifact(ring.KindDataset, c4, "d", nil, nil, n).Digest
		}, ring.Slots{GPU: 1}, false},
	} {
		t.Run(c.spec.Name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := kittest.New(t, c4)
				first := r.AddNode("first", id.Core, ring.Slots{})
				up, down, left := r.AddNode("up", id.Core, c.slots), r.AddNode("down", id.Edge, c.slots), r.AddNode("left", id.Edge, c.slots)
				r.SetStatus(down, ring.Failed)
				r.SetStatus(left, ring.Left)
				open := shut(down)
				d := c.want(t, r, first)
				have := []id.Node{up.ID}
				if c.first {
					have = []id.Node{first.ID, up.ID}
				}
				first.Start(c.spec, `{"every":"2s","retry":"1s"}`)
				r.Eventually(10*time.Second, "told of those that are up", func() bool { return len(told(t, r, c.complete)) == 1 })
				if p := told(t, r, c.complete)[0]; !slices.Equal(p.OK, have) || !slices.Equal(p.Missing, []id.Node{down.ID}) || p.Digest != d {
					t.Errorf("told %+v, want %v to have it and %s to be missing", p, have, down.ID)
				}
				r.SetStatus(down, ring.Alive)
				time.Sleep(time.Minute)
				if n := len(told(t, r, c.complete)); n != 1 {
					t.Errorf("told %d times before the node that came back had its bytes, want once", n)
				}
				open()
				r.Eventually(time.Minute, "told of all", func() bool { return len(told(t, r, c.complete)) == 2 })
				have = append(have, down.ID)
				if p := told(t, r, c.complete)[1]; !slices.Equal(p.OK, have) || len(p.Missing) != 0 || p.Digest != d || !down.Holds(d) {
					t.Errorf("told %+v, want %v to have it and nobody to be missing; the bytes are there: %v", p, have, down.Holds(d))
				}
			})
		})
	}
}

// In a ring without GPUs anybody may train: a dataset has its copies, one of them on a core node, before it is told as there.
func TestDatasetHasItsCopiesWithoutGPUs(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		origin id.Class
		copies int // 0: the default
	}{
		"an edge node made it": {id.Edge, 0}, "a core node made it": {id.Core, 0}, "three copies are wanted": {id.Edge, 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := kittest.New(t, c4)
				if c.copies > 0 {
					r.Settings(func(s *ring.Settings) { s.Copies = map[ring.Kind]int{ring.KindDataset: c.copies} })
				}
				origin := r.AddNode("origin", c.origin, ring.Slots{CPU: 1})
				others := []*kittest.Node{r.AddNode("a", id.Edge, ring.Slots{CPU: 1}), r.AddNode("b", id.Core, ring.Slots{CPU: 1}),
					r.AddNode("c", id.Core, ring.Slots{CPU: 1})}
				open := shut(others...)
				d := r.AddArtifact(ring.KindDataset, c4, "d", nil, nil, origin)
				others[1].Start(NPZDistribution(), `{"every":"2s","retry":"1s"}`)
				time.Sleep(time.Minute)
				if early := told(t, r, event.NPZDistributionComplete); len(early) != 0 {
					t.Errorf("told as complete with one copy: %+v", early[0])
				}
				open()
				r.Eventually(time.Minute, "told as complete", func() bool { return len(told(t, r, event.NPZDistributionComplete)) > 0 })
				v := r.View("")
				a, _ := v.Library.Artifact(d.Digest)
				want := v.Ring.CopiesOf(ring.KindDataset)
				if n, core := kit.Copies(v.Fleet.Members(), a, ""); n != want || !core {
					t.Errorf("%d copies, one of them on a core node: %v; want %d", n, core, want)
				}
				if p := told(t, r, event.NPZDistributionComplete); len(p) != 1 || !slices.Equal(p[0].OK, a.Holders) || len(p[0].Missing) != 0 {
					t.Errorf("told %+v, holders %v", p, a.Holders)
				}
			})
		})
	}
}
