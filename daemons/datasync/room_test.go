package datasync

import (
	"context"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/daemons/kit/kittest"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

func TestPackGap(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		room           *kit.Room
		nodes, configs int
		want           time.Duration
	}{
		"nobody knows":             {nil, 60, 1, 0},
		"young":                    {&kit.Room{Left: 400_000, Of: 400_000}, 60, 1, 0},
		"a quarter is used":        {&kit.Room{Left: 300_000, Of: 400_000}, 60, 1, 8*time.Minute + 38*time.Second + 400*time.Millisecond},
		"and there are few":        {&kit.Room{Left: 300_000, Of: 400_000}, 5, 1, 43*time.Second + 200*time.Millisecond},
		"each config has its own":  {&kit.Room{Left: 300_000, Of: 400_000}, 5, 3, 2*time.Minute + 9*time.Second + 600*time.Millisecond},
		"nothing left":             {&kit.Room{Left: 0, Of: 400_000}, 60, 12, 4 * time.Hour},
		"of nobody and of nothing": {&kit.Room{Left: 300_000, Of: 400_000}, 0, 0, 8640 * time.Millisecond},
	} {
		if got := packGap(tc.room, tc.nodes, tc.configs); got != tc.want {
			t.Errorf("%s: %s, want %s", name, got, tc.want)
		}
	}
}

// Nodes that always play and pack as often as they may do not fill the ring within two months, however many they are.
func TestRingIsNotFullWithinMonths(t *testing.T) {
	t.Parallel()
	for _, nodes := range []int{1, 5, 60, 200} {
		room := kit.Room{Left: 400_000, Of: 400_000}
		for passed := time.Duration(0); passed < 60*24*time.Hour; passed += 10 * time.Minute {
			gap := max(2*time.Second, packGap(&room, nodes, 1))
			room.Left -= int(float64(nodes) * float64(10*time.Minute) / float64(gap))
		}
		if room.Left < 10_000 { // those of datasets and models are few
			t.Errorf("%d nodes leave room for %d", nodes, room.Left)
		}
	}
}

// In a ring that is getting full a node packs less often and more at once, but does not keep its leaving waiting, nor what
// would be too much for one pack.
func TestCrowdedRingGetsFewerPacks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := kittest.New(t, c4)
		r.AddNode("a", id.Core, ring.Slots{})
		edge := r.AddNode("edge", id.Edge, ring.Slots{})
		r.Crowd(kit.Room{Left: 86_400, Of: 400_000}) // two nodes: one pack a minute
		d, err := EphemeralSync().New(edge.Env(EphemeralSync(), `{"max_games":10}`))
		if err != nil {
			t.Fatal(err)
		}
		go func() { _ = d.Run(t.Context()) }()
		packs := func() int { return len(r.Artifacts(ring.KindPack)) }
		db := edge.Play("job", c4, false, kittest.IDs("g", 10)...)
		r.Eventually(10*time.Second, "the first pack, before anything is known", func() bool { return packs() == 1 && counted(r) == 10 })
		began := time.Now()
		edge.WriteGames(db.Path, c4, kittest.IDs("h", 30)...)
		r.Eventually(2*time.Minute, "the second", func() bool { return packs() > 1 && counted(r) == 40 })
		if took := time.Since(began); took < 50*time.Second || packs() != 2 {
			t.Errorf("%d packs after %s, want 2 after a minute", packs(), took)
		}
		began = time.Now()
		edge.WriteGames(db.Path, c4, kittest.IDs("i", 10*crowded)...)
		r.Eventually(20*time.Second, "what fills a pack", func() bool { return counted(r) == 40+10*crowded })
		edge.WriteGames(db.Path, c4, kittest.IDs("j", 10)...)
		if err := d.(kit.Drainer).Drain(t.Context()); err != nil || counted(r) != 50+10*crowded || time.Since(began) > 40*time.Second {
			t.Errorf("%d games are safe after %s, %v", counted(r), time.Since(began), err)
		}
	})
}

// What could not be packed does not wait for the sake of the ring's room.
func TestFailedPackOfACrowdedRingIsTriedAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := kittest.New(t, c4)
		r.AddNode("a", id.Core, ring.Slots{})
		edge := r.AddNode("edge", id.Edge, ring.Slots{})
		s := EphemeralSync()
		env := edge.Env(s, "")
		env.Store = full{env.Store}
		g, err := newGatherer(env, s.Settings.(GatherSettings))
		if err != nil {
			t.Fatal(err)
		}
		g.spacing = time.Hour
		db := edge.Play("job", c4, true, "g")
		list := []fresh{{db: db, ids: []string{"g"}}}
		if _, err := g.pack(t.Context(), c4, list); err == nil {
			t.Fatal("packed into a store that is not there")
		}
		if len(g.due(list)) != 0 {
			t.Error("tried again at once")
		}
		time.Sleep(g.set.MinGap.D())
		if len(g.due(list)) != 1 {
			t.Error("not tried again")
		}
	})
}

// A node that is far behind with packing plays no more until it has caught up by half; games that cannot be read hold nobody.
func TestNodeThatIsBehindIsHeld(t *testing.T) {
	t.Parallel()
	r := kittest.New(t, c4)
	n := r.AddNode("edge", id.Edge, ring.Slots{})
	s := EphemeralSync()
	set := s.Settings.(GatherSettings)
	set.MaxGames = 10
	g, err := newGatherer(n.Env(s, ""), set)
	if err != nil {
		t.Fatal(err)
	}
	wait := func(job string, games int) fresh {
		return fresh{db: kit.JobDB{JobID: job, Path: job, Config: c4}, ids: kittest.IDs(job, games)}
	}
	limit := 10 + packsBehind*10
	other := fresh{db: kit.JobDB{JobID: "other", Path: "other", Config: "hex8_2p"}, ids: kittest.IDs("other", limit-1)}
	for i, c := range []struct {
		found   []fresh
		spacing time.Duration
		held    int
	}{
		{[]fresh{wait("a", limit-1), other}, 0, 0},
		{[]fresh{wait("a", limit-1), wait("b", 1), other}, 0, limit},
		{[]fresh{wait("a", limit/2)}, 0, limit / 2},
		{[]fresh{wait("a", limit/2-1)}, 0, 0},
		{[]fresh{wait("a", limit)}, time.Hour, 0}, // larger packs are made of more games, on purpose
		{[]fresh{wait("a", crowded*10+packsBehind*10)}, time.Hour, crowded*10 + packsBehind*10},
		{[]fresh{wait("bad", limit)}, 0, 0},
	} {
		g.unread["bad"] = patience
		g.spacing = c.spacing
		g.hold(c.found)
		if n.Held != c.held {
			t.Errorf("%d: held for %d games, want %d", i, n.Held, c.held)
		}
	}
}

// full is a store on a full disk.
type full struct{ kit.Store }

func (full) PutFile(context.Context, string) (id.Digest, int64, error) { return "", 0, syscall.ENOSPC }
