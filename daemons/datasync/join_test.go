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

const joinSoon = `{"every":"5s","join_after":"1m","join_packs":8}`

// play has node hand in n packs of three games, the first of which is in the pack before as well.
func play(node *kittest.Node, name string, n int) (games []string) {
	for i := range n {
		ids := kittest.IDs(fmt.Sprintf("%s-%d", name, i), 3)
		node.Play(fmt.Sprintf("job-%s-%d", name, i), c4, true, ids...)
		games = append(games, ids...)
		time.Sleep(3 * time.Second)
	}
	return games
}

// notGone is how many packs that have been joined the ring still knows.
func notGone(r *kittest.Ring) (n int) {
	for _, a := range r.Artifacts(ring.ListJoined) {
		if a.Joined != "" {
			n++
		}
	}
	return n
}

// Old packs become one, the count never changes by it, and their copies go everywhere; the merged databases of all core nodes, that
// of a late one too, have every game.
func TestOldPacksAreJoined(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := kittest.New(t, c4)
		r.Joins(true)
		cores := []*kittest.Node{r.AddNode("one", id.Core, ring.Slots{}), r.AddNode("two", id.Core, ring.Slots{})}
		edge := r.AddNode("edge", id.Edge, ring.Slots{})
		for _, n := range cores {
			n.Start(AutoSync(), joinSoon)
		}
		edge.Start(EphemeralSync(), "")
		want := play(edge, "g", 20)
		r.Eventually(time.Minute, "all is safe", func() bool { return safe(r) == 60 })
		packs := len(r.Artifacts(ring.KindPack))
		r.Eventually(10*time.Minute, "packs are joined", func() bool {
			if n := once(r); n != 60 {
				t.Fatalf("%d games are counted", n)
			}
			return len(r.Artifacts(ring.KindPack)) <= packs-7
		})
		r.Eventually(10*time.Minute, "the old ones are gone", func() bool { return notGone(r) == 0 })
		late := r.AddNode("late", id.Core, ring.Slots{})
		late.Start(AutoSync(), joinSoon)
		for _, n := range append(cores, late) {
			r.Eventually(5*time.Minute, n.Name+" has all games", func() bool {
				return len(r.Games(filepath.Join(n.Dir(), "games", string(c4)+".db"))) == len(want)
			})
		}
		if got := games(r, cores[0]); !slices.Equal(got, slices.Sorted(slices.Values(want))) {
			t.Errorf("%v are in packs", got)
		}
		entries, err := os.ReadDir(filepath.Join(edge.Dir(), "blobs"))
		if err != nil || len(entries) > len(r.Artifacts("")) {
			t.Errorf("%d files on the edge node, %d artifacts: %v", len(entries), len(r.Artifacts("")), err)
		}
		if once(r) != 60 || len(r.Refused()) > 0 {
			t.Errorf("%d games, refused %v", once(r), r.Refused())
		}
	})
}

// Games that are in several packs count once before and after a join, whichever of the packs are joined, also where the ledger is
// made anew afterwards.
func TestJoinedGamesCountOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := kittest.New(t, c4)
		r.Joins(true)
		one, two := r.AddNode("one", id.Core, ring.Slots{}), r.AddNode("two", id.Core, ring.Slots{})
		edges := []*kittest.Node{r.AddNode("a", id.Edge, ring.Slots{}), r.AddNode("b", id.Edge, ring.Slots{})}
		stop := one.Start(AutoSync(), joinSoon)
		two.Start(AutoSync(), joinSoon)
		for _, e := range edges {
			e.Start(EphemeralSync(), "")
		}
		for i := range 12 { // three games of each of the one's packs are in one of the other's, too
			for k, e := range edges {
				db := kit.JobDB{JobID: fmt.Sprint("job-", i), Path: filepath.Join(e.Dir(), "staging", fmt.Sprint(i, ".db")), Config: c4, Done: true}
				edges[0].WriteGames(db.Path, c4, kittest.IDs(fmt.Sprint("g-", i), 3)...) // by whom is part of a game
				e.WriteGames(db.Path, c4, fmt.Sprint("own-", k, "-", i))
				e.AddJob(db)
			}
			time.Sleep(3 * time.Second)
		}
		distinct := func() int {
			all := map[string]bool{}
			for _, g := range games(r, one) {
				all[g] = true
			}
			return len(all)
		}
		r.Eventually(2*time.Minute, "all is safe", func() bool { return distinct() == 60 })
		r.Eventually(2*time.Minute, "each counts once", func() bool { return once(r) == 60 })
		r.Eventually(20*time.Minute, "packs are joined and gone", func() bool {
			return slices.ContainsFunc(r.Artifacts(ring.KindPack), func(a ring.Artifact) bool { return a.Place != 0 }) && notGone(r) == 0
		})
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if err := gamedb.Remove(filepath.Join(one.Dir(), "games", string(c4)+".ledger")); err != nil {
			t.Fatal(err)
		}
		one.Start(AutoSync(), joinSoon)
		for range 20 {
			time.Sleep(30 * time.Second)
			if n := once(r); n != 60 {
				t.Fatalf("%d games", n)
			}
		}
		if n := distinct(); n != 60 {
			t.Errorf("%d games are in packs", n)
		}
	})
}

