package agenttest

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/ringagent/ringagent/agent"
	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/agent/config"
	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/mesh/identity"
	"github.com/ringagent/ringagent/mesh/meshtest"
)

// Options say what is special about a ring; the zero value is one core node in dev timing without workload.
type Options struct {
	Core, Edge int // Core 0 means 1
	// Settings changes the settings of the new ring, which are those of the dev timing.
	Settings func(*ring.Settings)
	// Config changes one node's config before it is enrolled.
	Config func(name string, c *config.Config)
	// Specs are the daemons of every node; nil means the registry's.
	Specs []kit.Spec
	// Agent changes what one node's agent is opened with, at each of its starts.
	Agent func(name string, o *agent.Options)
	// CertLife is the life of certificates; 0 means a day.
	CertLife time.Duration
	// Self is the binary that runs jobs; "" means the test's own, whose TestMain must then know the verb job-shim.
	Self string
}

// Ring is a ring of agents that share this process.
type Ring struct {
	t       testing.TB
	options Options
	dir     string
	log     *logBook
	// Net is the network between the nodes; each node's Host is on it.
	Net   *meshtest.Network
	nodes []*Node
}

// Patience is how long the waiting helpers wait. It is far more than anything takes on a quiet machine.
const Patience = 40 * time.Second

// levelEnv sets the level at which the agents log, warn by default, and has the log shown even if the test passes.
const levelEnv = "AGENTTEST_LEVEL"

// Start makes a ring with nodes c1 … and e1 …, and waits until all of them are alive, introduced, and everybody who should
// vote does. The test's end stops it.
func Start(t testing.TB, o Options) *Ring {
	t.Helper()
	r := Prepare(t, o)
	for _, n := range r.nodes {
		n.Enrol()
		n.Start()
	}
	r.Settled()
	return r
}

// Prepare makes the nodes' folders and the ring itself and starts nobody.
func Prepare(t testing.TB, o Options) *Ring {
	t.Helper()
	if o.Core == 0 {
		o.Core = 1
	}
	// Paths of Unix sockets are short, and t.TempDir holds the test's name.
	dir, err := os.MkdirTemp(memory(), "ra")
	if err != nil {
		t.Fatalf("make folder: %v", err)
	}
	r := &Ring{t: t, options: o, dir: dir, log: &logBook{}, Net: meshtest.New(1)}
	for i := range o.Core {
		r.add(fmt.Sprintf("c%d", i+1), id.Core)
	}
	for i := range o.Edge {
		r.add(fmt.Sprintf("e%d", i+1), id.Edge)
	}
	t.Cleanup(r.close)
	return r
}

// memory is a folder in memory where there is one with room, otherwise "": what rings show is not the disk, and their many
// databases wait for a busy one most of the time. The room must be more than what agents call a disk that fills.
func memory() string {
	const shm, room = "/dev/shm", 1 << 30
	var s syscall.Statfs_t
	if err := syscall.Statfs(shm, &s); err != nil {
		return ""
	}
	free, size := uint64(s.Bavail)*uint64(s.Bsize), uint64(s.Blocks)*uint64(s.Bsize)
	if free < room || free < size/2 {
		return ""
	}
	return shm
}

func (r *Ring) add(name string, class id.Class) *Node {
	ip := fmt.Sprintf("127.0.7.%d", len(r.nodes)+1)
	dir := filepath.Join(r.dir, name)
	n := &Node{
		Name: name, Class: class, Dir: dir, Address: ip + ":8770", Host: r.Net.Host(ip), ring: r,
		client: api.NewClient(filepath.Join(dir, "agent.sock")),
	}
	r.nodes = append(r.nodes, n)
	return n
}

// Add makes one more node of the ring's, enrols and starts it.
func (r *Ring) Add(name string, class id.Class) *Node {
	r.t.Helper()
	n := r.add(name, class)
	n.Enrol()
	n.Start()
	return n
}

// Node is the node of that name.
func (r *Ring) Node(name string) *Node {
	r.t.Helper()
	for _, n := range r.nodes {
		if n.Name == name {
			return n
		}
	}
	r.t.Fatalf("no node %q", name)
	return nil
}

// Nodes are all of them, the ended ones too.
func (r *Ring) Nodes() []*Node { return slices.Clone(r.nodes) }

// Up are the nodes that run.
func (r *Ring) Up() []*Node {
	var out []*Node
	for _, n := range r.nodes {
		if n.Running() {
			out = append(out, n)
		}
	}
	return out
}

// Settled waits until every running node is seen alive by all others and knows a coordinator, and as many vote as should.
func (r *Ring) Settled() {
	r.t.Helper()
	r.Until("ring settled", func(ctx context.Context) error {
		up := r.Up()
		core := 0
		for _, n := range up {
			if n.Class == id.Core {
				core++
			}
		}
		want := 1
		if core >= 3 {
			want = 3
		}
		for _, n := range up {
			var s api.Status
			if err := n.Client().Get(ctx, "/api/v1/status", nil, &s); err != nil {
				return fmt.Errorf("%s: %w", n.Name, err)
			}
			if s.Coordinator == nil || s.Members["alive"] < len(up) {
				return fmt.Errorf("%s: coordinator %v, members %v of %d", n.Name, s.Coordinator != nil, s.Members, len(up))
			}
			// A bare id is that of a node that the roster does not have yet.
			if !slices.ContainsFunc(up, func(n *Node) bool { return n.Name == *s.Coordinator }) {
				return fmt.Errorf("%s: coordinator %s is not in the roster", n.Name, *s.Coordinator)
			}
		}
		var l api.Leader
		if err := up[0].Client().Get(ctx, "/api/v1/leader", nil, &l); err != nil {
			return err
		}
		if len(l.Voters) < want {
			return fmt.Errorf("voters %v, want %d", l.Voters, want)
		}
		return nil
	})
}

