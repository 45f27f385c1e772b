package agent_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/ringagent/ringagent/agent"
	"github.com/ringagent/ringagent/agent/agenttest"
	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/agent/config"
	"github.com/ringagent/ringagent/daemons"
	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/deploy/workloads"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// leave asks a node to leave.
func leave(ctx context.Context, n *agenttest.Node, in api.Leave) (api.Departure, error) {
	var out api.Departure
	err := n.Client().Post(ctx, "/api/v1/leave", in, &out)
	return out, err
}

// statusAt is how node at sees another.
func statusAt(ctx context.Context, at *agenttest.Node, of string) (string, error) {
	var out api.Members
	if err := at.Client().Get(ctx, "/api/v1/members", nil, &out); err != nil {
		return "", err
	}
	for _, m := range out.Members {
		if m.Name == of {
			return m.Status, nil
		}
	}
	return "", fmt.Errorf("no member %s", of)
}

// gated is the built-in workload whose play begins only when the file is there.
func gated(t *testing.T, gate string) string {
	t.Helper()
	const play = `argv: ["{self}", workload, connect4, selfplay,`
	if !strings.Contains(workloads.Connect4, play) {
		t.Fatal("the built-in workload's selfplay stage has no argv as it used to")
	}
	wait := `argv: ["/bin/sh", "-c", "while [ ! -e ` + gate + ` ]; do sleep 0.05; done; exec \"$0\" \"$@\"", "{self}", workload, connect4, selfplay,`
	return strings.Replace(workloads.Connect4, play, wait, 1)
}

// playing is a ring whose edge node e1 has a job that plays as soon as the gate opens.
// sync is what the ring's settings say of EPHEMERAL_SYNC.
func playing(t *testing.T, sync string) (r *agenttest.Ring, item string, open func()) {
	t.Helper()
	gate := filepath.Join(t.TempDir(), "open")
	var specs []kit.Spec
	for _, name := range []string{"AUTO_SYNC", "EPHEMERAL_SYNC"} {
		s, _ := daemons.ByName(name)
		specs = append(specs, s)
	}
	r = agenttest.Start(t, agenttest.Options{
		Core: 2, Edge: 1, Specs: base(specs...),
		Settings: func(s *ring.Settings) {
			s.Workload, s.Configs = gated(t, gate), []id.Config{"connect4_2p"}
			s.Daemons = map[string]json.RawMessage{"EPHEMERAL_SYNC": json.RawMessage(sync)}
		},
		Config: func(name string, c *config.Config) {
			if name != "e1" {
				c.Slots.RAMMiB = 1 // too little for any job
			}
		},
	})
	var row api.WorkRow
	must(t, r.Node("c1").Client().Post(t.Context(), "/api/v1/work", api.AddWork{
		Type: "selfplay", Config: "connect4_2p", Params: map[string]string{"games": "3", "seed": "1", "simulations": "1"},
	}, &row))
	r.Until("the job runs", func(ctx context.Context) error { return inState(ctx, r, row.ID, ring.WorkRunning) })
	return r, row.ID, func() { must(t, os.WriteFile(gate, nil, 0o600)) }
}

func inState(ctx context.Context, r *agenttest.Ring, item string, want ring.WorkState) error {
	got, err := workItem(ctx, r, item)
	if err == nil && got.State != want {
		err = fmt.Errorf("it is %s: %s", got.State, got.Error)
	}
	return err
}

func workItem(ctx context.Context, r *agenttest.Ring, item string) (api.WorkRow, error) {
	var w api.WorkList
	if err := r.Node("c1").Client().Get(ctx, "/api/v1/work", map[string][]string{"all": {"true"}}, &w); err != nil {
		return api.WorkRow{}, err
	}
	for _, row := range w.Work {
		if row.ID == item {
			return row, nil
		}
	}
	return api.WorkRow{}, fmt.Errorf("no item %s", item)
}

// jobsLeft are the jobs in a node's folder without an exit status.
func jobsLeft(t *testing.T, n *agenttest.Node) []string {
	t.Helper()
	dirs, err := filepath.Glob(filepath.Join(n.Dir, "jobs", "*"))
	must(t, err)
	var out []string
	for _, d := range dirs {
		if _, err := os.Stat(filepath.Join(d, "status.json")); err != nil {
			out = append(out, d)
		}
	}
	return out
}

