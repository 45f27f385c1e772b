package datasync

import (
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ringagent/ringagent/daemons/kit/kittest"
	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/gamedb"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// Of two games with one id, in packs of different jobs, the first stays in every merged database. Each core node tells once that the
// other is not merged, and the pack's other games are.
func TestFirstOfTwoGamesWithOneIDStays(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := kittest.New(t, c4)
		a, b := r.AddNode("a", id.Core, ring.Slots{}), r.AddNode("b", id.Core, ring.Slots{})
		edge := r.AddNode("edge", id.Edge, ring.Slots{})
		cores := []*kittest.Node{a, b}
		merged := func(n *kittest.Node) string { return filepath.Join(n.Dir(), "games", string(c4)+".db") }
		sum := func(path string) gamedb.Sum {
			sums, err := gamedb.Sums(t.Context(), path, []string{"g-0"})
			if err != nil || len(sums) != 1 {
				t.Fatalf("%s: %v, %v", path, sums, err)
			}
			return sums["g-0"]
		}
		all := kittest.IDs("g", 12)
		first := sum(edge.Play("first", c4, true, all...).Path)
		edge.Start(EphemeralSync(), "")
		for _, n := range cores {
			n.Start(AutoSync(), `{"every":"10s"}`)
			r.Eventually(time.Minute, "merged on "+n.Name, func() bool { return len(r.Games(merged(n))) == len(all) })
		}
		known := r.Artifacts(ring.KindPack)[0].Digest
		time.Sleep(time.Second) // other times of completion make other contents
		if sum(edge.Play("clash", c4, true, "g-0", "new").Path) == first {
			t.Fatal("the two games are the same")
		}
		all = append(all, "new")
		slices.Sort(all)
		for _, n := range cores {
			r.Eventually(time.Minute, "the new game is merged on "+n.Name, func() bool { return len(r.Games(merged(n))) == len(all) })
		}
		time.Sleep(10 * time.Minute)
		packs := slices.DeleteFunc(r.Artifacts(ring.KindPack), func(p ring.Artifact) bool { return p.Digest == known })
		if len(packs) != 1 {
			t.Fatalf("packs besides the first: %v", packs)
		}
		told := map[string]string{}
		for _, rec := range r.Log(event.DataSyncFailed.Type()) {
			v, err := event.DataSyncFailed.Read(rec)
			if _, again := told[v.Target]; err != nil || again || v.Config != c4 || string(v.NodeID) != v.Target || v.Attempts != 1 {
				t.Errorf("%s, %v", rec.Payload, err)
			}
			told[v.Target] = v.Error
		}
		want := "pack " + string(packs[0].Digest) + ": 1 games are here with other contents, such as g-0: not merged"
		for _, n := range cores {
			if told[string(n.ID)] != want {
				t.Errorf("%s tells %q, want %q", n.Name, told[string(n.ID)], want)
			}
			if got := slices.Sorted(slices.Values(r.Games(merged(n)))); !slices.Equal(got, all) || sum(merged(n)) != first {
				t.Errorf("%s has %v, the first of the two games: %v", n.Name, got, sum(merged(n)) == first)
			}
		}
		if len(told) != len(cores) {
			t.Errorf("%d nodes tell of it: %v", len(told), told)
		}
	})
}
