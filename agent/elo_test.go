package agent_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ringagent/ringagent/agent/agenttest"
	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/rating"
)

// Without quorum nobody can become a holder, and holders may be gone with the others: the ratings whose matches can be had
// are told, the rest is unknown and says why.
func TestRatingsWithoutQuorum(t *testing.T) {
	t.Parallel()
	r := agenttest.Start(t, agenttest.Options{Core: 3, Edge: 1, Specs: base()})
	r.Settled()
	c1 := r.Node("c1")
	put := func(n *agenttest.Node, c id.Config, player string) id.Digest {
		t.Helper()
		var b bytes.Buffer
		for i := range 4 {
			must(t, json.NewEncoder(&b).Encode(rating.Match{
				ID: fmt.Sprint(player, i), Time: time.Date(2026, 3, 1, 0, 0, i, 0, time.UTC), Config: string(c), A: player, B: "random", Score: 1,
			}))
		}
		r.Until("matches stored on "+n.Name, func(ctx context.Context) error {
			var out api.Artifact
			return n.Client().Upload(ctx, "/api/v1/artifacts", url.Values{"kind": {"matches"}, "config": {string(c)}}, bytes.NewReader(b.Bytes()), &out)
		})
		return id.DigestOf(b.Bytes())
	}
	near := put(r.Node("c3"), "connect4_2p", "near")
	fetched(t, r.Node("e1"), near)
	put(r.Node("c3"), "hex8_2p", "far")
	r.Until("c1 knows of both, and of the copy on e1", func(ctx context.Context) error {
		var as api.Artifacts
		if err := c1.Client().Get(ctx, "/api/v1/artifacts", url.Values{"kind": {"matches"}}, &as); err != nil || len(as.Artifacts) != 2 {
			return fmt.Errorf("%d artifacts, %v", len(as.Artifacts), err)
		}
		for _, a := range as.Artifacts {
			if a.SHA256 == near && !slices.Contains(a.Holders, "e1") {
				return fmt.Errorf("holders %v", a.Holders)
			}
		}
		return nil
	})
	r.Node("c2").Kill()
	r.Node("c3").Kill()
	r.Until("c1 knows that nobody coordinates", func(ctx context.Context) error {
		var l api.Leader
		if err := c1.Client().Get(ctx, "/api/v1/leader", nil, &l); err != nil || l.Coordinator != nil {
			return fmt.Errorf("%+v, %v", l, err)
		}
		return nil
	})
	var out api.Ratings
	must(t, c1.Client().Get(t.Context(), "/api/v1/ratings", nil, &out))
	known := map[string]bool{}
	for _, row := range out.Ratings {
		known[string(row.Config)+" "+row.Model] = row.Elo != nil
	}
	if len(known) != 2 || !known["connect4_2p near"] || !known["connect4_2p random"] {
		t.Errorf("ratings %v; want those of connect4_2p alone, whose matches a live node has", known)
	}
	if len(out.Missing) != 1 || out.Missing[0].Config != "hex8_2p" || !strings.Contains(out.Missing[0].Reason, "fetch") {
		t.Errorf("missing %+v; want the matches of hex8_2p with a reason", out.Missing)
	}
	if out.AsOf.AsOf.At == nil {
		t.Error("the answer does not say how old it is")
	}
}
