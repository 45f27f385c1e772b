package agent_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"testing"

	"github.com/ringagent/ringagent/agent/agenttest"
	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/internal/id"
)

// All core nodes are lost: what an edge node has itself can be listed and read, so that a new ring can have it, and what only the lost
// ones knew is said to be unknown.
func TestEdgeNodeAloneHandsOutWhatItHas(t *testing.T) {
	t.Parallel()
	r := agenttest.Start(t, agenttest.Options{Core: 1, Edge: 1, Specs: base()})
	c1, e1 := r.Node("c1"), r.Node("e1")
	put := func(n *agenttest.Node, kind string, b []byte) id.Digest {
		t.Helper()
		r.Until(kind+" stored on "+n.Name, func(ctx context.Context) error {
			return n.Client().Upload(ctx, "/api/v1/artifacts", url.Values{"kind": {kind}, "config": {"connect4_2p"}}, bytes.NewReader(b), nil)
		})
		return id.DigestOf(b)
	}
	games := packBytes(t, 0, 3)
	pack, model, file := put(e1, "games", games), put(c1, "model", modelBytes(t, 1)), put(e1, "file", []byte("of no kind that can be told"))
	fetched(t, e1, model)
	away := put(c1, "file", []byte("elsewhere"))
	r.Until("the edge node has a copy of its own", func(ctx context.Context) error {
		var ms api.Members
		if err := e1.Client().Get(ctx, "/api/v1/members", nil, &ms); err != nil || !ms.AsOf.AsOf.IsZero() {
			return fmt.Errorf("as of %+v, %v", ms.AsOf, err)
		}
		return nil
	})
	c1.Kill()

	list := func(kind string) map[id.Digest]api.Artifact {
		t.Helper()
		var as api.Artifacts
		must(t, e1.Client().Get(t.Context(), "/api/v1/artifacts", url.Values{"kind": {kind}}, &as))
		if !as.OnlyHere || !as.AsOf.AsOf.Unknown {
			t.Errorf("kind %q: only here %v, as of %+v", kind, as.OnlyHere, as.AsOf)
		}
		out := map[id.Digest]api.Artifact{}
		for _, a := range as.Artifacts {
			if a.Created != nil || a.Origin != nil || a.Wanted != nil || len(a.Holders) != 1 || a.Holders[0] != "e1" {
				t.Errorf("more is told than is known here: %+v", a)
			}
			out[a.SHA256] = a
		}
		return out
	}
	if got := list("games"); len(got) != 1 || got[pack].Config != "connect4_2p" || got[pack].Counters["games"] != 3 {
		t.Errorf("games: %+v", got)
	}
	if got := list("model"); len(got) != 1 || got[model].Config != "connect4_2p" {
		t.Errorf("models: %+v", got)
	}
	if got := list(""); len(got) != 3 || got[file].Kind != "" {
		t.Errorf("all: %+v", got)
	}

	var one api.Artifacts
	must(t, e1.Client().Get(t.Context(), "/api/v1/artifacts/"+string(pack[:8]), nil, &one))
	if len(one.Artifacts) != 1 || one.Artifacts[0].SHA256 != pack {
		t.Errorf("by prefix: %+v", one)
	}
	body, err := e1.Client().Stream(t.Context(), "/api/v1/blobs/"+string(pack), nil)
	must(t, err)
	got, err := io.ReadAll(body)
	body.Close()
	if err != nil || !bytes.Equal(got, games) {
		t.Errorf("%d bytes, %v; want the pack's %d", len(got), err, len(games))
	}

	var settings struct {
		Version uint64 `json:"version"`
		api.AsOf
	}
	must(t, e1.Client().Get(t.Context(), "/api/v1/settings", nil, &settings))
	if settings.Version == 0 || settings.AsOf.AsOf.At == nil {
		t.Errorf("settings: %+v", settings)
	}
	var models api.Models
	must(t, e1.Client().Get(t.Context(), "/api/v1/models", nil, &models))
	if models.AsOf.AsOf.At == nil {
		t.Errorf("models: %+v", models)
	}
	for _, path := range []string{"/api/v1/games", "/api/v1/work", "/api/v1/artifacts/under-replicated", "/api/v1/artifacts/" + string(away)} {
		var e *api.Error
		if err := e1.Client().Get(t.Context(), path, nil, nil); !errors.As(err, &e) || e.Code != api.CodeNoQuorum {
			t.Errorf("%s: %v; want that there is no coordinator", path, err)
		}
	}
}
