package datasync

import (
	"context"
	"os"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/daemons/kit/kittest"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// A pending pack whose bytes are not here is judged with the state in hand: one that nobody has is struck out, also where it
// never reached the store and the ring has never heard of it, and its games are packed again; one that others have is not.
func TestPackThatIsNotHereWhenItsNodeStarts(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name      string
		elsewhere bool
		spec      kit.Spec
		class     id.Class
	}{
		{"nobody has it", false, EphemeralSync(), id.Edge},
		{"nobody has it, on a core node", false, AutoSync(), id.Core},
		{"another has it", true, EphemeralSync(), id.Edge},
		{"another has it, on a core node", true, AutoSync(), id.Core},
	} {
		synctest.Test(t, func(t *testing.T) {
			r := kittest.New(t, c4)
			core, self := r.AddNode("core", id.Core, ring.Slots{}), r.AddNode("self", c.class, ring.Slots{})
			other := r.AddNode("other", id.Core, ring.Slots{})
			if c.class == id.Core { // its own copy counts
				r.Settings(func(s *ring.Settings) { s.Copies = map[ring.Kind]int{ring.KindPack: 3} })
			}
			var open atomic.Bool
			other.FetchFault = func(context.Context, id.Digest) error {
				if !open.Load() {
					return errBlocked
				}
				return nil
			}
			db := self.Play("job", c4, true, kittest.IDs("g", 4)...)
			if !c.elsewhere {
				core.FetchFault = other.FetchFault
				r.Quorum(false)
			}
			stop := self.Start(c.spec, "")
			time.Sleep(10 * time.Second)
			if err := stop(); err != nil {
				t.Fatal(err)
			}
			b, err := openBooks(self.Env(c.spec, "").Local)
			if err != nil || len(b.pending()) != 1 {
				t.Fatal("no pack is pending")
			}
			lost := b.pending()[0].Digest
			if !self.Holds(lost) || core.Holds(lost) != c.elsewhere {
				t.Fatal("not where it should be")
			}
			self.Lose(lost)
			self.WriteGames(db.Path, c4, "late") // what is packed anew is another pack
			open.Store(true)
			r.Quorum(true)
			again := c.spec
			again.New = func(env kit.Env) (kit.Daemon, error) {
				env.Effects = truthful{env.Effects, self, t}
				return c.spec.New(env)
			}
			self.Start(again, "")
			r.Eventually(5*time.Minute, c.name+": the games are elsewhere", func() bool { return len(games(r, other)) >= 5 && len(self.Gone()) == 1 })
			if counted(r) != 5 {
				t.Errorf("%s: %d games counted", c.name, counted(r))
			}
		})
	}
}

// A rented node may not announce other nodes' copies. A pack that got lost there and that the ring, now smaller, could call safe
// holds nothing up: new games come away, and it is judged again when its copy is back.
func TestEdgeNodeSpeaksForItsOwnCopyOnly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := kittest.New(t, c4)
		core, second, edge := r.AddNode("core", id.Core, ring.Slots{}), r.AddNode("second", id.Core, ring.Slots{}), r.AddNode("edge", id.Edge, ring.Slots{})
		second.FetchFault = func(context.Context, id.Digest) error { return errBlocked }
		edge.Play("one", c4, true, kittest.IDs("one", 4)...)
		edge.Start(EphemeralSync(), "")
		r.Eventually(time.Minute, "one copy", func() bool { return len(games(r, core)) == 4 })
		first := r.Artifacts(ring.KindPack)[0].Digest
		store := edge.Env(EphemeralSync(), "").Store
		path, _ := store.Path(first)
		bytes, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := store.Drop(t.Context(), first, "damaged"); err != nil {
			t.Fatal(err)
		}
		r.SetStatus(second, ring.Left)
		edge.Play("two", c4, true, kittest.IDs("two", 3)...)
		r.Eventually(time.Minute, "the new games are safe", func() bool { return slices.Equal(edge.Gone(), []string{"two"}) })
		if got := games(r, core); len(got) != 7 || safe(r) != 3 || len(r.Refused()) != 0 {
			t.Errorf("%v are elsewhere, %d counted, refused %v", got, safe(r), r.Refused())
		}
		if err := os.WriteFile(path, bytes, 0o600); err != nil {
			t.Fatal(err)
		}
		r.Eventually(time.Minute, "all is safe", func() bool { return safe(r) == 7 && len(edge.Gone()) == 2 })
	})
}

// A pack of which the state can be asked nothing may be at others': while look-ups get no answer nothing is packed again, and
// nothing is once they do.
func TestUnknownPackIsNotPackedAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := kittest.New(t, c4)
		core, other, edge := r.AddNode("core", id.Core, ring.Slots{}), r.AddNode("other", id.Core, ring.Slots{}), r.AddNode("edge", id.Edge, ring.Slots{})
		var open atomic.Bool
		other.FetchFault = func(context.Context, id.Digest) error {
			if !open.Load() {
				return errBlocked
			}
			return nil
		}
		db := edge.Play("job", c4, true, kittest.IDs("g", 4)...)
		stop := edge.Start(EphemeralSync(), "")
		r.Eventually(time.Minute, "one copy", func() bool { return len(games(r, core)) == 4 })
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		edge.Lose(r.Artifacts(ring.KindPack)[0].Digest)
		mute := EphemeralSync()
		mute.New = func(env kit.Env) (kit.Daemon, error) {
			env.View = muteViews{env.View, &open}
			return EphemeralSync().New(env)
		}
		edge.Start(mute, "")
		time.Sleep(poll / 2)
		edge.WriteGames(db.Path, c4, "late") // after the first look: what would be packed anew is another pack
		time.Sleep(time.Minute)
		open.Store(true)
		r.Eventually(5*time.Minute, "all is safe", func() bool { return safe(r) >= 5 && len(edge.Gone()) == 1 })
		if got := games(r, core); len(got) != 5 || counted(r) != 5 {
			t.Errorf("%v are elsewhere, %d counted", got, counted(r))
		}
	})
}

// muteViews are the readings of a rented node whose look-ups get no answer until open, while the state itself answers.
type muteViews struct {
	kit.Views
	open *atomic.Bool
}

func (v muteViews) Current(ctx context.Context, named ...id.Digest) (kit.View, error) {
	out, err := v.Views.Current(ctx, named...)
	switch {
	case err != nil || v.open.Load():
	case len(named) > 0:
		err = errBlocked
	default:
		out.Library = muteLibrary{out.Library}
	}
	return out, err
}

type muteLibrary struct{ kit.Library }

func (muteLibrary) Artifact(id.Digest) (ring.Artifact, bool) { return ring.Artifact{}, false }

// truthful fails the test when a node states a receipt for bytes that it does not have.
type truthful struct {
	kit.Effects
	n *kittest.Node
	t *testing.T
}

func (e truthful) AddArtifacts(ctx context.Context, as ...ring.Artifact) error {
	for _, a := range as {
		if a.Held(e.n.ID) && !e.n.Holds(a.Digest) {
			e.t.Errorf("a receipt for pack %s, which is not here", a.Digest.Short())
		}
	}
	return e.Effects.AddArtifacts(ctx, as...)
}
