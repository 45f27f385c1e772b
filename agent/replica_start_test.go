package agent

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/ringagent/ringagent/agent/config"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/leader/state"
	"github.com/ringagent/ringagent/mesh/meshtest"
)

// lone opens the only node of a ring in a folder that Init has prepared, and runs what its log needs until stop.
func lone(t *testing.T, c config.Config, f Faults) (a *Agent, stop func()) {
	t.Helper()
	a, err := New(c, Options{Log: zerolog.Nop(), Network: meshtest.New(1).Host("127.0.7.1"), Faults: f})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() {
		done <- runParts(ctx, part{"mesh", a.mesh.Run}, part{"leader", a.leader.Run}, part{"event replica", a.replica.Run}, part{"outbox", a.outbox.Run})
	}()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		<-done
		_ = a.local.close()
		a.dir.close()
	}
	t.Cleanup(stop)
	return a, stop
}

// until polls until ok holds.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
	defer cancel()
	for !ok() {
		if !pause(ctx, 10*time.Millisecond) {
			t.Fatalf("never: %s", what)
		}
	}
}

// The larger events.db is, the longer it takes to open. A ring of one elects itself meanwhile and applies its log again; of
// what is placed then nobody else ever gets a copy. Here the file is gone, so that all of it is needed.
func TestReplicaOfALoneNodeMissesNothingWhileItOpens(t *testing.T) {
	t.Parallel()
	c := config.Default(t.TempDir())
	c.NodeName, c.Listen, c.Class = "c1", "127.0.7.1:8770", id.Core
	if err := os.WriteFile(filepath.Join(c.DataDir, "ballast"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(c.DataDir, "ballast"), ballastBytes); err != nil {
		t.Fatal(err)
	}
	s := config.DefaultRing()
	s.Timing = ring.TimingDev
	if _, err := Init("test", c, s); err != nil {
		t.Fatal(err)
	}
	a, stop := lone(t, c, Faults{})
	for i := range 3 {
		until(t, "a settings change", func() bool {
			s.Workload = fmt.Sprintf("workload: %d", i)
			_, version := a.leader.View().Settings()
			_, err := a.leader.Propose(t.Context(), a.command(state.KindSettings, state.PutSettings{Expect: version, Settings: s}))
			return err == nil
		})
	}
	before := a.leader.View().LogHead().Seq
	until(t, "a replica with everything", func() bool { return a.replica.Durable() >= before })
	stop()
	if err := os.Remove(a.dir.path("events.db")); err != nil {
		t.Fatal(err)
	}

	a, _ = lone(t, c, Faults{openReplica: func(a *Agent) {
		if a.leader != nil { // it runs already: give it all the time it needs to get ahead
			until(t, "the log applied again while the replica opens", func() bool { return a.leader.View().LogHead().Seq >= before })
		}
	}})
	until(t, "a coordinator", func() bool { return a.leader.View().LogHead().Seq > before })
	until(t, "a replica with everything", func() bool { return a.replica.Durable() >= a.leader.View().LogHead().Seq })
	if st := a.replica.Status(); st.Oldest != 1 || st.Last != st.Target {
		t.Errorf("the replica reaches from %d to %d of %d", st.Oldest, st.Last, st.Target)
	}
}
