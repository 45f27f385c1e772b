package datasync

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/daemons/kit/kittest"
	"github.com/ringagent/ringagent/internal/gamedb"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// joinRig is a core node alone with n packs of one game each, of which the ledger has all.
type joinRig struct {
	*kittest.Ring
	n       *kittest.Node
	entered map[id.Digest]gamedb.Entered
	packs   []ring.Artifact
}

func newJoinRig(t *testing.T, n int) joinRig {
	r := joinRig{Ring: kittest.New(t, c4), entered: map[id.Digest]gamedb.Entered{}}
	r.Joins(true)
	r.n = r.AddNode("core", id.Core, ring.Slots{})
	for i := range n {
		a := r.AddArtifact(ring.KindPack, c4, fmt.Sprint("pack", i), map[string]int64{kit.CounterGames: 1}, nil, r.n)
		r.entered[a.Digest] = gamedb.Entered{Seq: a.Seq}
		r.packs = append(r.packs, a)
	}
	time.Sleep(time.Hour)
	return r
}

func (r joinRig) offer(j *joiner) {
	v := r.View("")
	j.offer(v, c4, v.Library.Artifacts(ring.KindPack, c4), r.entered)
}

// file puts a joined pack of the packs under way, as make does.
func (r joinRig) file(t *testing.T, j *joiner, env kit.Env, packs []ring.Artifact) joined {
	t.Helper()
	p := joined{Digest: id.DigestOf([]byte("joined")), Bytes: 6, Games: int64(len(packs)), Packs: digests(packs), Made: time.Now()}
	if err := j.keep(c4, p); err != nil {
		t.Fatal(err)
	}
	r.write(t, env, "joined")
	return p
}

func (r joinRig) write(t *testing.T, env kit.Env, content string) {
	t.Helper()
	path := filepath.Join(r.n.Dir(), "staging", "file")
	err := os.WriteFile(path, []byte(content), 0o600)
	if err == nil {
		_, _, err = env.Store.PutFile(t.Context(), path)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// refusing is a ring that joins no packs.
type refusing struct {
	kit.Effects
	asked int
}

func (e *refusing) JoinPacks(context.Context, id.Digest, int64, ...id.Digest) error {
	e.asked++
	return errors.New("artifact has not got the copies of a pack")
}

// Packs whose joined pack is refused again and again stay as they are for some hours, not until the agent ends: what it was refused
// for may have passed.
func TestRefusedPacksAreJoinedLater(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newJoinRig(t, 10)
		env := r.n.Env(AutoSync(), "")
		refusing := &refusing{Effects: env.Effects}
		env.Effects = refusing
		j := newJoiner(env, JoinSettings{After: kit.Duration(time.Minute), Packs: 8})
		r.file(t, j, env, r.packs)
		for range 2 * joinTries {
			_ = j.step(t.Context())
		}
		if _, under, _ := env.Local.Get(joinKey(c4)); under || refusing.asked != joinTries {
			t.Fatalf("asked %d times, under way: %v", refusing.asked, under)
		}
		offered := func() int {
			r.offer(j)
			return len(j.taken(c4))
		}
		time.Sleep(refusedRest - time.Second)
		if n := offered(); n != 0 {
			t.Errorf("%d packs are to be joined again already", n)
		}
		time.Sleep(time.Second)
		if n := offered(); n != 10 {
			t.Errorf("%d packs are to be joined again, want 10", n)
		}
	})
}

// awry is a store that can check nothing.
type awry struct {
	kit.Store
	asked []id.Digest
}

func (s *awry) Verify(_ context.Context, d id.Digest) error {
	s.asked = append(s.asked, d)
	return errors.New("input/output error")
}

// Packs that cannot be joined on this machine, whatever is wrong with them, leave the turn to others of their config.
func TestFailingPacksLetOthersGoFirst(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newJoinRig(t, mostJoined+20)
		env := r.n.Env(AutoSync(), "")
		store := &awry{Store: env.Store}
		env.Store = store
		j := newJoiner(env, JoinSettings{After: kit.Duration(time.Minute), Packs: 8})
		var first []id.Digest
		for range 3 {
			r.offer(j)
			store.asked = nil
			if err := j.step(t.Context()); err == nil || len(store.asked) != 1 {
				t.Fatalf("%v, %d looks", err, len(store.asked))
			}
			first = append(first, store.asked[0])
			time.Sleep(joinRetry)
		}
		want := []id.Digest{r.packs[0].Digest, r.packs[mostJoined].Digest, r.packs[0].Digest}
		if fmt.Sprint(first) != fmt.Sprint(want) {
			t.Errorf("tried first %v, want %v", first, want)
		}
	})
}

