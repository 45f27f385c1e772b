package evaluation

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/daemons/kit/kittest"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/rating"
	"github.com/ringagent/ringagent/internal/ring"
)

// A promotion reads the matches of its own candidate and of nobody else that were read before, also by another instance of
// the daemon, and its rating is still that of all of them.
func TestPromotionReadsMatchesOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := kittest.New(t, c4)
		n := r.AddNode("a", id.Core, ring.Slots{CPU: 1})
		spec := Promotion()
		stop := n.Start(spec, "")
		first := passing()
		good := evaluated(r, n, "first", first, "")
		r.Eventually(2*time.Minute, "promoted", func() bool { name, _ := r.Name(ring.ModelName(c4)); return name.Digest == good })
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		n.Start(spec, "")
		old := r.View("").Library.Artifacts(ring.KindMatches, c4)
		if len(old) != 1 {
			t.Fatalf("%d files of matches", len(old))
		}
		n.Damage(old[0].Digest) // who hashes it again puts it aside
		second := append(append(played("me", "random", 100, 99), played("me", "heuristic", 100, 90)...), played("me", string(good), 100, 90)...)
		for i := range second {
			second[i].ID = "second-" + second[i].ID
		}
		better := evaluated(r, n, "second", second, "")
		r.Eventually(2*time.Minute, "the next", func() bool { name, _ := r.Name(ring.ModelName(c4)); return name.Digest == better })
		if len(n.Quarantine) > 0 {
			t.Errorf("the first candidate's matches were read again: %v", n.Quarantine)
		}
		want := rating.Fold(slices.Concat(first, second), kit.Baselines())[string(better)]
		if name, _ := r.Name(ring.ModelName(c4)); name.Values["elo"] != want.Elo || name.Values["games"] != float64(want.Games) {
			t.Errorf("%v, want %+v", name.Values, want)
		}
	})
}
