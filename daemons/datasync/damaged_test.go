package datasync

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
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

// playBulky writes games that fill pages of their own, and spoils a page of the named one.
func playBulky(t *testing.T, n *kittest.Node, job, spoilt string, ids ...string) kit.JobDB {
	t.Helper()
	db := kit.JobDB{JobID: job, WorkID: job, Path: filepath.Join(n.Dir(), "staging", job+".db"), Config: c4, Done: true}
	w, err := gamedb.Create(t.Context(), db.Path)
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range ids {
		game := gamedb.Game{ID: g, Board: c4.Board(), Players: c4.Players(), CreatedAt: time.Now(), CompletedAt: time.Now(), Winner: 1}
		for m := range 7 {
			game.Moves = append(game.Moves, gamedb.Move{Number: m, Player: 1 + m%2, Type: "drop",
				JSON: json.RawMessage(fmt.Sprintf(`{"of":"%s","fill":"%s"}`, g, strings.Repeat("x", 3000)))})
		}
		if err := w.Add(t.Context(), game); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(db.Path)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(b, []byte(`"of":"`+spoilt))
	if at < 0 {
		t.Fatal("the game is not in the file")
	}
	copy(b[at/4096*4096:], bytes.Repeat([]byte{0xff}, 64))
	if err := os.WriteFile(db.Path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	n.AddJob(db)
	return db
}

// runSync runs EPHEMERAL_SYNC on n; count asks it for the unsynced games, an error is unknown.
func runSync(t *testing.T, n *kittest.Node) (count func() (int64, error)) {
	t.Helper()
	s := EphemeralSync()
	d, err := s.New(n.Env(s, ""))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return func() (int64, error) {
		sums, err := d.(kit.Counter).Unsynced(t.Context())
		all := int64(0)
		for v := range maps.Values(sums) {
			all += v
		}
		return all, err
	}
}

// A damaged page in one job's database holds back neither the games of other jobs nor the job's own other games. What lies in
// it is put aside for people, told to the ring, and counts as unsynced until they have taken it.
func TestDamagedDatabaseHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := kittest.New(t, c4)
		core := r.AddNode("a", id.Core, ring.Slots{})
		edge := r.AddNode("edge", id.Edge, ring.Slots{})
		count := runSync(t, edge)
		bad := playBulky(t, edge, "bad", "b-5", kittest.IDs("b", 8)...)
		edge.Play("good", c4, true, kittest.IDs("g", 4)...)
		r.Eventually(20*time.Second, "the good games are elsewhere", func() bool {
			got := games(r, core)
			return len(got) >= 4+5 && slices.Contains(got, "g-0") && slices.Contains(got, "b-0")
		})
		lost := int64(4 + 8 - len(games(r, core)))
		if lost < 1 {
			t.Fatal("nothing was damaged")
		}
		if n, err := count(); err != nil || n < lost {
			t.Errorf("unsynced %d %v before it is given up, want at least %d", n, err, lost)
		}
		r.Eventually(3*time.Minute, "both jobs are released", func() bool { return len(edge.Gone()) == 2 })
		if n, err := count(); err != nil || n != lost {
			t.Errorf("unsynced %d %v, want %d: they are nowhere else", n, err, lost)
		}
		if v, _ := edge.Gauge("unsynced_games"); int64(v) != lost {
			t.Errorf("shown %v, want %d", v, lost)
		}
		if len(edge.Quarantine) != 1 || len(r.Log(event.DataSyncFailed.Type())) != 1 {
			t.Errorf("put aside %v, told %d", edge.Quarantine, len(r.Log(event.DataSyncFailed.Type())))
		}
		if counted(r) != int64(len(games(r, core))) {
			t.Errorf("%d counted, %v there", counted(r), games(r, core))
		}
		for _, path := range []string{bad.Path, filepath.Join(edge.Dir(), "quarantine", "bad.db")} {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}
		r.Eventually(time.Minute, "tended", func() bool { n, err := count(); return err == nil && n == 0 })
	})
}