// A joined pack that is given up leaves no bytes behind that the ring does not know of, whether it was made known before or not.
func TestGivenUpJoinedPackLeavesNothing(t *testing.T) {
	t.Parallel()
	for name, known := range map[string]bool{"known": true, "unknown": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := newJoinRig(t, 10)
				env := r.n.Env(AutoSync(), "")
				store := &asking{Store: env.Store, answers: func([]id.Digest) error { return kit.ErrNoCoordinator }}
				env.Store = store
				j := newJoiner(env, JoinSettings{After: kit.Duration(time.Minute), Packs: 8})
				p := r.file(t, j, env, r.packs)
				if known {
					if err := j.announce(t.Context(), c4, p); err != nil {
						t.Fatal(err)
					}
				}
				p.Packs = append(p.Packs, id.DigestOf([]byte("gone"))) // somebody was faster
				if err := j.keep(c4, p); err != nil {
					t.Fatal(err)
				}
				if err := j.step(t.Context()); !errors.Is(err, kit.ErrNoCoordinator) || !r.n.Holds(p.Digest) {
					t.Fatalf("without a coordinator: %v, here: %v", err, r.n.Holds(p.Digest))
				}
				store.answers = nil
				if err := j.step(t.Context()); err != nil {
					t.Fatal(err)
				}
				_, under, _ := env.Local.Get(joinKey(c4))
				if _, listed := r.View("").Library.Artifact(p.Digest); listed || under || r.n.Holds(p.Digest) {
					t.Errorf("known: %v, under way: %v, here: %v", listed, under, r.n.Holds(p.Digest))
				}
			})
		})
	}
}

// A joined pack that may not go now is the ring's to delete later: the discarder finds it.
func TestJoinedPackThatMayNotGoIsLeftToTheDiscarder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newJoinRig(t, 10)
		env := r.n.Env(AutoSync(), "")
		env.Store = &asking{Store: env.Store, answers: func([]id.Digest) error { return errors.New("refused") }}
		j := newJoiner(env, JoinSettings{After: kit.Duration(time.Minute), Packs: 8})
		p := r.file(t, j, env, r.packs)
		p.Tries = joinTries
		if err := errors.Join(j.keep(c4, p), j.step(t.Context())); err != nil {
			t.Fatal(err)
		}
		d := newDiscarder(r.n.Env(AutoSync(), ""), func(id.Digest) bool { return false })
		for range 2 {
			if err := d.step(t.Context()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(neverJoined)
		}
		if r.n.Holds(p.Digest) {
			t.Error("it is here for good")
		}
	})
}

// forgetful is a node that can write nothing down.
type forgetful struct{ kit.Local }

func (forgetful) Put(string, []byte) error { return errors.New("disk full") }

// What cannot be written down is not stored: nobody would ever delete it.
func TestJoinedPackIsWrittenDownBeforeItIsStored(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newJoinRig(t, 0)
		env := r.n.Env(AutoSync(), "")
		group := realPacks(t, r.n, env, 8, -1)
		env.Local = forgetful{env.Local}
		j := newJoiner(env, JoinSettings{After: kit.Duration(time.Minute), Packs: 8})
		if _, err := j.make(t.Context(), c4, group); err == nil {
			t.Fatal("made")
		}
		entries, err := os.ReadDir(filepath.Join(r.n.Dir(), "blobs"))
		if err != nil || len(entries) != len(group) {
			t.Errorf("%d files of %d packs, %v", len(entries), len(group), err)
		}
	})
}

