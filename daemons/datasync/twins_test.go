package datasync

import (
	"context"
	"path/filepath"
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

// Of two games to which one job gave one id, in two databases, one is packed; the other is put aside before the job's folder
// goes. A job that hands in the same games twice has done no harm.
func TestTwinsOfOneJobAreKept(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		second func(t *testing.T, edge *kittest.Node, first, path string)
		aside  int
	}{
		"another game": {func(_ *testing.T, edge *kittest.Node, _, path string) { edge.WriteGames(path, c4, "g-1", "h") }, 2},
		"the same game": {func(t *testing.T, _ *kittest.Node, first, path string) {
			if _, err := gamedb.Pack(t.Context(), first, path, []string{"g-1"}); err != nil {
				t.Fatal(err)
			}
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := kittest.New(t, c4)
				core := r.AddNode("a", id.Core, ring.Slots{})
				edge := r.AddNode("edge", id.Edge, ring.Slots{})
				path := filepath.Join(edge.Dir(), "staging", "second.db")
				first := edge.Play("job", c4, true, "g-0", "g-1", "g-2")
				tc.second(t, edge, first.Path, path)
				edge.AddJob(kit.JobDB{JobID: "job", WorkID: "job", Path: path, Config: c4, Done: true})
				count := runSync(t, edge)
				r.Eventually(time.Minute, "released", func() bool { return len(edge.Gone()) == 1 })
				if want := 3 + tc.aside/2; len(games(r, core)) != want {
					t.Errorf("%v arrived, want %d", games(r, core), want)
				}
				if told := len(r.Log(event.DataSyncFailed.Type())); len(edge.Quarantine) != tc.aside || told != tc.aside {
					t.Errorf("put aside %v, told %d times, want %d", edge.Quarantine, told, tc.aside)
				}
				if n, err := count(); err != nil || n != int64(tc.aside/2) {
					t.Errorf("unsynced %d %v: what is put aside is nowhere else", n, err)
				}
				for _, name := range []string{"pack-", "twins-"} {
					if left, err := filepath.Glob(filepath.Join(edge.Dir(), "staging", name+"*")); err != nil || len(left) > 0 {
						t.Errorf("left behind: %v %v", left, err)
					}
				}
			})
		})
	}
}

// Of two databases only one could be put aside before the agent ended: the other is at the next start.
func TestTwinsArePutAsideOneByOne(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := kittest.New(t, c4)
		r.AddNode("a", id.Core, ring.Slots{})
		edge := r.AddNode("edge", id.Edge, ring.Slots{})
		path := filepath.Join(edge.Dir(), "staging", "second.db")
		edge.Play("job", c4, true, "g-0", "g-1", "g-2")
		edge.WriteGames(path, c4, "g-1", "h")
		edge.AddJob(kit.JobDB{JobID: "job", WorkID: "job", Path: path, Config: c4, Done: true})
		s := EphemeralSync()
		env := edge.Env(s, "")
		env.Store = &failing{Store: env.Store, path: path}
		d, err := s.New(env)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- d.Run(ctx) }()
		time.Sleep(5 * time.Minute)
		cancel()
		<-done
		if len(edge.Quarantine) != 1 || len(edge.Gone()) != 0 {
			t.Fatalf("put aside %v, released %v", edge.Quarantine, edge.Gone())
		}
		count := runSync(t, edge)
		r.Eventually(2*time.Minute, "released", func() bool { return len(edge.Gone()) == 1 })
		if n, err := count(); err != nil || n != 1 || len(edge.Quarantine) != 2 {
			t.Errorf("put aside %v, unsynced %d %v", edge.Quarantine, n, err)
		}
	})
}

// failing can put one database not aside.
type failing struct {
	kit.Store
	path string
}

func (f *failing) Aside(ctx context.Context, path, reason string) (string, error) {
	if path == f.path {
		return "", errBlocked
	}
	return f.Store.Aside(ctx, path, reason)
}