// A pack whose second game has the id of another pack's game, and other contents, stays as it is: joined, one of the two would be lost.
func TestPacksThatContradictEachOtherAreNotJoined(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := kittest.New(t, c4)
		r.Joins(true)
		one, two := r.AddNode("one", id.Core, ring.Slots{}), r.AddNode("two", id.Core, ring.Slots{})
		edge := r.AddNode("edge", id.Edge, ring.Slots{})
		one.Start(AutoSync(), joinSoon)
		two.Start(AutoSync(), joinSoon)
		edge.Start(EphemeralSync(), "")
		play(edge, "g", 10)
		edge.Play("twin", c4, true, "g-3-0", "new") // other times of completion make other contents
		time.Sleep(3 * time.Second)
		play(edge, "h", 10)
		r.Eventually(20*time.Minute, "packs are joined", func() bool {
			return slices.ContainsFunc(r.Artifacts(ring.KindPack), func(a ring.Artifact) bool { return a.Place != 0 }) && notGone(r) == 0
		})
		time.Sleep(10 * time.Minute)
		all := games(r, one)
		if n := len(all); n != 62 || n-len(slices.Compact(all)) != 1 {
			t.Errorf("%d games are left", n)
		}
		if n := once(r); n != 61 {
			t.Errorf("%d games count", n)
		}
	})
}

// A core node that dies at any moment, and the other one whose turn comes then, join every pack once.
func TestJoinerDies(t *testing.T) {
	t.Parallel()
	for _, after := range []time.Duration{90 * time.Second, 125 * time.Second, 130 * time.Second, 131 * time.Second, 136 * time.Second, 200 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			r := kittest.New(t, c4)
			r.Joins(true)
			cores := []*kittest.Node{r.AddNode("one", id.Core, ring.Slots{}), r.AddNode("two", id.Core, ring.Slots{}), r.AddNode("three", id.Core, ring.Slots{})}
			edge := r.AddNode("edge", id.Edge, ring.Slots{})
			var stops []func() error
			for _, n := range cores {
				stops = append(stops, n.Start(AutoSync(), joinSoon))
			}
			edge.Start(EphemeralSync(), "")
			begin := time.Now()
			play(edge, "g", 20)
			time.Sleep(max(0, after-time.Since(begin)))
			for i, stop := range stops {
				if err := stop(); err != nil {
					t.Error(err)
				}
				r.SetStatus(cores[i], ring.Failed)
				time.Sleep(20 * time.Second)
				r.SetStatus(cores[i], ring.Alive)
				cores[i].Start(AutoSync(), joinSoon)
			}
			r.Eventually(3*time.Hour, "packs are joined and gone", func() bool {
				return len(r.Artifacts(ring.KindPack)) < 12 && notGone(r) == 0
			})
			time.Sleep(3 * time.Hour)
			if n := once(r); n != 60 {
				t.Errorf("after %v: %d games count", after, n)
			}
			for _, n := range cores {
				if all := games(r, n); len(all) != 60 || len(slices.Compact(all)) != 60 {
					t.Errorf("after %v: %s has %d games", after, n.Name, len(all))
				}
			}
		})
	}
}

// Copies that the joiner's disk has spoilt cost one look at the packs, not one each, and come back.
func TestDamagedPacksDoNotHoldTheMergerUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := kittest.New(t, c4)
		r.Joins(true)
		one, two := r.AddNode("one", id.Core, ring.Slots{}), r.AddNode("two", id.Core, ring.Slots{})
		edge := r.AddNode("edge", id.Edge, ring.Slots{})
		for _, n := range []*kittest.Node{one, two} {
			n.Start(AutoSync(), `{"every":"5s","join_after":"0s"}`)
		}
		edge.Start(EphemeralSync(), "")
		play(edge, "g", 20)
		r.Eventually(time.Minute, "all is safe and here", func() bool { return safe(r) == 60 && len(games(r, one)) == 60 })
		group := r.Artifacts(ring.KindPack)
		for _, a := range group[:5] {
			one.Damage(a.Digest)
		}
		j := newJoiner(one.Env(AutoSync(), ""), JoinSettings{After: kit.Duration(time.Second), Packs: 8})
		if p, err := j.make(t.Context(), c4, group); err != nil || p.Digest != "" {
			t.Fatalf("%+v, %v", p, err)
		}
		for _, a := range group[:5] {
			if _, here := j.store.Path(a.Digest); here {
				t.Error("a damaged copy is still in use")
			}
		}
	})
}

