package leader_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/leader"
	"github.com/ringagent/ringagent/leader/leadertest"
	"github.com/ringagent/ringagent/leader/state"
)

// lines are the log of several nodes.
type lines struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.Write(p)
}

// twice is a key that a line has twice, or "".
func twice(line []byte) (string, error) {
	d := json.NewDecoder(bytes.NewReader(line))
	if _, err := d.Token(); err != nil {
		return "", err
	}
	seen := map[string]bool{}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return "", err
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return "", err
		}
		name := fmt.Sprint(key)
		if seen[name] {
			return name, nil
		}
		seen[name] = true
	}
	return "", nil
}

// Whoever reads the log by its keys finds each of them once in a line, and finds a singleton that was taken away called so.
func TestLogLines(t *testing.T) {
	t.Parallel()
	var log lines
	wanted := []leader.Singleton{{Name: "A", Enabled: func(s ring.Settings) bool { return s.Workload != "off" }}}
	o := leadertest.Options{Core: 3, Edge: 1, Voters: 3, Singletons: wanted, Config: func(m *leadertest.Member, c *leader.Config) {
		c.Log = zerolog.New(&log).With().Str("node", m.Name).Logger()
	}}
	bubble(t, o, func(t *testing.T, r *leadertest.Ring) {
		r.Wait(20*time.Second, "three voters", voters(r, 3))
		r.Wait(10*time.Second, "the singleton held", allHeld(r, nil, "A"))
		settings, version := r.Coordinator().Node.View().Settings()
		settings.Workload = "off"
		off := state.Command{Kind: state.KindSettings, Body: state.PutSettings{Expect: version, Settings: settings}}
		if _, err := r.Coordinator().Node.Propose(t.Context(), off); err != nil {
			t.Fatal(err)
		}
		r.Wait(10*time.Second, "the singleton taken away", func() bool {
			log.mu.Lock()
			defer log.mu.Unlock()
			return bytes.Contains(log.all.Bytes(), []byte(`"reason":"not wanted"`))
		})
		r.Kill(r.Coordinator())
		r.Wait(20*time.Second, "another coordinator", func() bool { return r.Coordinator() != nil })
	})
	log.mu.Lock()
	defer log.mu.Unlock()
	said := map[string]int{}
	for in := bufio.NewScanner(&log.all); in.Scan(); {
		key, err := twice(in.Bytes())
		if key != "" || err != nil {
			t.Errorf("%q twice, %v: %s", key, err, in.Bytes())
		}
		var line struct{ Message, Reason string }
		if err := json.Unmarshal(in.Bytes(), &line); err != nil {
			t.Fatal(err)
		}
		said[line.Message]++
		if line.Message == "singleton assigned" && line.Reason == "not wanted" {
			t.Errorf("taken away, but told as: %s", in.Bytes())
		}
	}
	for _, want := range []string{"voters changed", "singleton assigned", "singleton taken away"} {
		if said[want] == 0 {
			t.Errorf("%q was not said", want)
		}
	}
}
