package datasync

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/daemons/kit/kittest"
	"github.com/ringagent/ringagent/internal/gamedb"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// discardRig is a core node with a pack that was joined into another one.
func discardRig(t *testing.T, there ...string) (r *kittest.Ring, n *kittest.Node, old id.Digest) {
	r = kittest.New(t, c4)
	n = r.AddNode("core", id.Core, ring.Slots{})
	env := n.Env(AutoSync(), "")
	add := func(kind ring.Kind, name string, labels map[string]string, ids ...string) id.Digest {
		path := filepath.Join(n.Dir(), "staging", name)
		n.WriteGames(path+".db", c4, ids...)
		if _, err := gamedb.Pack(t.Context(), path+".db", path, ids); err != nil {
			t.Fatal(err)
		}
		d, size, err := env.Store.PutFile(t.Context(), path)
		if err == nil {
			err = env.Effects.AddArtifacts(t.Context(), ring.Artifact{Digest: d, Kind: kind, Config: c4, Bytes: size, Origin: n.ID, Holders: []id.Node{n.ID},
				Counters: map[string]int64{kit.CounterGames: 2}, Labels: labels})
		}
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	old = add(ring.KindPack, "old", nil, "a", "b")
	to := add(ring.KindFile, "new", map[string]string{ring.LabelJoins: string(c4)}, there...)
	if err := env.Effects.JoinPacks(t.Context(), to, 2, old); err != nil {
		t.Fatal(err)
	}
	return r, n, old
}

// Whatever the ring believes, a core node does not let go of games that are not in its copy of the joined pack.
func TestCoreNodesKeepWhatIsNotInTheJoinedPack(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		there []string
		holds func(context.Context, string, string) error
		spoil func(r *kittest.Ring, n *kittest.Node, old id.Digest)
		gone  bool
	}{
		"all are there":    {there: []string{"a", "b", "c"}, gone: true},
		"one is not":       {there: []string{"a", "c"}},
		"and nobody looks": {there: []string{"a", "c"}, gone: true, holds: func(context.Context, string, string) error { return nil }},
		"the new one is not here": {there: []string{"a", "b", "c"}, spoil: func(r *kittest.Ring, n *kittest.Node, old id.Digest) {
			a, _ := r.View("").Library.Artifact(old)
			n.Lose(a.Joined)
		}},
		"it cannot be told": {there: []string{"a", "b", "c"}, holds: func(context.Context, string, string) error { return errors.New("too many open files") }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r, n, old := discardRig(t, c.there...)
				d := newDiscarder(n.Env(AutoSync(), ""), func(id.Digest) bool { return false })
				if c.holds != nil {
					d.holds = c.holds
				}
				if c.spoil != nil {
					c.spoil(r, n, old)
				}
				_ = d.step(t.Context())
				if !n.Holds(old) {
					t.Fatal("it is gone at once: who has just read of it may want it")
				}
				time.Sleep(discardAfter)
				_ = d.step(t.Context())
				if n.Holds(old) == c.gone {
					t.Errorf("gone: %v", !c.gone)
				}
			})
		})
	}
}

// asking counts the permits that are asked for, and what they are answered.
type asking struct {
	kit.Store
	asked   int
	answers func(ds []id.Digest) error
}

func (s *asking) Discard(ctx context.Context, ds ...id.Digest) error {
	s.asked++
	if s.answers != nil {
		if err := s.answers(ds); err != nil {
			return err
		}
	}
	return s.Store.Discard(ctx, ds...)
}

// While the joined pack has not got its copies, nobody asks for a permit, which would be an entry of the log each time; a permit that
// is refused all the same is asked for again after a while.
func TestPermitsAreNotAskedForInVain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, n, old := discardRig(t, "a", "b", "c")
		env := n.Env(AutoSync(), "")
		store := &asking{Store: env.Store, answers: func([]id.Digest) error { return errors.New("refused") }}
		env.Store = store
		d := newDiscarder(env, func(id.Digest) bool { return false })
		hours := func(h int) (asked int) {
			before := store.asked
			for range h * int(time.Hour/discardEvery) {
				if err := d.step(t.Context()); err != nil {
					t.Fatal(err)
				}
				time.Sleep(discardEvery)
			}
			return store.asked - before
		}
		r.SetStatus(n, ring.Failed)
		if n := hours(1); n != 0 {
			t.Errorf("asked for %d permits while there is no copy", n)
		}
		r.SetStatus(n, ring.Alive)
		if n := hours(1); n < 2 || n > 8 {
			t.Errorf("asked for %d permits that were refused", n)
		}
		store.answers = nil
		if hours(1); n.Holds(old) {
			t.Error("it stays")
		}
	})
}

