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
			j.offer(v, c4, v.Library.Artifacts(ring.KindPack, c4), entered)
			if err := j.step(t.Context()); err != nil {
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
		if err := j.step(t.Context()); err != nil {
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

// However many packs contradict others, one look at all of them finds them.
func TestAllTwinsAreFoundAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newJoinRig(t, 0)
		env := r.n.Env(AutoSync(), "")
		first := realPacks(t, r.n, env, 8, -1)
		time.Sleep(time.Minute)
		twins := realPacks(t, r.n, env, 3, -1) // other times of completion make other contents
		j := newJoiner(env, JoinSettings{After: kit.Duration(time.Minute), Packs: 8})
		if p, err := j.make(t.Context(), c4, append(first, twins...)); err != nil || p.Digest != "" {
			t.Fatalf("%+v, %v", p, err)
		}
		for _, a := range twins {
			if !j.unfit[a.Digest] {
				t.Errorf("pack %s is not found", a.Digest.Short())
			}
		}
		if len(j.unfit) != len(twins) {
			t.Errorf("%d packs are left as they are, want %d", len(j.unfit), len(twins))
		}
	})
}