// sick is a store on a disk that does not answer.
type sick struct {
	kit.Store
	asked int
}

func (s *sick) Verify(context.Context, id.Digest) error {
	s.asked++
	return errors.New("input/output error")
}

// A machine that cannot join packs now does not try it all the time.
func TestJoiningIsNotTriedAllTheTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := kittest.New(t, c4)
		r.Joins(true)
		n := r.AddNode("core", id.Core, ring.Slots{})
		entered := map[id.Digest]gamedb.Entered{}
		for i := range 10 {
			a := r.AddArtifact(ring.KindPack, c4, fmt.Sprint("pack", i), map[string]int64{kit.CounterGames: 1}, nil, n)
			entered[a.Digest] = gamedb.Entered{Seq: a.Seq}
		}
		time.Sleep(time.Hour)
		env := n.Env(AutoSync(), "")
		store := &sick{Store: env.Store}
		env.Store = store
		j := newJoiner(env, JoinSettings{After: kit.Duration(time.Minute), Packs: 8})
		failed := 0
		for range 60 {
			v := r.View("")
			if err := j.step(t.Context(), v, c4, v.Library.Artifacts(ring.KindPack, c4), entered); err != nil {
				failed++
			}
			time.Sleep(time.Minute)
		}
		if failed != 6 || store.asked != failed {
			t.Errorf("%d steps failed, %d looks at packs", failed, store.asked)
		}
	})
}

// A joined pack whose bytes another pack has already, as where that has the games of all the others, is given up; that pack stays.
func TestJoinedPackThatIsThereAlready(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := kittest.New(t, c4)
		n := r.AddNode("core", id.Core, ring.Slots{})
		env := n.Env(AutoSync(), "")
		store := &asking{Store: env.Store}
		env.Store = store
		one := r.AddArtifact(ring.KindPack, c4, "one", map[string]int64{kit.CounterGames: 1}, nil, n)
		two := r.AddArtifact(ring.KindPack, c4, "two", map[string]int64{kit.CounterGames: 1}, nil, n)
		j := newJoiner(env, JoinSettings{After: kit.Duration(time.Minute), Packs: 8})
		p := joined{Digest: two.Digest, Bytes: two.Bytes, Games: 1, Packs: []id.Digest{one.Digest, two.Digest}}
		if err := j.keep(c4, p); err != nil {
			t.Fatal(err)
		}
		if err := j.step(t.Context(), r.View(""), c4, r.Artifacts(ring.KindPack), nil); err != nil {
			t.Fatal(err)
		}
		if store.asked != 0 || !j.unfit[one.Digest] || !j.unfit[two.Digest] {
			t.Errorf("asked for %d permits, left alone: %v", store.asked, j.unfit)
		}
		if _, under, _ := env.Local.Get(joinKey(c4)); under {
			t.Error("it is under way still")
		}
	})
}

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

// Joined packs of several configs are on their way at the same time: none ends the transfer of another.
func TestConfigsAreJoinedSideBySide(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const hex = id.Config("hex8_2p")
		r := kittest.New(t, c4, hex)
		r.Joins(true)
		one, two := r.AddNode("one", id.Core, ring.Slots{}), r.AddNode("two", id.Core, ring.Slots{})
		edge := r.AddNode("edge", id.Edge, ring.Slots{})
		for _, n := range []*kittest.Node{one, two} {
			n.Set(func(n *kittest.Node) {
				n.FetchFault = func(ctx context.Context, d id.Digest) error {
					if a, _ := r.View("").Library.Artifact(d); a.Kind == ring.KindFile {
						return pauseFor(ctx, 90*time.Second)
					}
					return nil
				}
			})
			n.Start(AutoSync(), joinSoon)
		}
		edge.Start(EphemeralSync(), "")
		for i := range 12 {
			for _, c := range []id.Config{c4, hex} {
				edge.Play(fmt.Sprint("job-", c, i), c, true, fmt.Sprint(c, "-", i))
			}
			time.Sleep(3 * time.Second)
		}
		r.Eventually(time.Hour, "packs of both are joined", func() bool {
			joined := map[id.Config]bool{}
			for _, a := range r.Artifacts(ring.KindPack) {
				joined[a.Config] = joined[a.Config] || a.Place != 0
			}
			return joined[c4] && joined[hex]
		})
	})
}

func pauseFor(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
