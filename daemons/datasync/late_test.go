package datasync

import (
	"context"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/daemons/kit/kittest"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// dripping is a store to which one artifact does not come.
type dripping struct {
	kit.Store
	late  id.Digest
	asked []time.Duration // how long it was waited for
}

func (s *dripping) Ensure(ctx context.Context, d id.Digest) (string, error) {
	if d != s.late {
		return s.Store.Ensure(ctx, d)
	}
	began := time.Now()
	<-ctx.Done()
	s.asked = append(s.asked, time.Since(began))
	return "", ctx.Err()
}

// A pack that does not arrive is waited for as long as its size asks for; then the others are merged, and it is tried again, in the
// end not all the time.
func TestPackThatDoesNotArriveKeepsNobodyWaiting(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := kittest.New(t, c4)
		a, edge := r.AddNode("a", id.Core, ring.Slots{}), r.AddNode("edge", id.Edge, ring.Slots{})
		env := edge.Env(EphemeralSync(), "")
		packs := playedPacks(t, edge, env, 2)
		if err := env.Effects.AddArtifacts(t.Context(), packs...); err != nil {
			t.Fatal(err)
		}
		m := newMerger(a.Env(AutoSync(), ""), JoinSettings{})
		store := &dripping{Store: m.store, late: packs[0].Digest}
		m.store = store
		step := func() {
			t.Helper()
			if err := m.step(t.Context()); err != nil {
				t.Error(err)
			}
		}
		games := func() int { return len(kittest.Games(filepath.Join(a.Dir(), "games", string(c4)+".db"))) }
		step()
		if games() != 1 || len(store.asked) != 1 || store.asked[0] != getLeast {
			t.Errorf("%d games, waited %v", games(), store.asked)
		}
		for range 2 * slowPatience {
			step()
		}
		if len(store.asked) != slowPatience {
			t.Errorf("tried %d times in a row", len(store.asked))
		}
		// When it comes another way it is merged at once.
		if _, err := store.Store.Ensure(t.Context(), store.late); err != nil {
			t.Fatal(err)
		}
		store.late = ""
		step()
		if games() != 2 {
			t.Errorf("%d games when it is there", games())
		}
		for bytes, want := range map[int64]time.Duration{1: getLeast, 600 * getRate: 10 * time.Minute, 64 << 30: getMost} {
			store.late, store.asked = packs[0].Digest, nil
			_, _ = m.get(t.Context(), ring.Artifact{Digest: store.late, Bytes: bytes})
			if store.asked[0] != want {
				t.Errorf("%d bytes are waited for %v", bytes, store.asked[0])
			}
		}
	})
}
