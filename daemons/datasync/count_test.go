package datasync

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/daemons/kit/kittest"
	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// start runs a sync daemon on n and returns it, for what it offers beside Run.
func start(t *testing.T, n *kittest.Node, s kit.Spec) kit.Counter {
	t.Helper()
	d, err := s.New(n.Env(s, ""))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return d.(kit.Counter)
}

func unsynced(t *testing.T, c kit.Counter) int64 {
	t.Helper()
	per, err := c.Unsynced(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return per[c4]
}

// safe are the games that the ring counts.
func safe(r *kittest.Ring) (n int64) {
	for _, a := range r.Artifacts(ring.KindPack) {
		if a.Safe {
			n += a.Counters[kit.CounterGames]
		}
	}
	return n
}

// gauged is the broken variant of counting: what the daemon last showed.
type gauged struct{ n *kittest.Node }

func (g gauged) Unsynced(context.Context) (map[id.Config]int64, error) {
	v, _ := g.n.Gauge("unsynced_games")
	return map[id.Config]int64{c4: int64(v)}, nil
}

// A node plays for a quarter of a minute, four games a second, while transfers fail, crawl and succeed and the coordinator is away
// for a while. At every moment each game that was finished when the question was asked is in the one count or the other.
func TestEveryFinishedGameIsUnsyncedOrCounted(t *testing.T) {
	t.Parallel()
	uncounted := func(t *testing.T, broken bool) (moments int) {
		synctest.Test(t, func(t *testing.T) {
			r := kittest.New(t, c4)
			edge := r.AddNode("edge", id.Edge, ring.Slots{})
			var fetches atomic.Int64
			for _, name := range []string{"a", "b"} {
				r.AddNode(name, id.Core, ring.Slots{}).FetchFault = func(context.Context, id.Digest) error {
					time.Sleep(150 * time.Millisecond)
					if fetches.Add(1)%3 == 0 {
						return errBlocked
					}
					return nil
				}
			}
			var c kit.Counter = start(t, edge, EphemeralSync())
			if broken {
				c = gauged{edge}
			}
			var played int64
			var db kit.JobDB
			for i := range 60 {
				switch {
				case i%12 == 0:
					db = edge.Play(fmt.Sprint("job-", i), c4, false, fmt.Sprint("g-", i))
				default:
					edge.WriteGames(db.Path, c4, fmt.Sprint("g-", i))
				}
				if played++; i%12 == 11 {
					db.Done = true
					edge.SetJobs(append(without(edge, db.JobID), db)...)
				}
				r.Quorum(i < 24 || i > 40)
				if u := unsynced(t, c); u+safe(r) < played {
					moments++
				}
				time.Sleep(250 * time.Millisecond)
				if u := unsynced(t, c); u+safe(r) < played || u > played {
					moments++
				}
				if broken && moments > 0 {
					return // seen
				}
			}
			if !broken {
				r.Eventually(time.Minute, "all games are counted", func() bool { return safe(r) == played && len(edge.Gone()) == 5 && unsynced(t, c) == 0 })
			}
		})
		return moments
	}
	if n := uncounted(t, false); n > 0 {
		t.Errorf("at %d moments a game was in no count", n)
	}
	if uncounted(t, true) == 0 {
		t.Error("a reading of the last step passes too")
	}
}

func without(n *kittest.Node, job string) []kit.JobDB {
	dbs, _ := n.Env(EphemeralSync(), "").Jobs.Databases()
	return slices.DeleteFunc(dbs, func(db kit.JobDB) bool { return db.JobID == job })
}

// In a ring that has become smaller than the copies wanted, the node and the state agree when a pack is safe.
func TestSmallerRingCountsWhatItCallsSafe(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"one core node from the start", "the second has left"} {
		synctest.Test(t, func(t *testing.T) {
			r := kittest.New(t, c4)
			r.AddNode("core", id.Core, ring.Slots{})
			edge := r.AddNode("edge", id.Edge, ring.Slots{})
			var second *kittest.Node
			if name == "the second has left" {
				second = r.AddNode("second", id.Core, ring.Slots{})
				second.FetchFault = func(context.Context, id.Digest) error { return errBlocked }
			}
			edge.Play("job", c4, true, kittest.IDs("g", 12)...)
			c := start(t, edge, EphemeralSync())
			if second != nil {
				time.Sleep(time.Minute)
				if u, s := unsynced(t, c), safe(r); u != 12 || s != 0 {
					t.Errorf("with one copy of two: %d unsynced, %d counted", u, s)
				}
				r.SetStatus(second, ring.Left)
			}
			r.Eventually(time.Minute, name+": counted and released", func() bool { return len(edge.Gone()) == 1 && unsynced(t, c) == 0 })
			if s := safe(r); s != 12 {
				t.Errorf("%s: nothing is unsynced, and %d of 12 games are counted", name, s)
			}
		})
	}
}