// A database that says nothing at all is put aside, too, and from then on nobody knows how many games are unsynced, also after
// the next start.
func TestUnreadableDatabaseCountsAsUnknown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := kittest.New(t, c4)
		r.AddNode("a", id.Core, ring.Slots{})
		edge := r.AddNode("edge", id.Edge, ring.Slots{})
		db := kit.JobDB{JobID: "job", Path: filepath.Join(edge.Dir(), "staging", "job.db"), Config: c4, Done: true}
		if err := os.WriteFile(db.Path, bytes.Repeat([]byte("not a database. "), 1000), 0o600); err != nil {
			t.Fatal(err)
		}
		edge.AddJob(db)
		count := runSync(t, edge)
		r.Eventually(5*time.Minute, "released", func() bool { return len(edge.Gone()) == 1 })
		for _, count := range []func() (int64, error){count, runSync(t, edge)} {
			time.Sleep(time.Minute)
			if n, err := count(); err == nil {
				t.Errorf("%d games are unsynced, it says", n)
			}
		}
		if v, ok := edge.Gauge("unsynced_games"); ok {
			t.Errorf("shown %v", v)
		}
	})
}

// What is wrong with this machine puts no games aside, however long it lasts; the ring is told once.
func TestMachineTroublePutsNoGamesAside(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for _, trouble := range []error{syscall.EMFILE, syscall.EIO, syscall.ENOMEM, gamedb.ErrNewerSchema, errors.New("who knows")} {
			r := kittest.New(t, c4)
			edge := r.AddNode("edge", id.Edge, ring.Slots{})
			s := EphemeralSync()
			g, err := newGatherer(edge.Env(s, ""), s.Settings.(GatherSettings))
			if err != nil {
				t.Fatal(err)
			}
			db := edge.Play("job", c4, true, "g")
			for range 3 * patience {
				g.unreadable(t.Context(), fresh{db: db, err: fmt.Errorf("open: %w", trouble)})
			}
			if len(edge.Quarantine) != 0 || len(edge.Gone()) != 0 || len(r.Log(event.DataSyncFailed.Type())) != 1 {
				t.Errorf("%v: put aside %v, released %v, told %d", trouble, edge.Quarantine, edge.Gone(), len(r.Log(event.DataSyncFailed.Type())))
			}
		}
	})
}

// keeping counts what is put aside, and cannot write down that it was while its disk is full.
type keeping struct {
	kit.Store
	kit.Local
	full bool
	kept int
}

func (k *keeping) Aside(ctx context.Context, path, reason string) (string, error) {
	k.kept++
	return k.Store.Aside(ctx, path, reason)
}

func (k *keeping) Put(key string, value []byte) error {
	if k.full {
		return syscall.ENOSPC
	}
	return k.Local.Put(key, value)
}

// A database is put aside once, also where the books have no room for it at first: a full disk is not filled with copies of it.
func TestDatabaseIsPutAsideOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		edge := kittest.New(t, c4).AddNode("edge", id.Edge, ring.Slots{})
		s := EphemeralSync()
		env := edge.Env(s, "")
		k := &keeping{Store: env.Store, Local: env.Local, full: true}
		env.Store, env.Local = k, k
		g, err := newGatherer(env, s.Settings.(GatherSettings))
		if err != nil {
			t.Fatal(err)
		}
		damaged := fresh{db: edge.Play("job", c4, true, "g"), err: fmt.Errorf("read: %w", gamedb.ErrUnsafe)}
		for range 2 * patience {
			g.unreadable(t.Context(), damaged)
		}
		k.full = false
		g.unreadable(t.Context(), damaged)
		if len(g.books.aside) != 1 || k.kept != 1 {
			t.Errorf("%v in the books, put aside %d times", g.books.aside, k.kept)
		}
	})
}

// Two jobs that hand in the very same game have played one.
func TestOneGameOfTwoJobsCountsOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := kittest.New(t, c4)
		core := r.AddNode("a", id.Core, ring.Slots{})
		edge := r.AddNode("edge", id.Edge, ring.Slots{})
		edge.Play("one", c4, true, "g-0", "g-1")
		edge.Play("two", c4, true, "g-0", "g-1")
		runSync(t, edge)
		r.Eventually(time.Minute, "released", func() bool { return len(edge.Gone()) == 2 })
		if got := games(r, core); len(got) != 2 || counted(r) != 2 {
			t.Errorf("%v there, %d counted", got, counted(r))
		}
	})
}