// realPacks are n packs of one game each, on one node; the one at newer has a schema that this build does not know.
func realPacks(t *testing.T, node *kittest.Node, env kit.Env, n, newer int) (out []ring.Artifact) {
	t.Helper()
	for i := range n {
		path := filepath.Join(t.TempDir(), "pack")
		game := fmt.Sprint("real-", i)
		node.WriteGames(path+".db", c4, game)
		if _, err := gamedb.Pack(t.Context(), path+".db", path, []string{game}); err != nil {
			t.Fatal(err)
		}
		if i == newer {
			makeNewer(t, path)
		}
		d, size, err := env.Store.PutFile(t.Context(), path)
		a := ring.Artifact{Digest: d, Kind: ring.KindPack, Config: c4, Bytes: size, Created: time.Now(), Origin: node.ID, Holders: []id.Node{node.ID},
			Counters: map[string]int64{kit.CounterGames: 1}}
		if err == nil {
			err = env.Effects.AddArtifacts(t.Context(), a)
		}
		if err != nil {
			t.Fatal(err)
		}
		v, err := env.View.Current(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		a, _ = v.Library.Artifact(d)
		out = append(out, a)
	}
	return out
}

func makeNewer(t *testing.T, path string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err == nil {
		_, err = db.ExecContext(t.Context(), "UPDATE schema_metadata SET value = '1000'")
		err = errors.Join(err, db.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := gamedb.Count(t.Context(), path); !errors.Is(err, gamedb.ErrNewerSchema) {
		t.Fatalf("count: %v", err)
	}
}

// A pack of a newer schema, which this build cannot read yet, stays as it is, with its copy; those before and after it are joined.
func TestPackOfANewerSchemaStaysAsItIs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newJoinRig(t, 0)
		env := r.n.Env(AutoSync(), "")
		packs := realPacks(t, r.n, env, 2*fewestFull+1, fewestFull)
		newer := packs[fewestFull]
		for _, a := range packs {
			r.entered[a.Digest] = gamedb.Entered{Seq: a.Seq}
		}
		time.Sleep(time.Hour)
		j := newJoiner(env, JoinSettings{After: kit.Duration(time.Minute), Packs: fewestFull})
		for range 4 {
			r.offer(j)
			if err := j.step(t.Context()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * time.Minute) // this ring's joined packs are as young as their files
		}
		var joined int
		for _, a := range r.Artifacts(ring.KindPack) {
			if a.Place == 0 && a.Digest != newer.Digest {
				t.Errorf("pack %s is not joined", a.Digest.Short())
			}
			if a.Place != 0 {
				joined += int(a.Games())
			}
		}
		if a, ok := r.View("").Library.Artifact(newer.Digest); !ok || a.Joined != "" || a.Games() != 1 || !r.n.Holds(newer.Digest) {
			t.Errorf("of the newer one: %+v", a)
		}
		if joined != 2*fewestFull || once(r.Ring) != 2*fewestFull+1 || len(r.n.Quarantine) != 0 {
			t.Errorf("%d games are joined, %d count, in quarantine: %v", joined, once(r.Ring), r.n.Quarantine)
		}
	})
}

// While a joined pack waits for work that reads its packs, its node keeps it, and no other core node makes one of its own; unless that
// node is gone, or has waited for long.
func TestWaitingJoinedPackIsTheOnlyOne(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newJoinRig(t, 10)
		other := r.AddNode("other", id.Core, ring.Slots{})
		env := r.n.Env(AutoSync(), "")
		set := JoinSettings{After: kit.Duration(time.Minute), Packs: 8}
		there := other.Env(AutoSync(), "")
		store := &awry{Store: there.Store}
		there.Store = store
		j, second := newJoiner(env, set), newJoiner(there, set)
		work := ring.WorkItem{Key: "k", Type: kit.StageExport, Config: c4, Inputs: []ring.Input{{Role: kit.RolePack, Digest: r.packs[0].Digest}}}
		if _, err := env.Effects.Enqueue(t.Context(), work); err != nil {
			t.Fatal(err)
		}
		r.file(t, j, env, r.packs)
		if err := j.step(t.Context()); err != nil {
			t.Fatal(err)
		}
		after := func(d time.Duration) (waits bool) {
			time.Sleep(d)
			store.asked = nil
			second.offers[c4] = r.packs
			_ = second.step(t.Context())
			return len(store.asked) == 0
		}
		if !after(joinWait - time.Second) {
			t.Error("another node begins as well")
		}
		if second.elsewhere(r.View(""), "hex8_2p") || j.elsewhere(r.View(""), c4) {
			t.Error("another config, or the node itself, waits for it")
		}
		r.SetStatus(r.n, ring.Failed)
		if after(0) {
			t.Error("a node that is gone is waited for")
		}
		r.SetStatus(r.n, ring.Alive)
		if !after(0) {
			t.Error("it is back, and not waited for")
		}
		if after(time.Second) {
			t.Error("it is waited for without an end")
		}
		p := id.DigestOf([]byte("joined"))
		d := newDiscarder(env, func(id.Digest) bool { return false })
		for _, waits := range []func(id.Digest) bool{j.waiting, func(id.Digest) bool { return false }} {
			if !r.n.Holds(p) {
				t.Fatal("it is gone while it waits")
			}
			d.waits = waits
			for range 2 {
				if err := d.step(t.Context()); err != nil {
					t.Fatal(err)
				}
				time.Sleep(neverJoined)
			}
		}
		if r.n.Holds(p) {
			t.Error("the broken variant keeps it too: the test proves nothing")
		}
	})
}
