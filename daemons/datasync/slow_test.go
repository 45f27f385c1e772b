package datasync

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ringagent/ringagent/daemons/kit/kittest"
	"github.com/ringagent/ringagent/internal/gamedb"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// A pack that passes its check and then takes the whole time of a merge is put off at once, one that cannot be merged as it is after a
// few tries; the other packs are merged meanwhile.
func TestPackThatDoesNotMergeHoldsNothingUp(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		trouble error
		tries   int
	}{{gamedb.ErrSlow, 1}, {gamedb.ErrUnsafe, slowPatience}} {
		synctest.Test(t, func(t *testing.T) {
			r := kittest.New(t, c4)
			a, edge := r.AddNode("a", id.Core, ring.Slots{}), r.AddNode("edge", id.Edge, ring.Slots{})
			env := edge.Env(EphemeralSync(), "")
			packs := playedPacks(t, edge, env, 2)
			if err := env.Effects.AddArtifacts(t.Context(), packs...); err != nil {
				t.Fatal(err)
			}
			m := newMerger(a.Env(AutoSync(), ""), JoinSettings{})
			good, tries := m.add, 0
			m.add = func(to *gamedb.Merger, ctx context.Context, path string, of id.Config) (gamedb.MergeResult, error) {
				if filepath.Base(path) != string(packs[0].Digest) {
					return good(to, ctx, path, of)
				}
				tries++
				return gamedb.MergeResult{}, fmt.Errorf("merge: %w", c.trouble)
			}
			step := func() {
				if err := m.step(t.Context()); err != nil && !errors.Is(err, c.trouble) {
					t.Error(err)
				}
			}
			for range 4 * slowPatience {
				step()
			}
			merged := func() int { return len(r.Games(filepath.Join(a.Dir(), "games", string(c4)+".db"))) }
			if tries != c.tries || merged() != 1 || !a.Holds(packs[0].Digest) {
				t.Errorf("%v: %d tries, want %d; %d games of the other pack are merged", c.trouble, tries, c.tries, merged())
			}
			m.add = good
			time.Sleep(slowRetry)
			if step(); merged() != 2 {
				t.Errorf("%v: %d games merged later, want 2", c.trouble, merged())
			}
		})
	}
}
