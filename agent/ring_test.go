package agent_test

import (
	"testing"
	"time"

	"github.com/ringagent/ringagent/agent/agenttest"
)

func TestRingOfAgents(t *testing.T) {
	t.Parallel()
	begin := time.Now()
	r := agenttest.Prepare(t, agenttest.Options{Core: 3, Edge: 1})
	for _, n := range r.Nodes() {
		n.Enrol()
		t.Logf("%s enrolled %s", n.Name, time.Since(begin))
		n.Start()
		t.Logf("%s started %s", n.Name, time.Since(begin))
	}
	r.Settled()
	t.Logf("settled after %s", time.Since(begin))
	lead := r.Coordinator()
	begin = time.Now()
	lead.Kill()
	t.Logf("killed in %s", time.Since(begin))
	begin = time.Now()
	next := r.Coordinator()
	t.Logf("%s coordinates after %s", next.Name, time.Since(begin))
	lead.Start()
	r.Settled()
	t.Logf("back after %s", time.Since(begin))
}