// TestStopBringsAwayWhatIsLeft: an agent that is told to end has the games pushed that were waiting for more, so that they do not
// go with the machine.
func TestStopBringsAwayWhatIsLeft(t *testing.T) {
	t.Parallel()
	r, item, open := playing(t, `{"every":"1h","batch":100}`)
	counted := func() int64 {
		t.Helper()
		var games api.Games
		must(t, r.Node("c1").Client().Get(t.Context(), "/api/v1/games", nil, &games))
		n := int64(0)
		for _, c := range games.Configs {
			n += c.Games
		}
		return n
	}
	open()
	r.Until("the item is done", func(ctx context.Context) error { return inState(ctx, r, item, ring.WorkDone) })
	if n := counted(); n != 0 {
		t.Fatalf("the ring has %d games before the stop: the test shows nothing", n)
	}
	r.Node("e1").Stop()
	if n := counted(); n != 3 { // not awaited: the agent ends after that
		t.Errorf("the ring has %d games of the node that was stopped, want 3", n)
	}
}

// TestLeaveDrainsFirst: a node that leaves with --drain is a member until its job has come to its own end and the games
// have their receipts; the item is done and not taken back.
func TestLeaveDrainsFirst(t *testing.T) {
	t.Parallel()
	r, item, open := playing(t, `{}`)
	e1 := r.Node("e1")
	is := func(want ring.Status) {
		t.Helper()
		r.Until("e1 is "+string(want), func(ctx context.Context) error {
			s, err := statusAt(ctx, r.Node("c1"), "e1")
			if err == nil && s != string(want) {
				err = fmt.Errorf("e1 is %s", s)
			}
			return err
		})
	}
	// Whoever asked has second thoughts: nothing has happened.
	ctx, second := context.WithCancel(t.Context())
	off := make(chan error, 1)
	go func() {
		_, err := leave(ctx, e1, api.Leave{Drain: true})
		off <- err
	}()
	is(ring.Draining)
	second()
	if err := <-off; err == nil {
		t.Fatal("a departure that was called off is answered as one")
	}
	is(ring.Alive)
	must(t, inState(t.Context(), r, item, ring.WorkRunning))

	answer := make(chan error, 1)
	var out api.Departure
	go func() {
		var err error
		out, err = leave(t.Context(), e1, api.Leave{Drain: true})
		answer <- err
	}()
	is(ring.Draining)
	if _, err := leave(t.Context(), e1, api.Leave{}); exitOf(err) != 8 {
		t.Errorf("leaving twice at once: %v", err)
	}
	must(t, inState(t.Context(), r, item, ring.WorkRunning))
	select {
	case err := <-answer:
		t.Fatalf("answered while a job runs: %+v %v", out, err)
	default:
	}
	open()
	must(t, <-answer)
	if out.UnsyncedGames == nil || *out.UnsyncedGames != 0 {
		t.Errorf("left behind: %v, want 0", out.UnsyncedGames)
	}
	// Not awaited: all this was so before the answer.
	must(t, inState(t.Context(), r, item, ring.WorkDone))
	var games api.Games
	must(t, r.Node("c1").Client().Get(t.Context(), "/api/v1/games", nil, &games))
	if len(games.Configs) != 1 || games.Configs[0].Games != 3 {
		t.Errorf("the ring has %+v, want the 3 games of the node that left", games.Configs)
	}
	is(ring.Left)
	e1.Stop() // it has ended already, without an error
	// It comes back with the certificate that it has.
	e1.Start()
	r.Settled()
}

// TestLeaveHandsJobsBack: without --drain, and when the limit of --drain is over, running jobs are ended and their items
// wait for somebody else, not counted as attempts; nothing goes on running.
func TestLeaveHandsJobsBack(t *testing.T) {
	t.Parallel()
	soon := 0.1
	for name, in := range map[string]api.Leave{"at once": {}, "after the limit": {Drain: true, LimitSeconds: &soon}} {
		t.Run(name, func(t *testing.T) {
			r, item, _ := playing(t, `{}`)
			out, err := leave(t.Context(), r.Node("e1"), in)
			must(t, err)
			if out.UnsyncedGames == nil || *out.UnsyncedGames != 0 {
				t.Errorf("left behind: %v, want 0", out.UnsyncedGames)
			}
			row, err := workItem(t.Context(), r, item)
			must(t, err)
			if row.State != ring.WorkPending || strings.Contains(row.Error, "node left") {
				t.Errorf("the item is %s (%s), want it handed back", row.State, row.Error)
			}
			if left := jobsLeft(t, r.Node("e1")); len(left) > 0 {
				t.Errorf("still running: %q", left)
			}
		})
	}
}

// holding is a daemon that holds games; Drain gets all but keep of them out, and says how the node was seen then.
type holding struct {
	games *atomic.Int64
	keep  int64
	seen  func()
}

func (h holding) Run(ctx context.Context) error { <-ctx.Done(); return nil }

