package agent_test

import (
	"context"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ringagent/ringagent/agent/agenttest"
	"github.com/ringagent/ringagent/daemons/kit"
)

// metricsOf is what a node's /metrics prints.
func metricsOf(ctx context.Context, n *agenttest.Node) (string, error) {
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(n.Dir, "agent.sock"))
	}}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost/metrics", nil)
	if err != nil {
		return "", err
	}
	res, err := c.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return string(b), err
}

// TestFiguresOfDaemonsAreMetrics as long as they are known and their daemon runs.
func TestFiguresOfDaemonsAreMetrics(t *testing.T) {
	t.Parallel()
	figures := make(chan float64)
	r := agenttest.Start(t, agenttest.Options{Core: 1, Specs: base(everywhere("FIGURES", func(ctx context.Context, env kit.Env) error {
		for {
			select {
			case v := <-figures:
				env.Gauge("cows", v)
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}))})
	c1 := r.Node("c1")
	const line = `ringagent_daemon_figure{daemon="FIGURES",figure="cows"}`
	shows := func(want string) {
		t.Helper()
		r.Until("metrics with cows "+want, func(ctx context.Context) error {
			all, err := metricsOf(ctx, c1)
			if err != nil {
				return err
			}
			_, rest, _ := strings.Cut(all, line)
			if v, _, _ := strings.Cut(strings.TrimSpace(rest), "\n"); v != want {
				return fmt.Errorf("shows %q", v)
			}
			return nil
		})
	}
	figures <- 3
	shows("3")
	figures <- math.NaN()
	shows("")
	figures <- 4
	shows("4")
	if err := c1.Client().Post(t.Context(), "/api/v1/daemons/FIGURES/stop", nil, nil); err != nil {
		t.Fatal(err)
	}
	shows("")
}

// TestRoomForArtifactsIsAMetric so that somebody sees weeks ahead when the ring will be full.
func TestRoomForArtifactsIsAMetric(t *testing.T) {
	t.Parallel()
	r := agenttest.Start(t, agenttest.Options{Core: 1, Specs: base()})
	r.Until("metrics with the room for artifacts", func(ctx context.Context) error {
		all, err := metricsOf(ctx, r.Node("c1"))
		if err != nil {
			return err
		}
		for _, line := range []string{"\nringagent_artifacts 0\n", "\nringagent_artifacts_left 400000\n"} {
			if !strings.Contains(all, line) {
				return fmt.Errorf("no line %q", strings.TrimSpace(line))
			}
		}
		return nil
	})
}
