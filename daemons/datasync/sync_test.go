package datasync

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/daemons/kit/kittest"
	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/gamedb"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

const c4 = id.Config("connect4_2p")

var errBlocked = errors.New("blocked on purpose")

// games are the ids in all packs that the ring knows, as node n has them on its disk.
func games(r *kittest.Ring, n *kittest.Node) []string {
	var out []string
	for _, a := range r.Artifacts(ring.KindPack) {
		if n.Holds(a.Digest) {
			out = append(out, r.Games(filepath.Join(n.Dir(), "blobs", string(a.Digest)))...)
		}
	}
	slices.Sort(out)
	return out
}

func counted(r *kittest.Ring) (n int64) {
	for _, a := range r.Artifacts(ring.KindPack) {
		n += a.Counters[kit.CounterGames]
	}
	return n
}

// All peers are blocked, five games are played, the daemon dies at each point of its way and starts again with open peers:
// every game is elsewhere, and none is in two packs.
func TestCrashNeitherLosesNorDoublesAGame(t *testing.T) {
	t.Parallel()
	for _, after := range []time.Duration{0, 10 * time.Millisecond, time.Second, 6 * time.Second, 20 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			r := kittest.New(t, c4)
			core, other, edge := r.AddNode("core", id.Core, ring.Slots{}), r.AddNode("other", id.Core, ring.Slots{}), r.AddNode("edge", id.Edge, ring.Slots{})
			var open atomic.Bool
			fault := func(context.Context, id.Digest) error {
				if !open.Load() {
					return errBlocked
				}
				return nil
			}
			core.FetchFault, other.FetchFault = fault, fault
			db := edge.Play("job", c4, false, kittest.IDs("g", 5)...)
			stop := edge.Start(EphemeralSync(), "")
			time.Sleep(after)
			if err := stop(); err != nil {
				t.Error(err)
			}
			if len(r.Log(event.NewGamesAvailable.Type())) > 0 {
				t.Error("games without receipts were counted")
			}
			open.Store(true)
			edge.WriteGames(db.Path, c4, "late-1", "late-2") // played while the daemon was down
			edge.Start(EphemeralSync(), "")
			r.Eventually(2*time.Minute, "all games are elsewhere", func() bool { return len(games(r, core)) == 7 && len(games(r, other)) == 7 })
			r.Eventually(time.Minute, "nothing unsynced", func() bool { v, ok := edge.Gauge("unsynced_games"); return ok && v == 0 })
			if all := games(r, core); len(slices.Compact(all)) != 7 || counted(r) != 7 {
				t.Errorf("after a crash at %v: %v, %d counted", after, all, counted(r))
			}
			if len(edge.Gone()) != 0 {
				t.Error("a running job was released")
			}
		})
	}
}

// A job's folder goes only when every game of it is safe, and a target that never answers is replaced by another.
func TestJobStaysUntilItsGamesAreSafe(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := kittest.New(t, c4)
		deaf := r.AddNode("deaf", id.Core, ring.Slots{})
		deaf.FetchFault = func(context.Context, id.Digest) error { return errBlocked }
		edge := r.AddNode("edge", id.Edge, ring.Slots{})
		edge.Play("job", c4, true, kittest.IDs("g", 3)...)
		edge.Start(EphemeralSync(), "")
		time.Sleep(2 * time.Minute)
		if v, _ := edge.Gauge("unsynced_games"); v != 3 || len(edge.Gone()) != 0 {
			t.Fatalf("unsynced %v, released %v", v, edge.Gone())
		}
		if len(r.Log(event.DataSyncFailed.Type())) == 0 {
			t.Error("nobody was told")
		}
		r.AddNode("second", id.Core, ring.Slots{})
		r.AddNode("third", id.Core, ring.Slots{})
		r.Eventually(5*time.Minute, "released", func() bool { return slices.Equal(edge.Gone(), []string{"job"}) })
	})
}