func (h holding) Unsynced(context.Context) (map[id.Config]int64, error) {
	n := h.games.Load()
	if n < 0 {
		return nil, errors.New("not now")
	}
	return map[id.Config]int64{"connect4_2p": n}, nil
}

func (h holding) Drain(context.Context) error {
	h.seen()
	if h.games.Load() > h.keep {
		h.games.Store(h.keep)
	}
	return errors.New("no more can be got out")
}

// TestLeaveTellsWhatIsLeftBehind: nodes of both classes push before they leave, and the answer says what did not get out;
// what is not known is not 0.
func TestLeaveTellsWhatIsLeftBehind(t *testing.T) {
	t.Parallel()
	var r *agenttest.Ring
	var counts [5]atomic.Int64
	var mu sync.Mutex
	var seen []string
	names := []string{"c1", "c2", "e1", "e2", "e3"}
	keep := map[string]int64{"c2": 0, "e1": 0, "e2": 4, "e3": -1}
	specs := map[string]*holding{}
	for i, name := range names {
		counts[i].Store(7)
		specs[name] = &holding{games: &counts[i], keep: keep[name], seen: func() {
			s, err := statusAt(context.Background(), r.Node("c1"), name)
			mu.Lock()
			defer mu.Unlock()
			seen = append(seen, fmt.Sprintf("%s %s %v", name, s, err))
		}}
	}
	r = agenttest.Prepare(t, agenttest.Options{Core: 2, Edge: 3, Agent: func(name string, o *agent.Options) {
		s := everywhere("TEST_HOLDER", nil)
		s.New = func(kit.Env) (kit.Daemon, error) { return *specs[name], nil }
		o.Specs = base(s)
	}})
	for _, n := range r.Nodes() {
		n.Enrol()
		n.Start()
	}
	r.Settled()
	for _, name := range names[1:] {
		out, err := leave(t.Context(), r.Node(name), api.Leave{})
		must(t, err)
		switch want := keep[name]; {
		case want < 0 && out.UnsyncedGames != nil:
			t.Errorf("%s: %d left behind, want unknown", name, *out.UnsyncedGames)
		case want >= 0 && (out.UnsyncedGames == nil || *out.UnsyncedGames != want):
			t.Errorf("%s: %v left behind, want %d", name, out.UnsyncedGames, want)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if len(seen) != len(names)-1 {
		t.Errorf("pushed: %q, want each of %q once", seen, names[1:])
	}
	for _, s := range seen {
		if strings.Contains(s, string(ring.Left)) {
			t.Errorf("pushed only after it had left: %s", s)
		}
	}
}

// TestOneOfThreeVotersLeaves: who is refused goes on as before.
func TestOneOfThreeVotersLeaves(t *testing.T) {
	t.Parallel()
	r := agenttest.Start(t, agenttest.Options{Core: 3, Specs: base()})
	errs := make([]error, 3)
	var group sync.WaitGroup
	for i, n := range r.Nodes() {
		group.Go(func() { _, errs[i] = leave(t.Context(), n, api.Leave{}) })
	}
	group.Wait()
	var stay []*agenttest.Node
	for i, n := range r.Nodes() {
		switch {
		case errs[i] == nil:
			n.Stop() // it ends by itself
		case exitOf(errs[i]) == 8:
			stay = append(stay, n)
		default:
			t.Errorf("%s: %v", n.Name, errs[i])
		}
	}
	if len(stay) != 2 {
		t.Fatalf("%d of three voters stay: %v", len(stay), errs)
	}
	for _, n := range stay {
		for _, of := range stay {
			r.Until(n.Name+" sees "+of.Name, func(ctx context.Context) error {
				s, err := statusAt(ctx, n, of.Name)
				if err == nil && s != string(ring.Alive) {
					err = fmt.Errorf("it is %s", s)
				}
				return err
			})
		}
	}
	for i, gone := range r.Nodes() {
		if errs[i] != nil {
			continue
		}
		r.Until("what "+gone.Name+" had said of itself is no more told as so", func(ctx context.Context) error {
			var out api.Members
			if err := stay[0].Client().Get(ctx, "/api/v1/members", nil, &out); err != nil {
				return err
			}
			for _, m := range out.Members {
				if m.Name == gone.Name && m.Status != string(ring.Left) {
					return fmt.Errorf("it is %s", m.Status)
				}
				if m.Name == gone.Name && (m.Health != nil || m.UnsyncedGames != nil || m.Daemons != nil) {
					t.Errorf("health %v, unsynced games %v, daemons %v of a node that has left", m.Health, m.UnsyncedGames, m.Daemons)
				}
			}
			return nil
		})
	}
	if _, err := note(t.Context(), stay[0], "still deciding", true); err != nil {
		t.Errorf("the two that stay decide nothing: %v", err)
	}
}
