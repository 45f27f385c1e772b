package agent_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/ringagent/ringagent/agent/agenttest"
	"github.com/ringagent/ringagent/agent/api"
)

// A byte flipped in one replica's file is found by the check over all nodes, which names the node and the seq.
func TestVerifyFindsFlippedByte(t *testing.T) {
	t.Parallel()
	r := agenttest.Start(t, agenttest.Options{Core: 1, Edge: 1, Specs: base()})
	c1, e1 := r.Node("c1"), r.Node("e1")
	for i := range 5 {
		mustNote(t, r, c1, fmt.Sprintf("ordinary %d", i))
	}
	p, err := note(t.Context(), c1, "the-byte-to-flip", true)
	if err != nil {
		t.Fatal(err)
	}
	mustNote(t, r, c1, "after it")
	verify := func(ctx context.Context) (v api.Verify, err error) {
		err = c1.Client().Get(ctx, "/api/v1/events/verify", map[string][]string{"all": {"true"}}, &v)
		return v, err
	}
	r.Until("two whole replicas", func(ctx context.Context) error {
		v, err := verify(ctx)
		if err == nil && (!sound(v.OK) || len(v.Nodes) != 2 || *v.Nodes[1].LastSeq <= *p.Seq) {
			err = fmt.Errorf("%+v", v)
		}
		return err
	})
	e1.Stop()
	flip(t, filepath.Join(e1.Dir, "events.db"), "the-byte-to-flip")
	e1.Start()
	r.Until("the bad replica is named", func(ctx context.Context) error {
		v, err := verify(ctx)
		if err != nil {
			return err
		}
		if v.OK == nil || *v.OK || len(v.Nodes) != 2 {
			return fmt.Errorf("nodes %+v", v.Nodes)
		}
		bad := v.Nodes[1]
		if !sound(v.Nodes[0].OK) || bad.Node != "e1" || bad.FirstBad == nil || *bad.FirstBad != *p.Seq {
			return fmt.Errorf("want e1 at seq %d, got %+v", *p.Seq, v.Nodes)
		}
		return nil
	})
}

func sound(ok *bool) bool { return ok != nil && *ok }

// A node that does not answer is no bad replica, and no good one either: not while gossip still waits for it, nor when it has failed.
// Once it is shut out nobody counts on its copy.
func TestVerifyTellsOfSilentNodes(t *testing.T) {
	t.Parallel()
	r := agenttest.Start(t, agenttest.Options{Core: 1, Edge: 2, Specs: base()})
	c1, e1, e2 := r.Node("c1"), r.Node("e1"), r.Node("e2")
	mustNote(t, r, c1, "something")
	verify := func(ctx context.Context) (v api.Verify) {
		t.Helper()
		must(t, c1.Client().Get(ctx, "/api/v1/events/verify", map[string][]string{"all": {"true"}}, &v))
		return v
	}
	whole := func(nodes int) func(context.Context) error {
		return func(ctx context.Context) error {
			if v := verify(ctx); !sound(v.OK) || len(v.Nodes) != nodes {
				return fmt.Errorf("%+v", v)
			}
			return nil
		}
	}
	r.Until("three whole replicas", whole(3))
	e1.Kill()
	failed := func(ctx context.Context) bool {
		var ms api.Members
		must(t, c1.Client().Get(ctx, "/api/v1/members", nil, &ms))
		return slices.ContainsFunc(ms.Members, func(m api.Member) bool { return m.Name == "e1" && m.Status == "failed" })
	}
	r.Until("e1 has failed", func(ctx context.Context) error {
		gone := failed(ctx)
		v := verify(ctx)
		if v.OK != nil || len(v.Nodes) != 3 || v.Nodes[1].Node != "e1" || v.Nodes[1].OK != nil || v.Nodes[1].LastSeq != nil || v.Nodes[1].Error == "" || !sound(v.Nodes[2].OK) {
			t.Fatalf("with a silent node (failed: %v): %+v", gone, v)
		}
		if !gone {
			return errors.New("not yet")
		}
		return nil
	})
	e1.Start()
	r.Until("three whole replicas again", whole(3))
	e2.Kill()
	must(t, c1.Client().Post(t.Context(), "/api/v1/force-leave", map[string]any{"node": "e2"}, nil))
	r.Until("two whole replicas", whole(2))
}

// flip changes one bit in every place of a file where a text stands; there may be stale pages with copies of it.
func flip(t *testing.T, path, text string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for at := 0; ; found++ {
		i := bytes.Index(b[at:], []byte(text))
		if i < 0 {
			break
		}
		at += i
		b[at+3] ^= 1
		at += len(text)
	}
	if found == 0 {
		t.Fatalf("%q does not stand in %s", text, path)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(b, 0); err != nil {
		t.Fatal(err)
	}
}