// A ring smaller than the copies counts what there is and says so; one that could have them and cannot now waits.
func TestSmallRings(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name      string
		safe      bool
		short     float64
		spec      kit.Spec
		build     func(*kittest.Ring) *kittest.Node
		unhealthy bool
	}{
		{name: "one core node alone", safe: true, short: 1, spec: AutoSync(), build: func(r *kittest.Ring) *kittest.Node { return r.AddNode("a", id.Core, ring.Slots{}) }},
		{name: "core and edge", safe: true, short: 1, spec: EphemeralSync(), build: func(r *kittest.Ring) *kittest.Node {
			r.AddNode("a", id.Core, ring.Slots{})
			return r.AddNode("b", id.Edge, ring.Slots{})
		}},
		{name: "second core is down", safe: false, spec: AutoSync(), build: func(r *kittest.Ring) *kittest.Node {
			n := r.AddNode("a", id.Core, ring.Slots{})
			r.SetStatus(r.AddNode("b", id.Core, ring.Slots{}), ring.Failed)
			return n
		}},
		{name: "only edge nodes", safe: false, short: 1, spec: EphemeralSync(), build: func(r *kittest.Ring) *kittest.Node {
			r.AddNode("a", id.Edge, ring.Slots{})
			return r.AddNode("b", id.Edge, ring.Slots{})
		}},
	} {
		synctest.Test(t, func(t *testing.T) {
			r := kittest.New(t, c4)
			n := c.build(r)
			n.Play("job", c4, true, kittest.IDs("g", 4)...)
			n.Start(c.spec, "")
			time.Sleep(time.Minute)
			short, _ := n.Gauge("copies_short")
			left, _ := n.Gauge("unsynced_games")
			if safe := len(r.Log(event.DataSyncCompleted.Type())) == 1; safe != c.safe || short != c.short && !safe || (left == 0) != c.safe {
				t.Errorf("%s: safe %v, short %v, unsynced %v", c.name, safe, short, left)
			}
		})
	}
}

// Core nodes end with the same games from all packs, also one that was away; a damaged copy is put aside and fetched again.
func TestMergedDatabases(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := kittest.New(t, c4)
		a, b := r.AddNode("a", id.Core, ring.Slots{}), r.AddNode("b", id.Core, ring.Slots{})
		edge := r.AddNode("edge", id.Edge, ring.Slots{})
		a.Start(AutoSync(), `{"every":"10s"}`)
		edge.Play("job", c4, true, kittest.IDs("g", 12)...)
		edge.Start(EphemeralSync(), "")
		merged := func(n *kittest.Node) int {
			return len(r.Games(filepath.Join(n.Dir(), "games", string(c4)+".db")))
		}
		r.Eventually(10*time.Second, "merged on a", func() bool { return merged(a) == 12 && len(r.Log(event.DataSyncCompleted.Type())) == 1 })
		b.Damage(r.Artifacts(ring.KindPack)[0].Digest)
		stop := b.Start(AutoSync(), `{"every":"10s"}`)
		r.Eventually(30*time.Second, "merged on b from a good copy", func() bool { return merged(b) == 12 && b.Holds(r.Artifacts(ring.KindPack)[0].Digest) })
		if len(b.Quarantine) != 1 || len(r.Log(event.DataSyncFailed.Type())) != 1 {
			t.Errorf("quarantined %v, told %d", b.Quarantine, len(r.Log(event.DataSyncFailed.Type())))
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
		edge.Play("late", c4, true, "new")
		b.Start(AutoSync(), `{"every":"10s"}`)
		r.Eventually(time.Minute, "the new game is merged", func() bool { return merged(a) == 13 && merged(b) == 13 })
	})
}

// A merged database that is gone or damaged is made again of all packs, not only of the new ones; a damaged one is kept aside.
func TestMergedDatabaseIsMadeAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := kittest.New(t, c4)
		core, edge := r.AddNode("core", id.Core, ring.Slots{}), r.AddNode("edge", id.Edge, ring.Slots{})
		path := filepath.Join(core.Dir(), "games", string(c4)+".db")
		core.Start(AutoSync(), `{"every":"10s"}`)
		edge.Start(EphemeralSync(), "")
		merged := func() []string {
			if _, err := os.Stat(path); err != nil {
				return nil
			}
			return r.Games(path)
		}
		edge.Play("one", c4, true, kittest.IDs("a", 12)...)
		r.Eventually(time.Minute, "merged", func() bool { return len(merged()) == 12 })
		time.Sleep(time.Minute)
		if err := gamedb.Remove(path); err != nil {
			t.Fatal(err)
		}
		r.Eventually(time.Minute, "merged again", func() bool { return len(merged()) == 12 })
		time.Sleep(time.Minute)
		if err := errors.Join(gamedb.Remove(path), os.WriteFile(path, slices.Repeat([]byte("damaged "), 9999), 0o600)); err != nil {
			t.Fatal(err)
		}
		edge.Play("two", c4, true, kittest.IDs("b", 3)...)
		r.Eventually(time.Minute, "told", func() bool {
			var reason string
			core.Set(func(n *kittest.Node) { reason = n.Quarantine[path] })
			return reason != ""
		})
		r.Eventually(time.Minute, "merged once more", func() bool { return len(merged()) == 15 })
	})
}

