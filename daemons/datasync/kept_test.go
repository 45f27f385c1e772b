package datasync

import (
	"path/filepath"
	"testing"
	"testing/synctest"

	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/daemons/kit/kittest"
	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/gamedb"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// A pack that is counted stays, also where a later version finds fault with it or with its counter: it may be all that is left of its
// games. Nobody checks it all the time, and the other packs are merged.
func TestCountedPackIsKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := kittest.New(t, c4)
		a, edge := r.AddNode("a", id.Core, ring.Slots{}), r.AddNode("edge", id.Edge, ring.Slots{})
		env := edge.Env(EphemeralSync(), "")
		packs := playedPacks(t, edge, env, 3)
		packs[0].Safe, packs[1].Safe = true, true
		packs[1].Counters = map[string]int64{kit.CounterGames: 7}
		if err := env.Effects.AddArtifacts(t.Context(), packs...); err != nil {
			t.Fatal(err)
		}
		m := newMerger(a.Env(AutoSync(), ""), JoinSettings{})
		checks := 0
		failCheck(m, packs[0].Digest, gamedb.ErrUnsafe, &checks)
		for range 3 * slowPatience {
			if err := m.step(t.Context()); err != nil {
				t.Error(err)
			}
		}
		kept, _ := r.View("").Library.Artifact(packs[0].Digest)
		if !a.Holds(packs[0].Digest) || !kept.Held(a.ID) || len(a.Quarantine) != 0 {
			t.Errorf("held by %v, put aside %v", kept.Holders, a.Quarantine)
		}
		if told := len(r.Log(event.DataSyncFailed.Type())); checks != slowPatience || told != 1 {
			t.Errorf("checked %d times, told %d times", checks, told)
		}
		if merged := r.Games(filepath.Join(a.Dir(), "games", string(c4)+".db")); len(merged) != 2 {
			t.Errorf("%v are merged", merged)
		}
	})
}
