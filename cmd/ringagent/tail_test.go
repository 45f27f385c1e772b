package main

import (
	"bytes"
	"context"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/ringagent/ringagent/agent/agenttest"
)

// stopper is a reader of a stream that has seen enough once there is something to see.
type stopper struct {
	bytes.Buffer
	stop func()
}

func (s *stopper) Write(p []byte) (int, error) {
	defer s.stop()
	return s.Buffer.Write(p)
}

// TestFollowerThatIsStopped has done its work; one that was to end by itself has not.
func TestFollowerThatIsStopped(t *testing.T) {
	r := agenttest.Start(t, agenttest.Options{})
	socket := filepath.Join(r.Node("c1").Dir, "agent.sock")
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	out, stderr := &stopper{stop: stop}, &bytes.Buffer{}
	args := []string{"ringagent", "--socket", socket, "events", "tail", "--json", "--from-start"}
	if exit := run(ctx, append(args, "-f"), strings.NewReader(""), out, stderr); exit != 0 || stderr.Len() > 0 || !strings.HasSuffix(out.String(), "}\n") {
		t.Errorf("exit %d, %q: %s", exit, stderr, out)
	}
	if exit := run(ctx, args, strings.NewReader(""), out, stderr); exit == 0 {
		t.Error("a tail that was cut short is a success")
	}
}

// TestFollowerWhoseAgentEnds has not been told to stop: a script has to know that nothing more will come.
func TestFollowerWhoseAgentEnds(t *testing.T) {
	r := agenttest.Start(t, agenttest.Options{})
	n := r.Node("c1")
	seen := make(chan struct{})
	var once sync.Once
	out, stderr := &stopper{stop: func() { once.Do(func() { close(seen) }) }}, &bytes.Buffer{}
	exit := make(chan int, 1)
	go func() {
		exit <- run(t.Context(), []string{"ringagent", "--socket", filepath.Join(n.Dir, "agent.sock"), "events", "tail", "--from-start", "-f"},
			strings.NewReader(""), out, stderr)
	}()
	<-seen
	n.Stop()
	if got := <-exit; got != 3 || !strings.Contains(stderr.String(), "agent") {
		t.Errorf("exit %d: %s", got, stderr)
	}
}
