package work

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

func needs(digests ...id.Digest) func(*ring.WorkItem) {
	return func(w *ring.WorkItem) {
		for _, d := range digests {
			w.Inputs = append(w.Inputs, ring.Input{Role: "pack", Digest: d})
		}
	}
}

// What nobody who is there holds is waited for, no longer than the limit in one piece, and never chosen meanwhile.
func TestLostInputs(t *testing.T) {
	t.Parallel()
	const limit = time.Minute
	running := claimed("run", "export", c4, "c")
	needs("far")(&running)
	v := twoNodes(pending("1", "export", c4, needs("near", "far")), pending("2", "export", c4, needs("near")),
		pending("3", "train", hex8, needs("unknown")), running).has("near")
	v.members = append(v.members, ring.Member{ID: "c", Boot: "1", Status: ring.Failed}, ring.Member{ID: "d", Boot: "1", Status: ring.Draining})
	far := ring.Artifact{Digest: "far", Holders: []id.Node{"c", "nobody"}}
	v.artifacts["far"] = far
	want := func(at time.Duration, m Missing, works ...string) {
		t.Helper()
		var got []string
		for _, w := range Lost(v, m, now.Add(at), limit) {
			got = append(got, w.Work+" "+string(w.Input.Digest))
		}
		if d := cmp.Diff(works, got); d != "" {
			t.Errorf("at %v: %s", at, d)
		}
	}
	m := Miss(v, nil, now)
	if d := cmp.Diff(Missing{"1": now, "3": now, "run": now}, m); d != "" {
		t.Error(d)
	}
	if w, _, ok := Next(v, Offer{Node: a, Boot: "1", Free: ring.Slots{CPU: 2}, Now: now}); !ok || w.ID != "2" {
		t.Errorf("chosen: %q", w.ID)
	}
	want(limit, m)
	want(limit+1, m, "1 far", "3 unknown") // a run may have the bytes: it ends first
	m = Miss(v, m, now.Add(30*time.Second))
	want(limit+1, m, "1 far", "3 unknown")
	// The holder is back for a moment, though it drains: the time begins anew.
	far.Holders = append(far.Holders, "d")
	v.artifacts["far"] = far
	m = Miss(v, m, now.Add(40*time.Second))
	v.members[len(v.members)-1].Status = ring.Left
	m = Miss(v, m, now.Add(50*time.Second))
	want(limit+1, m, "3 unknown")
	want(limit+51*time.Second, m, "1 far", "3 unknown")
}
