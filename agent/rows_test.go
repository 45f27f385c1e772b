package agent_test

import (
	"context"
	"encoding/json"
	"strings"

	"github.com/ringagent/ringagent/agent/agenttest"
	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/id"
)

// daemonRows are a node's rows and the ring's singletons, by name.
func daemonRows(ctx context.Context, n *agenttest.Node) (map[string]api.DaemonRow, error) {
	var d api.Daemons
	if err := n.Client().Get(ctx, "/api/v1/daemons", nil, &d); err != nil {
		return nil, err
	}
	out := map[string]api.DaemonRow{}
	for _, row := range d.Daemons {
		out[row.Name] = row
	}
	return out, nil
}

func digest(c byte) id.Digest { return id.Digest(strings.Repeat(string(c), 64)) }

func conditionOf(r event.Record) string {
	var b event.Blocked
	_ = json.Unmarshal(r.Payload, &b)
	return b.Condition
}