// A pack that is damaged on the node that made it, before anybody else has it, is made again from the jobs.
func TestPackLostBeforeItIsCopiedIsMadeAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := kittest.New(t, c4)
		core, edge := r.AddNode("a", id.Core, ring.Slots{}), r.AddNode("edge", id.Edge, ring.Slots{})
		core.FetchFault = func(context.Context, id.Digest) error { return errBlocked }
		edge.Play("job", c4, true, kittest.IDs("g", 4)...)
		count := runSync(t, edge)
		r.Eventually(time.Minute, "a pack", func() bool { return len(r.Artifacts(ring.KindPack)) == 1 })
		if err := edge.Env(EphemeralSync(), "").Store.Drop(t.Context(), r.Artifacts(ring.KindPack)[0].Digest, "damaged"); err != nil {
			t.Fatal(err)
		}
		core.Set(func(n *kittest.Node) { n.FetchFault = nil })
		r.Eventually(5*time.Minute, "the games are elsewhere", func() bool { return len(games(r, core)) == 4 && len(edge.Gone()) == 1 })
		if n, err := count(); err != nil || n != 0 {
			t.Errorf("unsynced %d %v", n, err)
		}
	})
}

// A node that cannot read a pack now, for want of descriptors, of memory or of a disk that answers, keeps its copy and merges
// it later; only what is wrong with the file itself puts it aside.
func TestMachineTroublePutsNoPackAside(t *testing.T) {
	t.Parallel()
	for _, trouble := range []error{syscall.EMFILE, syscall.EIO, gamedb.ErrSlow, gamedb.ErrNewerSchema} {
		synctest.Test(t, func(t *testing.T) {
			r := kittest.New(t, c4)
			a, edge := r.AddNode("a", id.Core, ring.Slots{}), r.AddNode("edge", id.Edge, ring.Slots{})
			packs := playedPacks(t, edge, edge.Env(EphemeralSync(), ""), 1)
			if err := edge.Env(EphemeralSync(), "").Effects.AddArtifacts(t.Context(), packs...); err != nil {
				t.Fatal(err)
			}
			m := newMerger(a.Env(AutoSync(), ""), JoinSettings{})
			good := m.check
			m.check = func(context.Context, string) error { return fmt.Errorf("verify: %w", trouble) }
			for range 3 {
				if err := m.step(t.Context()); err != nil {
					t.Error(err)
				}
			}
			if !a.Holds(packs[0].Digest) || len(a.Quarantine) != 0 {
				t.Errorf("%v: a healthy pack is put aside: %v", trouble, a.Quarantine)
			}
			m.check = good
			if err := m.step(t.Context()); err != nil {
				t.Error(err)
			}
			if got := kittest.Games(filepath.Join(a.Dir(), "games", string(c4)+".db")); len(got) != 1 {
				t.Errorf("%v: merged later: %v", trouble, got)
			}
		})
	}
}

// failCheck has the check of one pack fail, and counts how often it is made.
func failCheck(m *merger, d id.Digest, with error, made *int) {
	good := m.check
	m.check = func(ctx context.Context, path string) error {
		if filepath.Base(path) != string(d) {
			return good(ctx, path)
		}
		*made++
		return fmt.Errorf("verify: %w", with)
	}
}

// A pack whose check never ends in time does not take a processor for itself: after a few times it is left alone for a while, and
// the others are merged meanwhile.
func TestSlowPackIsNotCheckedAllTheTime(t *testing.T) {
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
		good, checks := m.check, 0
		failCheck(m, packs[0].Digest, gamedb.ErrSlow, &checks)
		step := func() {
			if err := m.step(t.Context()); err != nil {
				t.Error(err)
			}
		}
		for range 4 * slowPatience {
			step()
		}
		if checks != slowPatience {
			t.Errorf("checked %d times, want %d", checks, slowPatience)
		}
		merged := func() int { return len(r.Games(filepath.Join(a.Dir(), "games", string(c4)+".db"))) }
		if merged() != 1 || !a.Holds(packs[0].Digest) {
			t.Errorf("%d games merged, want those of the other pack", merged())
		}
		m.check = good
		time.Sleep(slowRetry)
		if step(); merged() != 2 {
			t.Errorf("%d games merged once the machine is fast enough, want 2", merged())
		}
	})
}
