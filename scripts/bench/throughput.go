package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ringagent/ringagent/agent/api"
)

// wanted is the least rate of 64 publishers with 16 in flight each.
const wanted = 50000

// aimedRuns is how often what has an aim is done: on a shared machine one run says little.
const aimedRuns = 3

// longWait is from when on the longest wait of a run is printed, beside those of the machine.
const longWait = 100 * time.Millisecond

// throughput publishes 512-byte payloads into a ring of three voters: from inside one agent, at the coordinator and at
// another voter, and through the HTTP API.
func throughput(ctx context.Context, o options, t *table) error {
	r, err := startRing(ctx, o, ringSpec{core: 3, inside: true})
	defer r.close()
	if err != nil {
		return err
	}
	lead, err := r.coordinator(ctx, r.up())
	if err != nil {
		return err
	}
	other := r.nodes[0]
	if other == lead {
		other = r.nodes[1]
	}
	t.head("Events of 512 B, three voters, each with its own files; CPU is that of all three agents",
		"", "rate", "× fsync floor", "p50", "p99", "CPU/event", "aim")
	f, err := takeFloors(o.dir)
	if err != nil {
		return err
	}
	for _, at := range []struct {
		where string
		node  *node
	}{{"coordinator", lead}, {"another voter", other}} {
		for _, kind := range []struct {
			publishers, inFlight int
			wait                 bool
		}{{1, 1, false}, {64, 1, false}, {64, 16, false}, {1, 1, true}, {64, 1, true}, {64, 16, true}} {
			in := order{Publishers: kind.publishers, InFlight: kind.inFlight, Wait: kind.wait, For: o.seconds}
			word := "accepted"
			if in.Wait {
				word = "committed"
			}
			name := fmt.Sprintf("%s, %d×%d, at %s", word, in.Publishers, in.InFlight, at.where)
			if o.kind != "" && !strings.Contains(name, o.kind) {
				continue
			}
			runs := make([]measured, 1)
			if in.aimed() {
				runs = make([]measured, aimedRuns)
			}
			for i := range runs {
				if runs[i], err = r.once(ctx, o, at.node, in, fmt.Sprint(name, ", ", i+1)); err != nil {
					return fmt.Errorf("%s: %w", name, err)
				}
			}
			t.runs(name, runs, in, f)
		}
	}
	if o.kind != "" {
		return nil
	}
	if err := r.drained(ctx, lead); err != nil {
		return err
	}
	for _, c := range []int{1, 64} {
		name := fmt.Sprintf("committed, %d×1, POST /events on the socket", c)
		in := order{Publishers: c, InFlight: 16, Wait: true, For: o.seconds}
		out, used, err := r.charged(func() (outcome, error) { return overHTTP(ctx, lead, in) })
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		in.InFlight = 0 // no aim is set for it
		t.throughput(name, out, used, in, f)
	}
	return nil
}

// measured is what one run came to: all agents' processor time (0: unknown), and the longest waits of the machine meanwhile.
type measured struct {
	outcome
	used  time.Duration
	still stalls
}

func (m measured) perSecond() float64 { return float64(m.Events) / m.Took.Seconds() }

// once has a node publish, once everybody has what was published before.
func (r *testRing) once(ctx context.Context, o options, at *node, in order, name string) (m measured, err error) {
	if err := r.drained(ctx, at); err != nil {
		return m, err
	}
	if o.profiles != "" {
		in.Profile = r.profile(ctx, o.profiles, name, at, in.For)
	}
	stop, err := watchStalls(o.dir)
	if err != nil {
		return m, err
	}
	m.outcome, m.used, err = r.charged(func() (outcome, error) { return at.ask(ctx, in) })
	var stillErr error
	m.still, stillErr = stop()
	return m, errors.Join(err, stillErr)
}

// aimed says that there is an aim for an order.
func (in order) aimed() bool { return in.Wait && in.Publishers == 64 && in.InFlight > 0 }

// runs prints the median of several runs, for the aim, and beside it what the others came to.
func (t *table) runs(name string, all []measured, in order, f floors) {
	slices.SortFunc(all, func(a, b measured) int { return cmp.Compare(a.perSecond(), b.perSecond()) })
	m := all[len(all)/2]
	t.throughput(name, m.outcome, m.used, in, f)
	if len(all) > 1 {
		t.row(fmt.Sprintf("… the median of %d runs", len(all)), "the least", rate(all[0].perSecond()), "the most", rate(all[len(all)-1].perSecond()))
	}
	for _, m := range all {
		if m.Max > longWait {
			t.row(fmt.Sprintf("… longest %s; meanwhile longest", millis(m.Max)), m.still.columns()...)
		}
	}
}