// Coordinator is the node that most of the running ones name.
func (r *Ring) Coordinator() *Node {
	r.t.Helper()
	var found *Node
	r.Until("a coordinator", func(ctx context.Context) error {
		for _, n := range r.Up() {
			var l api.Leader
			if err := n.Client().Get(ctx, "/api/v1/leader", nil, &l); err != nil || l.Coordinator == nil {
				continue
			}
			if c := r.Node(*l.Coordinator); c.Running() {
				found = c
				return nil
			}
		}
		return fmt.Errorf("nobody names a running one")
	})
	return found
}

// Partition cuts every link between the named nodes and all others, both ways and without a word. Heal ends it.
func (r *Ring) Partition(names ...string) {
	r.t.Helper()
	var in, out []*meshtest.Host
	for _, n := range r.nodes {
		if slices.Contains(names, n.Name) {
			in = append(in, n.Host)
		} else {
			out = append(out, n.Host)
		}
	}
	r.Net.Partition(in, out)
}

// Heal undoes every Partition.
func (r *Ring) Heal() { r.Net.Heal() }

// Until polls good for at most Patience and fails the test with its last error.
func (r *Ring) Until(what string, good func(context.Context) error) {
	r.t.Helper()
	r.UntilIn(Patience, what, good)
}

// UntilIn is Until with a limit of its own.
func (r *Ring) UntilIn(limit time.Duration, what string, good func(context.Context) error) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), limit)
	defer cancel()
	tick := time.NewTicker(25 * time.Millisecond)
	defer tick.Stop()
	begin, last := time.Now(), ""
	for {
		err := good(ctx)
		if err == nil {
			return
		}
		if time.Since(begin) > time.Second && err.Error() != last {
			// A wait that takes long says what for: that is half of finding out why.
			last = err.Error()
			r.t.Logf("%s after %s: %s", what, time.Since(begin).Round(100*time.Millisecond), last)
		}
		select {
		case <-ctx.Done():
			r.t.Fatalf("waited %s for %s: %v", limit, what, err)
		case <-tick.C:
		}
	}
}

// Token is a new join token from the first running core node.
func (r *Ring) Token(class id.Class) identity.Secret {
	r.t.Helper()
	var t api.TokenCreated
	r.Until("a token", func(ctx context.Context) error {
		for _, n := range r.Up() {
			if n.Class == id.Core {
				return n.Client().Post(ctx, "/api/v1/tokens", api.CreateToken{Class: class, TTLSeconds: 600, Uses: 1}, &t)
			}
		}
		return fmt.Errorf("no core node runs")
	})
	return identity.NewSecret(t.Token)
}

func (r *Ring) settings() ring.Settings {
	s := config.DefaultRing()
	s.Timing = ring.TimingDev
	if r.options.Settings != nil {
		r.options.Settings(&s)
	}
	return s
}

func (r *Ring) close() {
	var group sync.WaitGroup
	for _, n := range r.nodes {
		group.Go(n.end)
	}
	group.Wait()
	for _, n := range r.nodes {
		n.stopJobs()
	}
	if r.t.Failed() || os.Getenv(levelEnv) != "" {
		r.t.Logf("log of the agents:\n%s", r.log.tail(400))
	}
	if err := os.RemoveAll(r.dir); err != nil {
		r.t.Logf("remove folder: %v", err)
	}
}

// logBook keeps what the agents log. Writing to the test itself would be wrong after its end.
type logBook struct {
	mu    sync.Mutex
	lines []string
}

// Write implements io.Writer.
func (b *logBook) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lines = append(b.lines, strings.TrimSpace(string(p)))
	return len(p), nil
}

func (b *logBook) tail(n int) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Join(b.lines[max(0, len(b.lines)-n):], "\n")
}

var _ io.Writer = (*logBook)(nil)

// newAgent opens the node's folder.
func (r *Ring) newAgent(n *Node, network *plug) (*agent.Agent, error) {
	level := zerolog.WarnLevel
	if v := os.Getenv(levelEnv); v != "" {
		if l, err := zerolog.ParseLevel(v); err == nil {
			level = l
		}
	}
	o := agent.Options{
		Log: zerolog.New(r.log).Level(level).With().Timestamp().Logger(), Network: network, Self: r.options.Self,
		CertLife: r.options.CertLife, Specs: r.options.Specs,
		Faults: agent.Faults{Reconcile: 2 * time.Second},
	}
	if f := r.options.Agent; f != nil {
		f(n.Name, &o)
	}
	return agent.New(n.config(), o)
}
