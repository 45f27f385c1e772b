package datasync

import (
	"path/filepath"
	"testing"
	"testing/synctest"

	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/daemons/kit/kittest"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// A pack of which its node says that it has more games than it has, or fewer, is not merged and not put aside either, and others are.
func TestCounterOfAPackIsNotBelieved(t *testing.T) {
	t.Parallel()
	for _, said := range []int64{4e18, 0, -1} {
		synctest.Test(t, func(t *testing.T) {
			r := kittest.New(t, c4)
			a, edge := r.AddNode("a", id.Core, ring.Slots{}), r.AddNode("edge", id.Edge, ring.Slots{})
			r.AddNode("b", id.Core, ring.Slots{}) // whose receipts are missing: what is counted already is not looked at again
			env := edge.Env(EphemeralSync(), "")
			packs := playedPacks(t, edge, env, 2)
			packs[0].Counters = map[string]int64{kit.CounterGames: said}
			if err := env.Effects.AddArtifacts(t.Context(), packs...); err != nil {
				t.Fatal(err)
			}
			m := newMerger(a.Env(AutoSync(), ""), JoinSettings{})
			for range 3 {
				if err := m.step(t.Context()); err != nil {
					t.Error(err)
				}
			}
			if merged := r.Games(filepath.Join(a.Dir(), "games", string(c4)+".db")); len(merged) != 1 {
				t.Errorf("%d are said to be there: merged %v, want the other pack's game", said, merged)
			}
			if !a.Holds(packs[0].Digest) || len(a.Quarantine) != 0 {
				t.Errorf("%d are said to be there: the bytes are put aside: %v", said, a.Quarantine)
			}
		})
	}
}
