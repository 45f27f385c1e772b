package kittest_test

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/daemons/kit/kittest"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// Whoever stores or fetches the same bytes at the same time is not in anybody's way, and nothing half written is left.
func TestSameBytesAreStoredByManyAtOnce(t *testing.T) {
	t.Parallel()
	r := kittest.New(t, c4)
	a, b := r.AddNode("a", id.Core, ring.Slots{}), r.AddNode("b", id.Core, ring.Slots{})
	spec := kit.Spec{Name: "X", Scope: kit.ScopeNode}
	for i := range 50 {
		path := filepath.Join(a.Dir(), "staging", fmt.Sprint(i))
		if err := os.WriteFile(path, []byte(path), 0o600); err != nil {
			t.Fatal(err)
		}
		m := r.AddArtifact(ring.KindModel, c4, path, nil, nil, a)
		var group sync.WaitGroup
		for range 4 {
			group.Go(func() {
				if d, _, err := a.Env(spec, "").Store.PutFile(t.Context(), path); err != nil || d != m.Digest {
					t.Errorf("put %s: %v", d.Short(), err)
				}
			})
			group.Go(func() {
				if err := b.Env(spec, "").Orders.Fetch(t.Context(), b.ID, m.Digest); err != nil {
					t.Errorf("fetch: %v", err)
				}
			})
		}
		group.Wait()
		if !a.Holds(m.Digest) || !b.Holds(m.Digest) || b.Fetched(m.Digest) != 1 {
			t.Errorf("a %v, b %v, %d transfers", a.Holds(m.Digest), b.Holds(m.Digest), b.Fetched(m.Digest))
		}
	}
	for _, n := range []*kittest.Node{a, b} {
		if left, _ := filepath.Glob(filepath.Join(n.Dir(), "blobs", "*.tmp")); len(left) > 0 {
			t.Errorf("left on %s: %v", n.Name, left)
		}
	}
}

// A copy that is dropped while it is fetched is either there with its receipt or gone with it.
func TestReceiptsFollowTheBytes(t *testing.T) {
	t.Parallel()
	r := kittest.New(t, c4)
	a, b := r.AddNode("a", id.Core, ring.Slots{}), r.AddNode("b", id.Core, ring.Slots{})
	env := b.Env(kit.Spec{Name: "X", Scope: kit.ScopeNode}, "")
	for i := range 200 {
		m := r.AddArtifact(ring.KindModel, c4, fmt.Sprint(i), nil, nil, a, b)
		var group sync.WaitGroup
		group.Go(func() {
			if err := env.Store.Drop(t.Context(), m.Digest, "deliberate"); err != nil {
				t.Errorf("drop: %v", err)
			}
		})
		group.Go(func() {
			if err := env.Orders.Fetch(t.Context(), b.ID, m.Digest); err != nil {
				t.Errorf("fetch: %v", err)
			}
		})
		group.Wait()
		if now, _ := r.View("").Library.Artifact(m.Digest); now.Held(b.ID) != b.Holds(m.Digest) {
			t.Fatalf("receipt %v, bytes %v", now.Held(b.ID), b.Holds(m.Digest))
		}
	}
}
