package resources

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/daemons/kit/kittest"
	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

const small, large = id.Config("connect4_2p"), id.Config("hex8_3p")

func planned(t *testing.T, r *kittest.Ring, n *kittest.Node, p kit.SelfplayPlan) {
	t.Helper()
	if err := n.Env(kit.Spec{Name: "SELFPLAY_COORDINATOR", Scope: kit.ScopeCluster}, "").Effects.PutNote(t.Context(), kit.PlanNote, p); err != nil {
		t.Fatal(err)
	}
}

func share(version uint64, _ *kittest.Node, games map[id.Config]int64) kit.SelfplayPlan {
	p := kit.SelfplayPlan{Version: version, Games: games}
	for _, g := range games {
		p.Total += g
	}
	return p
}

func TestFillsToTargetInThePlansProportions(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := kittest.New(t, small, large)
		a, b := r.AddNode("a", id.Core, ring.Slots{CPU: 1}), r.AddNode("b", id.Core, ring.Slots{CPU: 1})
		planned(t, r, a, share(1, a, map[id.Config]int64{small: 300, large: 100}))
		stop := a.Start(Populator(), "")
		time.Sleep(3 * time.Second)
		if err := stop(); err != nil {
			t.Error(err)
		}
		if n := len(r.Work(kit.StageSelfplay)); n == 0 || n >= 150 {
			t.Fatalf("%d items when the holder stopped: that is not the middle of filling", n)
		}
		b.Start(Populator(), "")
		time.Sleep(5 * time.Minute)
		count, keys := map[id.Config]int{}, map[string]bool{}
		for _, w := range r.Work(kit.StageSelfplay) {
			count[w.Config]++
			keys[w.Key] = true
		}
		if len(keys) != 150 || count[small]+count[large] != 150 || count[large] < 36 || count[large] > 39 {
			t.Errorf("%d keys, %v", len(keys), count)
		}
		for i := range 51 { // below the floor: filled again
			w, _ := r.Claim(b)
			r.Finish(b, w.ID, kittest.Outcome{Counters: map[string]int64{"games": 50}})
			if i == 49 {
				time.Sleep(time.Minute)
				if got := len(r.Work(kit.StageSelfplay)); got != 150 {
					t.Errorf("refilled at the floor: %d", got)
				}
			}
		}
		time.Sleep(time.Minute)
		if got := len(r.Work(kit.StageSelfplay)); got != 201 {
			t.Errorf("%d items after the refill", got)
		}
	})
}

func TestStopsAtLimits(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		settings string
		plan     func(*kittest.Node) kit.SelfplayPlan
		others   int
		want     int
		event    event.Type
	}{
		"hard limit": {`{"floor":10,"target":20,"hard_limit":30}`, func(n *kittest.Node) kit.SelfplayPlan { return share(1, n, map[id.Config]int64{small: 1}) }, 25, 5, event.WorkQueueBackpressure.Type()},
		"all ratings are met": {"", func(n *kittest.Node) kit.SelfplayPlan {
			p := share(1, n, map[id.Config]int64{small: 1})
			p.Met = []id.Config{small}
			return p
		}, 0, 10, ""},
		"no plan":              {"", func(*kittest.Node) kit.SelfplayPlan { return kit.SelfplayPlan{} }, 0, 0, event.WorkQueueExhausted.Type()},
		"a cycle has its size": {`{"per_cycle":7,"every":"1h"}`, func(n *kittest.Node) kit.SelfplayPlan { return share(1, n, map[id.Config]int64{small: 1}) }, 0, 7, ""},
	} {
		synctest.Test(t, func(t *testing.T) {
			r := kittest.New(t, small)
			n := r.AddNode("a", id.Core, ring.Slots{CPU: 1})
			planned(t, r, n, c.plan(n))
			for i := range c.others {
				_, _ = n.Env(kit.Spec{Name: "X", Scope: kit.ScopeNode}, "").Effects.Enqueue(t.Context(), ring.WorkItem{Type: "export", Key: fmt.Sprint(i), Config: small})
			}
			s := Populator()
			s.Reads = nil // by its period alone
			n.Start(s, c.settings)
			time.Sleep(30 * time.Second)
			if got := len(r.Work(kit.StageSelfplay)); got != c.want {
				t.Errorf("%s: %d items, want %d", name, got, c.want)
			}
			if c.event != "" && len(r.Log(c.event)) != 1 {
				t.Errorf("%s: %s was told %d times", name, c.event, len(r.Log(c.event)))
			}
		})
	}
}

// What waits of a config that was taken out of the ring's settings does not count as work that there is, and nothing is added
// to it, though the plan in force still names it.
func TestConfigThatWasTakenAwayKeepsNobodyFromPlaying(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := kittest.New(t, small, large)
		n := r.AddNode("a", id.Core, ring.Slots{CPU: 1})
		planned(t, r, n, share(1, n, map[id.Config]int64{small: 100, large: 300}))
		r.Settings(func(s *ring.Settings) { s.Configs = []id.Config{small} })
		for i := range 150 {
			_, err := n.Env(kit.Spec{Name: "X", Scope: kit.ScopeNode}, "").Effects.Enqueue(t.Context(),
				ring.WorkItem{Type: kit.StageSelfplay, Key: fmt.Sprint(i), Config: large})
			if err != nil {
				t.Fatal(err)
			}
		}
		n.Start(Populator(), "")
		time.Sleep(5 * time.Minute)
		count := map[id.Config]int{}
		for _, w := range r.Work(kit.StageSelfplay) {
			count[w.Config]++
		}
		if count[small] != 150 || count[large] != 150 {
			t.Errorf("items of each config: %v", count)
		}
	})
}