func (t *table) throughput(name string, out outcome, used time.Duration, in order, f floors) {
	perSecond := float64(out.Events) / out.Took.Seconds()
	perEvent := "?"
	if used > 0 && out.Events > 0 {
		perEvent = micros(used / time.Duration(out.Events))
	}
	verdict := ""
	if in.aimed() {
		switch in.InFlight {
		case 1:
			want := 64 / (4 * f.fsync50.Seconds())
			verdict = t.aim(perSecond >= want, "%s: %.0f/s, wanted 64 ÷ (4 × fsync p50) = %.0f/s", name, perSecond, want) + fmt.Sprintf(" (%.0f)", want)
		case 16:
			verdict = t.aim(perSecond >= wanted, "%s: %.0f/s, wanted %d/s", name, perSecond, wanted) + fmt.Sprintf(" (%d)", wanted)
		}
	}
	t.row(name, rate(perSecond), times(perSecond*f.fsync50.Seconds()), millis(out.P50), millis(out.P99), perEvent, verdict)
}

// profile has all nodes but the publishing one write CPU profiles, and says where that one is to write its own.
func (r *testRing) profile(ctx context.Context, dir, run string, at *node, d time.Duration) string {
	run = strings.NewReplacer(" ", "-", ",", "", "×", "x").Replace(run)
	file := func(n *node) string { return filepath.Join(dir, run+"-"+n.name) }
	for _, n := range r.up() {
		if n != at {
			go func() { _, _ = n.ask(ctx, order{For: d, Profile: file(n)}) }()
		}
	}
	return file(at)
}

// charged runs f and returns with its outcome what CPU time all agents used meanwhile; 0 where that cannot be known.
func (r *testRing) charged(f func() (outcome, error)) (outcome, time.Duration, error) {
	before, known := r.cpu()
	out, err := f()
	after, still := r.cpu()
	if !known || !still {
		return out, 0, err
	}
	return out, after - before, err
}

func (r *testRing) cpu() (sum time.Duration, known bool) {
	for _, n := range r.up() {
		d, err := cpuOf(n.pid)
		if err != nil {
			return 0, false
		}
		sum += d
	}
	return sum, true
}

// drained waits until everything that a node has accepted is in everybody's copy of the log, so that one run does not pay
// for the one before it.
func (r *testRing) drained(ctx context.Context, at *node) error {
	if _, err := at.ask(ctx, order{Publishers: 1, Wait: true}); err != nil {
		return err
	}
	return until(ctx, "empty outboxes", func(ctx context.Context) error {
		var seq uint64
		for i, n := range r.up() {
			var s api.Status
			if err := n.client().Get(ctx, "/api/v1/status", nil, &s); err != nil {
				return err
			}
			if i > 0 && s.Events.LastSeq != seq || s.Events.Lag == nil || *s.Events.Lag > 0 {
				return fmt.Errorf("%s is at %d", n.name, s.Events.LastSeq)
			}
			seq = s.Events.LastSeq
		}
		return nil
	})
}

// overHTTP publishes through the API of a node, as other processes of the host do.
func overHTTP(ctx context.Context, n *node, in order) (outcome, error) {
	body, err := json.Marshal(api.Publish{Type: "OPERATOR_NOTE", Payload: payload(), Wait: true})
	if err != nil {
		return outcome{}, err
	}
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: in.Publishers, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", filepath.Join(n.dir, "agent.sock"))
	}}}
	defer client.CloseIdleConnections()
	var group sync.WaitGroup
	var over atomic.Bool
	var mu sync.Mutex
	var all []time.Duration
	var failed error
	begin := time.Now()
	defer time.AfterFunc(in.For, func() { over.Store(true) }).Stop()
	for range in.Publishers {
		group.Go(func() {
			var took []time.Duration
			var err error
			for !over.Load() && err == nil {
				began := time.Now()
				if err = post(ctx, client, body); err == nil {
					took = append(took, time.Since(began))
				}
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, took...)
			if err != nil && failed == nil {
				failed = err
			}
		})
	}
	group.Wait()
	return outcomeOf(all, begin), failed
}

func post(ctx context.Context, client *http.Client, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://agent/api/v1/events", bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode/100 != 2 {
		err = fmt.Errorf("publish: %s: %s", resp.Status, b)
	}
	return err
}
