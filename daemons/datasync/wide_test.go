package datasync

import (
	"database/sql"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/daemons/kit/kittest"
	"github.com/ringagent/ringagent/internal/gamedb"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// widen gives a job's games columns of its own, each with a value.
func widen(t *testing.T, db kit.JobDB, columns int) {
	t.Helper()
	s, err := sql.Open("sqlite", db.Path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range columns {
		_, more := s.Exec(fmt.Sprintf("ALTER TABLE games ADD COLUMN %s_%d DEFAULT 1", db.JobID, i))
		err = errors.Join(err, more)
	}
	if err := errors.Join(err, s.Close()); err != nil {
		t.Fatal(err)
	}
}

// Jobs that have together more columns of their own than a pack may have are packed apart, each with those that it fits to.
func TestJobsTooWideForOnePackAreInTwo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := kittest.New(t, c4)
		for _, name := range []string{"a", "b"} {
			r.AddNode(name, id.Core, ring.Slots{}).Start(AutoSync(), "")
		}
		edge := r.AddNode("edge", id.Edge, ring.Slots{})
		for i, columns := range map[string]int{"one": 40, "two": 40, "plain": 0} {
			widen(t, edge.Play(i, c4, true, kittest.IDs(i, 2)...), columns)
		}
		g, err := newGatherer(edge.Env(EphemeralSync(), ""), gatherDefaults())
		if err != nil {
			t.Fatal(err)
		}
		if err := g.step(t.Context()); err != nil || len(g.books.pending()) != 2 || len(g.unread) != 0 {
			t.Errorf("%d packs at once, unreadable %v, %v", len(g.books.pending()), g.unread, err)
		}
		g.courier.Wait()
		edge.Start(EphemeralSync(), "")
		r.Eventually(5*time.Minute, "released", func() bool { return len(edge.Gone()) == 3 })
		packs := r.Artifacts(ring.KindPack)
		if len(packs) != 2 || counted(r) != 6 || len(edge.Quarantine) != 0 {
			t.Errorf("%d packs of %d games, put aside %v", len(packs), counted(r), edge.Quarantine)
		}
		for _, p := range packs {
			path, err := edge.Env(EphemeralSync(), "").Store.Ensure(t.Context(), p.Digest)
			if err == nil {
				err = gamedb.Verify(t.Context(), path)
			}
			if err != nil {
				t.Error(err)
			}
		}
	})
}