// One pack that cannot be compared, and one whose permit is refused, hold nobody up.
func TestOnePackHoldsNoOtherUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := kittest.New(t, c4)
		n := r.AddNode("core", id.Core, ring.Slots{})
		env := n.Env(AutoSync(), "")
		var packs []id.Digest
		for i := range perDiscard + 6 {
			packs = append(packs, r.AddArtifact(ring.KindPack, c4, fmt.Sprint("pack", i), map[string]int64{kit.CounterGames: 1}, nil, n).Digest)
		}
		file := filepath.Join(n.Dir(), "staging", "joined")
		if err := os.WriteFile(file, []byte("joined"), 0o600); err != nil {
			t.Fatal(err)
		}
		to, size, err := env.Store.PutFile(t.Context(), file)
		if err == nil {
			err = env.Effects.AddArtifacts(t.Context(), ring.Artifact{Digest: to, Kind: ring.KindFile, Config: c4, Bytes: size, Holders: []id.Node{n.ID},
				Labels: map[string]string{ring.LabelJoins: string(c4)}})
		}
		if err == nil {
			err = env.Effects.JoinPacks(t.Context(), to, int64(len(packs)), packs...)
		}
		if err != nil {
			t.Fatal(err)
		}
		refused := packs[3]
		env.Store = &asking{Store: env.Store, answers: func(ds []id.Digest) error {
			if slices.Contains(ds, refused) {
				return errors.New("refused")
			}
			return nil
		}}
		d := newDiscarder(env, func(id.Digest) bool { return false })
		d.holds = func(_ context.Context, _, pack string) error {
			if filepath.Base(pack) == string(packs[1]) {
				return gamedb.ErrNewerSchema
			}
			return nil
		}
		_ = d.step(t.Context())
		time.Sleep(discardAfter)
		if err := d.step(t.Context()); !errors.Is(err, gamedb.ErrNewerSchema) {
			t.Errorf("step: %v", err)
		}
		if err := d.step(t.Context()); err != nil {
			t.Errorf("next step: %v", err)
		}
		for i, p := range packs {
			if n.Holds(p) != (i == 1 || i == 3) {
				t.Errorf("pack %d is here: %v", i, n.Holds(p))
			}
		}
	})
}

// A node's own pack stays as long as its books do not know that it is safe: its games would be packed again.
func TestOpenPacksAreNotDiscarded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, n, old := discardRig(t, "a", "b", "c")
		open := true
		d := newDiscarder(n.Env(AutoSync(), ""), func(id.Digest) bool { return open })
		for range 3 {
			if err := d.step(t.Context()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(discardAfter)
		}
		if !n.Holds(old) {
			t.Fatal("it is gone")
		}
		open = false
		if err := d.step(t.Context()); err != nil || n.Holds(old) {
			t.Fatalf("it stays: %v", err)
		}
	})
}

// A file that was to become a joined pack, and did not since another node was faster, goes after a day, from a rented node too.
func TestFilesThatNeverJoinedAnythingGo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := kittest.New(t, c4)
		core, edge := r.AddNode("core", id.Core, ring.Slots{}), r.AddNode("edge", id.Edge, ring.Slots{})
		kept := r.AddArtifact(ring.KindFile, c4, "an operator's", nil, nil, core)
		file := ring.Artifact{Kind: ring.KindFile, Config: c4, Origin: core.ID, Labels: map[string]string{ring.LabelJoins: string(c4)}}
		for i, n := range []*kittest.Node{core, edge} {
			path := filepath.Join(n.Dir(), "staging", "file")
			err := os.WriteFile(path, []byte("never joined"), 0o600)
			env := n.Env(EphemeralSync(), "")
			if err == nil {
				file.Digest, file.Bytes, err = env.Store.PutFile(t.Context(), path)
			}
			if file.Holders = []id.Node{n.ID}; err == nil && i == 0 {
				err = env.Effects.AddArtifacts(t.Context(), file)
			} else if err == nil {
				err = env.Effects.AddReceipts(t.Context(), file.Digest)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		var all []*discarder
		for _, n := range []*kittest.Node{core, edge} {
			all = append(all, newDiscarder(n.Env(EphemeralSync(), ""), func(id.Digest) bool { return false }))
		}
		for _, wait := range []time.Duration{0, neverJoined - time.Second, time.Second} {
			if !core.Holds(file.Digest) || !edge.Holds(file.Digest) {
				t.Fatal("it is gone too early")
			}
			time.Sleep(wait)
			for _, d := range all {
				if err := d.step(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
		}
		if core.Holds(file.Digest) || edge.Holds(file.Digest) || !core.Holds(kept.Digest) {
			t.Errorf("core %v, edge %v, another file %v", core.Holds(file.Digest), edge.Holds(file.Digest), core.Holds(kept.Digest))
		}
	})
}

// asked is a store that says how often it was asked for permits, which it refuses.
type asked struct {
	kit.Store
	why   error
	times int
}

func (s *asked) Discard(context.Context, ...id.Digest) error { s.times++; return s.why }

// What work reads is not asked for pack by pack: every holder would, all the time that the work takes. What one of them cannot have
// for another reason holds the others up no longer.
func TestPacksThatWorkReadsAreAskedForOnce(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		why  error
		want int
	}{
		"work needs one":       {fmt.Errorf("ask: %w", kit.ErrConflict), 1},
		"one has lost its own": {errors.New("refused"), 4},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := kittest.New(t, c4)
			n := r.AddNode("core", id.Core, ring.Slots{})
			env := n.Env(AutoSync(), "")
			store := &asked{Store: shelf{missing: map[id.Digest]bool{}}, why: c.why}
			env.Store = store
			d := newDiscarder(env, func(id.Digest) bool { return false })
			var old []ring.Artifact
			for i := range 3 {
				a := ring.Artifact{Digest: id.DigestOf(fmt.Append(nil, i))}
				old = append(old, a)
			}
			err := d.some(t.Context(), old)
			if store.times != c.want || err != nil {
				t.Errorf("asked %d times, %v", store.times, err)
			}
		})
	}
}