// playedPacks are n packs of one game each that nobody but the node which played them has yet, and that no command has named.
func playedPacks(t *testing.T, edge *kittest.Node, env kit.Env, n int) (packs []ring.Artifact) {
	t.Helper()
	for i := range n {
		db := edge.Play(fmt.Sprint("job-", i), c4, true, fmt.Sprint("g-", i))
		d, bytes, err := env.Store.PutFile(t.Context(), db.Path)
		if err != nil {
			t.Fatal(err)
		}
		packs = append(packs, ring.Artifact{Digest: d, Kind: ring.KindPack, Config: c4, Bytes: bytes, Origin: edge.ID,
			Holders: []id.Node{edge.ID}, Counters: map[string]int64{kit.CounterGames: 1}})
	}
	edge.SetJobs()
	return packs
}

// Packs that one command announces have the same place in the order of arrival: all of them are merged, also where they lie
// across the end of a step.
func TestPacksAnnouncedTogetherAreAllMerged(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := kittest.New(t, c4)
		a, edge := r.AddNode("a", id.Core, ring.Slots{}), r.AddNode("edge", id.Edge, ring.Slots{})
		s := EphemeralSync()
		env := edge.Env(s, "")
		together := playedPacks(t, edge, env, perStep+10)
		for _, part := range [][]ring.Artifact{together[:5], together[5:8], together[8:]} {
			if err := env.Effects.AddArtifacts(t.Context(), part...); err != nil {
				t.Fatal(err)
			}
		}
		a.Start(AutoSync(), `{"every":"10s"}`)
		r.Eventually(time.Minute, "every game is merged", func() bool {
			return len(r.Games(filepath.Join(a.Dir(), "games", string(c4)+".db"))) == len(together)
		})
	})
}

// After a recovery that went on without what a core node had seen, the numbers of new packs begin behind its cursor. They are merged
// all the same.
func TestPacksAfterARecoveryAreMerged(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := kittest.New(t, c4)
		a, edge := r.AddNode("a", id.Core, ring.Slots{}), r.AddNode("edge", id.Edge, ring.Slots{})
		env := edge.Env(EphemeralSync(), "")
		packs := playedPacks(t, edge, env, 12)
		at := r.View("").Index
		announce := func(list []ring.Artifact) {
			for _, p := range list {
				if err := env.Effects.AddArtifacts(t.Context(), p); err != nil {
					t.Fatal(err)
				}
			}
		}
		merged := func() int {
			path := filepath.Join(a.Dir(), "games", string(c4)+".db")
			if _, err := os.Stat(path); err != nil {
				return 0
			}
			return len(r.Games(path))
		}
		announce(packs[:10])
		a.Start(AutoSync(), `{"every":"10s"}`)
		r.Eventually(time.Minute, "all are merged", func() bool { return merged() == 10 })
		r.Recover(at)
		announce(packs[10:])
		r.Eventually(time.Minute, "those of the new generation are merged, too", func() bool { return merged() == 12 })
	})
}