// The database of an ended job breaks when its games are in a pack that has no receipts yet: the pack still gets there, and
// its games are counted all the while.
func TestPackOutlivesItsDatabase(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := kittest.New(t, c4)
		var open atomic.Bool
		for _, name := range []string{"a", "b"} {
			r.AddNode(name, id.Core, ring.Slots{}).FetchFault = func(context.Context, id.Digest) error {
				if !open.Load() {
					return errBlocked
				}
				return nil
			}
		}
		edge := r.AddNode("edge", id.Edge, ring.Slots{})
		db := edge.Play("job", c4, true, kittest.IDs("g", 12)...)
		c := start(t, edge, EphemeralSync())
		r.Eventually(time.Minute, "a pack", func() bool { return len(r.Artifacts(ring.KindPack)) == 1 })
		if err := os.WriteFile(db.Path, []byte("no database"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Unsynced(t.Context()); err == nil {
			t.Error("a database that cannot be read does not make the count unknown")
		}
		time.Sleep(2 * time.Second)
		if v, ok := edge.Gauge("unsynced_games"); ok {
			t.Errorf("shows %v, though nobody can know", v)
		}
		r.Eventually(time.Minute, "the database put aside", func() bool { return len(edge.Gone()) == 1 })
		if u := unsynced(t, c); u != 12 {
			t.Errorf("%d unsynced, 12 are in a pack without receipts", u)
		}
		open.Store(true)
		r.Eventually(5*time.Minute, "the pack is safe", func() bool { return safe(r) == 12 && unsynced(t, c) == 0 })
		if n := len(r.Log(event.DataSyncCompleted.Type())); n != 1 {
			t.Errorf("told %d times", n)
		}
		keys, err := edge.Env(EphemeralSync(), "").Local.Keys("")
		if err != nil || len(keys) != 0 {
			t.Errorf("left in the books: %v %v", keys, err)
		}
	})
}

// Two databases of one job: the job goes when both are safe.
func TestJobOfTwoDatabases(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := kittest.New(t, c4, "hex8_2p")
		r.AddNode("a", id.Core, ring.Slots{})
		r.AddNode("b", id.Core, ring.Slots{})
		edge := r.AddNode("edge", id.Edge, ring.Slots{})
		one := edge.Play("job", c4, true, kittest.IDs("g", 12)...)
		two := edge.Play("other", c4, true, kittest.IDs("h", 7)...)
		two.JobID = one.JobID
		edge.SetJobs(one, two)
		c := start(t, edge, EphemeralSync())
		r.Eventually(time.Minute, "released", func() bool { return len(edge.Gone()) == 1 })
		if u, s := unsynced(t, c), safe(r); u != 0 || s != 19 {
			t.Errorf("%d unsynced, %d counted of 19", u, s)
		}
	})
}

// An agent that has just started does not call its count zero before it knows which jobs are here.
func TestCountIsUnknownUntilJobsAreTakenOver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		edge := kittest.New(t, c4).AddNode("edge", id.Edge, ring.Slots{})
		edge.Adopting = true
		c := start(t, edge, EphemeralSync())
		if per, err := c.Unsynced(t.Context()); err == nil {
			t.Errorf("counted %v", per)
		}
		time.Sleep(5 * time.Second)
		if v, ok := edge.Gauge("unsynced_games"); ok {
			t.Errorf("shows %v", v)
		}
	})
}

// What was written in the same moment in which the file was read is seen the next time, though neither the size nor the time
// of the file may tell.
func TestRereadsWhatWasJustWritten(t *testing.T) {
	t.Parallel()
	n := kittest.New(t, c4).AddNode("edge", id.Edge, ring.Slots{})
	db := n.Play("job", c4, false, "g-0")
	var r readings
	at := time.Now().Add(time.Hour) // a moment ago, also for a machine that is slow to get on with the test
	if err := os.Chtimes(db.Path, at, at); err != nil {
		t.Fatal(err)
	}
	if ids, err := r.finished(t.Context(), db); err != nil || len(ids) != 1 {
		t.Fatal(ids, err)
	}
	n.WriteGames(db.Path, c4, "g-1")
	if err := os.Chtimes(db.Path, at, at); err != nil { // as a coarse clock would have it
		t.Fatal(err)
	}
	if ids, err := r.finished(t.Context(), db); err != nil || len(ids) != 2 {
		t.Errorf("%v %v, want two games", ids, err)
	}
}
