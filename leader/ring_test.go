package leader_test

import (
	"context"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/leader"
	"github.com/ringagent/ringagent/leader/leadertest"
	"github.com/ringagent/ringagent/leader/state"
)

// trace shows what the nodes log when LEADER_TRACE is set.
func trace() zerolog.Logger {
	if os.Getenv("LEADER_TRACE") == "" {
		return zerolog.Nop()
	}
	return zerolog.New(zerolog.ConsoleWriter{Out: os.Stderr, TimeFormat: "05.000"}).With().Timestamp().Logger()
}

func bubble(t *testing.T, o leadertest.Options, f func(t *testing.T, r *leadertest.Ring)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		o.Log = trace()
		r := leadertest.New(t, o)
		defer r.Close()
		f(t, r)
	})
}

func voters(r *leadertest.Ring, n int) func() bool {
	return func() bool {
		c := r.Coordinator()
		return c != nil && len(c.Node.Stats().Voters) == n
	}
}

func token(name string) state.Command {
	return state.Command{Kind: state.KindToken, Once: "token-" + name, Body: state.PutToken{Token: ring.Token{
		ID: name, SecretHash: "s", Class: id.Edge, Uses: 1, Expires: time.Now().Add(time.Hour)}}}
}

func TestRingElectsAppliesAndFailsOver(t *testing.T) {
	t.Parallel()
	bubble(t, leadertest.Options{Core: 3, Edge: 1}, func(t *testing.T, r *leadertest.Ring) {
		took := r.Wait(20*time.Second, "three voters", voters(r, 3))
		t.Logf("three voters after %s", took)
		ctx := t.Context()
		for i, m := range r.Members {
			name := string(rune('a' + i))
			c := token(name)
			if m.Class == id.Edge {
				c = state.Command{Kind: state.KindReport, Body: state.Report{Member: ring.Member{ID: m.ID, Boot: m.Boot, Version: "x"}}}
			}
			if _, err := m.Node.Propose(ctx, c); err != nil {
				t.Fatalf("propose at %s: %v", m.Name, err)
			}
		}
		old := r.Coordinator()
		r.Kill(old)
		took = r.Wait(10*time.Second, "another coordinator", func() bool { c := r.Coordinator(old); return c != nil })
		t.Logf("another coordinator after %s", took)
		for _, m := range r.Members {
			if m == old || m.Class == id.Edge {
				continue
			}
			if _, err := m.Node.Propose(ctx, token("after-"+m.Name)); err != nil {
				t.Fatalf("propose at %s after the kill: %v", m.Name, err)
			}
		}
		r.Start(old)
		r.Wait(10*time.Second, "the killed one to follow", func() bool {
			_, ok := old.Node.View().Token("after-n2")
			_, ok2 := old.Node.View().Token("after-n3")
			_, ok1 := old.Node.View().Token("after-n1")
			n := 0
			for _, b := range []bool{ok, ok1, ok2} {
				if b {
					n++
				}
			}
			return n == 2
		})
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		c := r.Coordinator()
		for _, m := range r.Members[:3] {
			if m == c {
				continue
			}
			var want, got leader.Digest
			r.Wait(5*time.Second, m.Name+" to be where the coordinator is", func() bool {
				var err error
				want = c.Node.Digest()
				if got, err = c.Node.DigestOf(ctx, m.ID, want.Index); err != nil {
					t.Fatal(err)
				}
				return got.Index == want.Index
			})
			if got.Digest != want.Digest {
				t.Fatalf("%s has another state at %d", m.Name, got.Index)
			}
		}
	})
}
