package agent_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"sync"
	"testing"

	"github.com/ringagent/ringagent/agent/agenttest"
	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/mesh/meshtest"
)

// A voter that was started again without quorum has an empty state. It must not pass that off for the ring's: what it cannot know
// it says to be unknown, while one that has heard a coordinator goes on showing what it knew, and how old that is.
func TestRestartedVoterWithoutQuorumSaysUnknown(t *testing.T) {
	t.Parallel()
	r := agenttest.Start(t, agenttest.Options{Core: 3, Edge: 1, Specs: base()})
	c1, c3, e1 := r.Node("c1"), r.Node("c3"), r.Node("e1")
	var file api.Artifact
	r.Until("a file stored", func(ctx context.Context) error {
		return c1.Client().Upload(ctx, "/api/v1/artifacts", url.Values{"kind": {"file"}}, bytes.NewReader([]byte("something")), &file)
	})
	own := []string{"/api/v1/artifacts", "/api/v1/artifacts/" + string(file.SHA256), "/api/v1/dlq"} // of what is here, something can be told
	reads := []string{
		"/api/v1/games", "/api/v1/artifacts/under-replicated", "/api/v1/models", "/api/v1/ratings", "/api/v1/work", "/api/v1/tokens", "/api/v1/settings",
	}
	knows := func(ctx context.Context, n *agenttest.Node) error {
		for _, path := range append(own, reads...) {
			if err := n.Client().Get(ctx, path, nil, nil); err != nil {
				return fmt.Errorf("%s at %s: %w", path, n.Name, err)
			}
		}
		return nil
	}
	for _, n := range []*agenttest.Node{c1, c3, e1} {
		r.Until(n.Name+" knows the state", func(ctx context.Context) error { return knows(ctx, n) })
	}

	r.Node("c2").Kill()
	c1.Kill()
	r.Until("c3 knows that nobody coordinates", func(ctx context.Context) error { return alone(ctx, c3) })
	must(t, knows(t.Context(), c3)) // it knew before
	var old api.Artifacts
	must(t, c3.Client().Get(t.Context(), "/api/v1/artifacts", nil, &old))
	if old.AsOf.AsOf.At == nil || len(old.Artifacts) != 1 {
		t.Errorf("a voter that lost the others: %+v", old)
	}

	// c1 knows nothing and finds nobody to tell it; the edge node, which sees both, is answered by c3.
	r.Net.Partition([]*meshtest.Host{c1.Host}, []*meshtest.Host{c3.Host})
	c1.Start()
	r.Until("c1 and e1 see one another", func(ctx context.Context) error {
		var s api.Status
		if err := c1.Client().Get(ctx, "/api/v1/status", nil, &s); err != nil || s.Members["alive"] < 2 {
			return fmt.Errorf("%+v, %v", s.Members, err)
		}
		return nil
	})
	var seen api.Artifacts
	must(t, e1.Client().Get(t.Context(), "/api/v1/artifacts", nil, &seen))
	if len(seen.Artifacts) != 1 || seen.AsOf.AsOf.At == nil {
		t.Errorf("an edge node that sees both: %+v", seen)
	}
	c3.Kill()
	var group sync.WaitGroup
	for _, path := range append(reads, "/api/v1/work/nothing", "/api/v1/daemons/EVENT_ROUTER/explain") {
		group.Go(func() { // each waits for a coordinator
			var e *api.Error
			if err := c1.Client().Get(t.Context(), path, nil, nil); !errors.As(err, &e) || e.Code != api.CodeNoQuorum || e.Hint == "" {
				t.Errorf("%s: %v, want that it is not known", path, err)
			}
		})
	}
	for _, path := range own {
		group.Go(func() {
			var out struct {
				OnlyHere  bool           `json:"only_here"`
				Artifacts []api.Artifact `json:"artifacts"`
			}
			err := c1.Client().Get(t.Context(), path, nil, &out)
			if n := len(out.Artifacts); err != nil || !out.OnlyHere || path != "/api/v1/dlq" && (n != 1 || out.Artifacts[0].Names != nil) {
				t.Errorf("%s: %+v, %v; want what is here, and that it is no more", path, out, err)
			}
		})
	}
	group.Wait()
	var e *api.Error
	if err := e1.Client().Get(t.Context(), "/api/v1/games", nil, nil); !errors.As(err, &e) || e.Code != api.CodeNoQuorum {
		t.Errorf("an edge node that only sees the one that knows nothing: %v", err)
	}
	var s struct {
		Work map[string]*int `json:"work"`
		AsOf json.RawMessage `json:"as_of"`
	}
	must(t, c1.Client().Get(t.Context(), "/api/v1/status", nil, &s))
	if n, ok := s.Work["pending"]; !ok || n != nil || string(s.AsOf) != "null" {
		t.Errorf("status: work %v, as_of %q; want null", s.Work, s.AsOf)
	}
	var l struct {
		CommitIndex json.RawMessage `json:"commit_index"`
		Voters      []string        `json:"voters"`
		AsOf        json.RawMessage `json:"as_of"`
	}
	must(t, c1.Client().Get(t.Context(), "/api/v1/leader", nil, &l))
	if string(l.CommitIndex) != "null" || string(l.AsOf) != "null" || len(l.Voters) != 3 || len(l.Voters[0]) != 2 {
		t.Errorf("leader: %+v; want null, and the voters by name", l)
	}
	var d api.Daemons
	must(t, c1.Client().Get(t.Context(), "/api/v1/daemons", nil, &d))
	if !d.AsOf.AsOf.Unknown {
		t.Errorf("daemons as of %+v", d.AsOf)
	}
	must(t, c1.Client().Get(t.Context(), "/api/v1/daemons", url.Values{"node": {"c3"}}, nil)) // its name is on the disk

	r.Heal()
	c3.Start()
	r.Until("all is known again", func(ctx context.Context) error { return errors.Join(knows(ctx, c1), knows(ctx, c3), knows(ctx, e1)) })
}

// alone says that a node knows of no coordinator.
func alone(ctx context.Context, n *agenttest.Node) error {
	var l api.Leader
	if err := n.Client().Get(ctx, "/api/v1/leader", nil, &l); err != nil || l.Coordinator != nil {
		return fmt.Errorf("%+v, %v", l, err)
	}
	return nil
}

// The only voter of a ring coordinates a second or two after its start. Who asks before waits for that, and is not shown nothing.
func TestReadOfALoneVoterWaitsForItsElection(t *testing.T) {
	t.Parallel()
	r := agenttest.Start(t, agenttest.Options{Core: 1, Specs: base()})
	c1 := r.Node("c1")
	r.Until("a file stored", func(ctx context.Context) error {
		return c1.Client().Upload(ctx, "/api/v1/artifacts", url.Values{"kind": {"file"}}, bytes.NewReader([]byte("something")), nil)
	})
	c1.Restart(true)
	r.Until("an answer", func(ctx context.Context) error {
		var as api.Artifacts
		if err := c1.Client().Get(ctx, "/api/v1/artifacts", nil, &as); err != nil {
			return err
		}
		if len(as.Artifacts) != 1 || as.AsOf.AsOf.Unknown {
			t.Errorf("the first answer: %+v", as)
		}
		return nil
	})
}