// Packs whose only holder is gone for good do not keep the others from being merged, however many they are; one that comes
// back is merged yet.
func TestLostPacksHoldNobodyUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := kittest.New(t, c4)
		a, edge := r.AddNode("a", id.Core, ring.Slots{}), r.AddNode("edge", id.Edge, ring.Slots{})
		env := edge.Env(EphemeralSync(), "")
		packs := playedPacks(t, edge, env, perStep+20)
		lost := packs[:perStep+10]
		fault := func(_ context.Context, d id.Digest) error {
			if slices.ContainsFunc(lost, func(p ring.Artifact) bool { return p.Digest == d }) {
				return errors.New("deliberate: nobody has it")
			}
			return nil
		}
		a.Set(func(n *kittest.Node) { n.FetchFault = fault })
		for _, p := range packs {
			if err := env.Effects.AddArtifacts(t.Context(), p); err != nil {
				t.Fatal(err)
			}
		}
		a.Start(AutoSync(), `{"every":"10s"}`)
		merged := func() int { return len(r.Games(filepath.Join(a.Dir(), "games", string(c4)+".db"))) }
		r.Eventually(2*time.Minute, "what can be had is merged", func() bool { return merged() == 10 })
		a.Set(func(n *kittest.Node) { n.FetchFault = nil })
		r.Eventually(10*time.Minute, "what came back is merged", func() bool { return merged() == len(packs) })
	})
}

func TestBooksAreReadAsTheyWereWritten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := kittest.New(t, c4).AddNode("a", id.Edge, ring.Slots{})
		local := n.Env(EphemeralSync(), "").Local
		b, err := openBooks(local)
		if err != nil {
			t.Fatal(err)
		}
		p := packed{Digest: id.DigestOf([]byte("x")), Config: c4, Games: map[string][]string{"j": {"1"}, "k": {"2"}}}
		if err := b.add(p); err != nil {
			t.Fatal(err)
		}
		if b, _ = openBooks(local); len(b.pending()) != 1 {
			t.Error("a pending pack was forgotten")
		}
		if err := b.forget("j"); err != nil || len(b.pending()) != 1 {
			t.Errorf("another job's games were forgotten: %v", err)
		}
	})
}

// Games whose ids are no text are the same games for the daemon that starts again, and each counts.
func TestOddIdsSurviveAStart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := kittest.New(t, c4)
		core, edge := r.AddNode("core", id.Core, ring.Slots{}), r.AddNode("edge", id.Edge, ring.Slots{})
		core.FetchFault = func(context.Context, id.Digest) error { return errBlocked }
		ids := []string{"g-\xff", "g-\xfe", "g-\ufffd", "g ü'\"\n"}
		edge.Play("job", c4, false, ids...)
		stop := edge.Start(EphemeralSync(), "")
		time.Sleep(20 * time.Second)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		core.Set(func(n *kittest.Node) { n.FetchFault = nil })
		edge.Start(EphemeralSync(), "")
		r.Eventually(time.Minute, "nothing unsynced", func() bool { v, ok := edge.Gauge("unsynced_games"); return ok && v == 0 })
		time.Sleep(time.Minute)
		slices.Sort(ids)
		if got := games(r, core); !slices.Equal(got, ids) || counted(r) != 4 {
			t.Errorf("%q are elsewhere, %d counted", got, counted(r))
		}
	})
}

// Two promotions in quick order, one node away: every node ends on the newer version, and the older is fetched no more.
func TestNodesEndOnTheNewestVersion(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := kittest.New(t, c4)
		a, b := r.AddNode("a", id.Core, ring.Slots{}), r.AddNode("b", id.Edge, ring.Slots{})
		one, two := r.AddArtifact(ring.KindModel, c4, "one", nil, nil, a), r.AddArtifact(ring.KindModel, c4, "two", nil, nil, a)
		set := a.Env(kit.Spec{Name: "AUTO_PROMOTION", Scope: kit.ScopeCluster}, "").Effects
		b.FetchFault = func(ctx context.Context, d id.Digest) error {
			if d == one.Digest {
				<-ctx.Done() // slow until nobody wants it
				return ctx.Err()
			}
			return nil
		}
		a.Start(ModelDistribution(), `{"every":"2s"}`)
		for v, m := range []ring.Artifact{one, two} {
			if _, err := set.SetName(t.Context(), ring.ModelName(c4), uint64(v), m.Digest, nil); err != nil {
				t.Fatal(err)
			}
			time.Sleep(5 * time.Second)
		}
		r.Eventually(10*time.Second, "newest everywhere", func() bool { return b.Holds(two.Digest) && len(r.Log(event.ModelDistributionComplete.Type())) == 1 })
		if b.Holds(one.Digest) {
			t.Error("the older version was fetched")
		}
	})
}
