package datasync

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/daemons/kit/kittest"
	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// What is told of a pack that is safe is what happened: its games and those of all packs, its bytes, and who else has it.
func TestSafePackIsToldWithItsFigures(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		spec   kit.Spec
		class  id.Class
		copies int // on other nodes: a rented one's own does not count
	}{{EphemeralSync(), id.Edge, 2}, {AutoSync(), id.Core, 1}} {
		synctest.Test(t, func(t *testing.T) {
			r := kittest.New(t, c4)
			for _, name := range []string{"a", "b", "c"} {
				r.AddNode(name, id.Core, ring.Slots{})
			}
			n := r.AddNode("player", c.class, ring.Slots{})
			n.Start(c.spec, "")
			total := 0
			for i, count := range []int{12, 5} {
				job := fmt.Sprint("job-", i)
				n.Play(job, c4, true, kittest.IDs(job, count)...)
				total += count
				r.Eventually(2*time.Minute, c.spec.Name+" tells of "+job, func() bool { return len(r.Log(event.DataSyncCompleted.Type())) == i+1 })
				found, done := r.Log(event.NewGamesAvailable.Type()), r.Log(event.DataSyncCompleted.Type())[i]
				if len(found) != i+1 || done.Cause != found[i].ID() {
					t.Fatalf("%s: %d times new games, %s is because of %q", c.spec.Name, len(found), done.ID(), done.Cause)
				}
				news, err := event.NewGamesAvailable.Read(found[i])
				if err != nil || news.New != int64(count) || news.Total == nil || *news.Total != int64(total) || news.Config != c4 || news.NodeID != n.ID {
					t.Errorf("%s: want %d new games, %d in all: %s, %v", c.spec.Name, count, total, found[i].Payload, err)
				}
				pack, known := r.View("").Library.Artifact(news.Pack)
				file, err := os.Stat(filepath.Join(n.Dir(), "blobs", string(news.Pack)))
				if !known || err != nil {
					t.Fatalf("%s: pack %s is known %v, %v", c.spec.Name, news.Pack, known, err)
				}
				others := slices.DeleteFunc(slices.Clone(pack.Holders), func(h id.Node) bool { return h == n.ID })
				sync, err := event.DataSyncCompleted.Read(done)
				if err != nil || sync.Games != int64(count) || sync.Bytes != file.Size() || len(others) != c.copies ||
					!slices.Equal(sync.Targets, others) || sync.Config != c4 || sync.NodeID != n.ID {
					t.Errorf("%s: want %d games of %d bytes with %v: %s, %v", c.spec.Name, count, file.Size(), others, done.Payload, err)
				}
			}
		})
	}
}
