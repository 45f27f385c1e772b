package agent_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/ringagent/ringagent/agent"
	"github.com/ringagent/ringagent/agent/agenttest"
	"github.com/ringagent/ringagent/agent/config"
	"github.com/ringagent/ringagent/daemons/kit"
)

// A critical daemon that does not run makes the node unready, by name; the process is alive all the while, and nobody must
// kill it for that. A daemon that is not critical makes no difference.
func TestFailedCriticalDaemonMakesUnready(t *testing.T) {
	t.Parallel()
	var whole atomic.Bool
	failing := func(ctx context.Context, _ kit.Env) error {
		if !whole.Load() {
			return errors.New("not yet")
		}
		<-ctx.Done()
		return nil
	}
	vital, minor := everywhere("TEST_VITAL", failing), everywhere("TEST_MINOR", func(context.Context, kit.Env) error { return errors.New("never") })
	vital.Critical = true
	r := agenttest.Start(t, agenttest.Options{Specs: base(vital, minor)})
	n := r.Node("c1")
	is := func(want int, named string) {
		t.Helper()
		r.Until(fmt.Sprintf("/readyz is %d %s", want, named), func(ctx context.Context) error {
			status, body, err := ask(ctx, n, "/readyz")
			if err != nil {
				return err
			}
			if strings.Contains(body, "TEST_MINOR") {
				t.Fatalf("a daemon that is not critical makes unready: %s", body)
			}
			if status != want || !strings.Contains(body, named) {
				return fmt.Errorf("%d %s", status, body)
			}
			return nil
		})
		status, body, err := ask(t.Context(), n, "/healthz")
		if err != nil || status != http.StatusOK || !strings.Contains(body, `"alive":true`) {
			t.Errorf("/healthz is %d %s, %v", status, body, err)
		}
	}
	is(http.StatusServiceUnavailable, "TEST_VITAL")
	whole.Store(true)
	is(http.StatusOK, `"ready":true`)
}

// What a reload says that it took over is taken over: here, whether reading on loopback is free.
func TestReloadClosesLoopback(t *testing.T) {
	t.Parallel()
	var conf atomic.Pointer[config.Config]
	r := agenttest.Start(t, agenttest.Options{
		Specs:  base(),
		Config: func(_ string, c *config.Config) { copied := *c; conf.Store(&copied) },
		Agent: func(_ string, o *agent.Options) {
			o.Reload = func() (config.Config, error) { return *conf.Load(), nil }
		},
	})
	n := r.Node("c1")
	for _, open := range []bool{true, false, true} {
		next := *conf.Load()
		next.API.LoopbackOpen = &open
		conf.Store(&next)
		n.Reload()
		want := http.StatusOK
		if !open {
			want = http.StatusUnauthorized
		}
		if status, body, err := ask(t.Context(), n, "/api/v1/members"); err != nil || status != want {
			t.Errorf("loopback_open %v: %d %s, %v; want %d", open, status, body, err, want)
		}
		if status, _, err := ask(t.Context(), n, "/healthz"); err != nil || status != http.StatusOK {
			t.Errorf("loopback_open %v: /healthz is %d, %v", open, status, err)
		}
	}
}

// A row of a singleton says null where there is no standby, as it does where there is no holder.
func TestSingletonRowsSayNull(t *testing.T) {
	t.Parallel()
	r := agenttest.Start(t, agenttest.Options{Specs: base(singleton("TEST_SINGLE", func(ctx context.Context, _ kit.Env) error {
		<-ctx.Done()
		return nil
	}))})
	var out struct {
		Daemons []map[string]any `json:"daemons"`
	}
	if err := r.Node("c1").Client().Get(t.Context(), "/api/v1/daemons", nil, &out); err != nil {
		t.Fatal(err)
	}
	for _, row := range out.Daemons {
		if row["name"] != "TEST_SINGLE" {
			continue
		}
		for _, key := range []string{"node", "epoch", "standby"} {
			if _, ok := row[key]; !ok {
				t.Errorf("no %s in %v", key, row)
			}
		}
		if row["standby"] != nil {
			t.Errorf("standby of a ring of one: %v", row["standby"])
		}
		return
	}
	t.Errorf("no row of TEST_SINGLE in %v", out.Daemons)
}
