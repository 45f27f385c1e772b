package agent_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/ringagent/ringagent/agent"
	"github.com/ringagent/ringagent/agent/agenttest"
	"github.com/ringagent/ringagent/agent/config"
	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/internal/id"
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

// A query that says no is not taken for a yes, and one that says neither is told so, before any answer has begun.
func TestQueriesSayYesOrNo(t *testing.T) {
	t.Parallel()
	r := agenttest.Start(t, agenttest.Options{Specs: base()})
	n := r.Node("c1")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, path := range []string{
		"/api/v1/events?after=0&follow", "/api/v1/work?all", "/api/v1/models?history", "/api/v1/daemons?all", "/api/v1/events/verify?all",
	} {
		field := path[strings.LastIndexAny(path, "?&")+1:]
		for _, no := range []string{"0", "false"} { // a follower would not be answered in whole
			if status, body, err := ask(ctx, n, path+"="+no); err != nil || status != http.StatusOK {
				t.Errorf("%s=%s: %d %s, %v", path, no, status, body, err)
			}
		}
		for _, bad := range []string{"", "perhaps"} {
			status, body, err := ask(ctx, n, path+"="+bad)
			if err != nil || status != http.StatusBadRequest || !strings.Contains(body, `"code":"invalid","message":"`+field+" ") {
				t.Errorf("%s=%s: %d %s, %v", path, bad, status, body, err)
			}
		}
	}
}

// What a running agent does not take over is named, also at a second reload that changes nothing more.
func TestReloadNamesWhatWaits(t *testing.T) {
	t.Parallel()
	var conf atomic.Pointer[config.Config]
	var log logLines
	r := agenttest.Start(t, agenttest.Options{
		Specs:  base(),
		Config: func(_ string, c *config.Config) { copied := *c; conf.Store(&copied) },
		Agent: func(_ string, o *agent.Options) {
			o.Log = zerolog.New(&log)
			o.Reload = func() (config.Config, error) { return *conf.Load(), nil }
		},
	})
	n := r.Node("c1")
	n.Reload()
	if got := log.last("config reloaded"); got == "" || strings.Contains(got, "after_restart") {
		t.Errorf("nothing was changed: %s", got)
	}
	next := *conf.Load()
	next.Labels, next.FailureDomain, next.Advertise = map[string]string{"a": "b"}, "rack7", "127.0.0.9:9"
	next.Profile, next.Gossip, next.Log.Format, next.Class = "minimal", "wan", "console", id.Edge
	conf.Store(&next)
	for range 2 {
		n.Reload()
		want := `"after_restart":["advertise","profile","failure_domain","labels","gossip","log.format"]`
		if got := log.last("config reloaded"); !strings.Contains(got, want) {
			t.Errorf("%s; want %s", got, want)
		}
	}
	if log.last("the class is what the join token gave") == "" {
		t.Error("nothing is said of the class")
	}
}

// logLines is a log that can be read while it is written.
type logLines struct {
	mu    sync.Mutex
	lines []string
}

// Write implements io.Writer.
func (l *logLines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, string(p))
	return len(p), nil
}

func (l *logLines) last(with string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := len(l.lines) - 1; i >= 0; i-- {
		if strings.Contains(l.lines[i], with) {
			return l.lines[i]
		}
	}
	return ""
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
