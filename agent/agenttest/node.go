package agenttest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/ringagent/ringagent/agent"
	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/agent/config"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/proc"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/mesh/identity"
	"github.com/ringagent/ringagent/mesh/meshtest"
)

// Node is one agent with its folder and its machine.
type Node struct {
	Name    string
	Class   id.Class
	Dir     string
	Address string
	Host    *meshtest.Host
	ring    *Ring
	client  *api.Client

	mu   sync.Mutex
	life *life
}

// life is one start of an agent.
type life struct {
	agent   *agent.Agent
	network *plug
	cancel  context.CancelCauseFunc
	done    chan error
}

// plug is a host's network for one life of its agent: once it is pulled, the agent can reach nobody any more, while its
// successor on the same host can.
type plug struct {
	host   *meshtest.Host
	pulled atomic.Bool
}

// Listen implements mesh.Network.
func (p *plug) Listen(ctx context.Context, address string) (net.Listener, error) {
	return p.host.Listen(ctx, address)
}

// Dial implements mesh.Network.
func (p *plug) Dial(ctx context.Context, address string) (net.Conn, error) {
	if p.pulled.Load() {
		return nil, fmt.Errorf("dial %s: %w", address, syscall.ENETDOWN)
	}
	return p.host.Dial(ctx, address)
}

// config is the node's config.yaml as a start would read it.
func (n *Node) config() config.Config {
	c := config.Default(n.Dir)
	c.NodeName, c.Listen, c.Advertise, c.Class = n.Name, n.Address, n.Address, n.Class
	c.FailureDomain = n.Name
	c.Slots = ring.Slots{CPU: 1, RAMMiB: 1024, DiskMiB: 1024}
	if n.Name != n.ring.nodes[0].Name {
		c.Join = []string{n.ring.nodes[0].Address}
	}
	if f := n.ring.options.Config; f != nil {
		f(n.Name, &c)
	}
	return c
}

// Enrol gives the node its place: the first one makes the ring, the others buy theirs with a fresh token.
func (n *Node) Enrol() {
	n.ring.t.Helper()
	n.Prepare()
	if n == n.ring.nodes[0] {
		if _, err := agent.Init("test", n.config(), n.ring.settings()); err != nil {
			n.ring.t.Fatalf("init: %v", err)
		}
		return
	}
	token := n.ring.Token(n.Class)
	if err := n.EnrolWith(n.ring.t.Context(), token); err != nil {
		n.ring.t.Fatalf("enrol %s: %v", n.Name, err)
	}
}

// EnrolWith asks the first node for a place with a token.
func (n *Node) EnrolWith(ctx context.Context, token identity.Secret) error {
	return agent.Enrol(ctx, n.Enrolment(token))
}

// Enrolment is what EnrolWith asks for, for tests that change it.
func (n *Node) Enrolment(token identity.Secret) agent.Enrolment {
	return agent.Enrolment{
		Config: n.config(), Seeds: []string{n.ring.nodes[0].Address}, Token: token, Network: &plug{host: n.Host},
	}
}

// Prepare makes the folder with a ballast that has its size but not its blocks: rings of tests need no reserve.
func (n *Node) Prepare() {
	if err := os.MkdirAll(n.Dir, 0o700); err != nil {
		n.ring.t.Fatalf("make data dir: %v", err)
	}
	f, err := os.Create(filepath.Join(n.Dir, "ballast"))
	if err == nil {
		err = errors.Join(f.Truncate(32<<20), f.Close())
	}
	if err != nil {
		n.ring.t.Fatalf("make ballast: %v", err)
	}
}

// Start starts the node's agent and waits until its socket answers.
func (n *Node) Start() {
	n.ring.t.Helper()
	if n.Running() {
		n.ring.t.Fatalf("%s runs already", n.Name)
	}
	l := &life{network: &plug{host: n.Host}, done: make(chan error, 1)}
	a, err := n.ring.newAgent(n, l.network)
	if err != nil {
		n.ring.t.Fatalf("open %s: %v", n.Name, err)
	}
	// The agent's life is ended by Stop, Kill or the ring's cleanup, not by the test's context: that one ends too early.
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(n.ring.t.Context()))
	l.agent, l.cancel = a, cancel
	go func() { l.done <- a.Run(ctx) }()
	n.mu.Lock()
	n.life = l
	n.mu.Unlock()
	n.ring.Until(n.Name+" answers", func(ctx context.Context) error {
		select {
		case err := <-l.done:
			l.done <- err
			n.ring.t.Fatalf("%s ended at once: %v", n.Name, err)
		default:
		}
		var v map[string]any
		return n.Client().Get(ctx, "/api/v1/leader", nil, &v)
	})
}

// Running says whether the node has been started and not ended.
func (n *Node) Running() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.life != nil
}

// Stop ends the agent as SIGTERM does.
func (n *Node) Stop() {
	n.ring.t.Helper()
	if err := n.finish(nil); err != nil {
		n.ring.t.Errorf("%s ended with: %v", n.Name, err)
	}
}

// Kill ends the agent as nearly like kill -9 as one process allows: its connections are reset, it can dial nobody any more,
// and it gets no time to drain or to say goodbye. What its goroutines are just writing to their databases may still get
// there; what a torn write does is for the packages of those databases to test.
func (n *Node) Kill() {
	n.ring.t.Helper()
	_ = n.finish(agent.ErrAbrupt)
}

// Restart is Stop, or Kill, and Start again in the same folder.
func (n *Node) Restart(abrupt bool) {
	n.ring.t.Helper()
	if abrupt {
		n.Kill()
	} else {
		n.Stop()
	}
	n.Start()
}

// Reload has the agent read its config anew, as SIGHUP does.
func (n *Node) Reload() {
	n.ring.t.Helper()
	n.mu.Lock()
	l := n.life
	n.mu.Unlock()
	if l == nil {
		n.ring.t.Fatalf("%s does not run", n.Name)
	}
	if err := l.agent.Reload(); err != nil {
		n.ring.t.Fatalf("reload %s: %v", n.Name, err)
	}
}

// Wipe ends the agent abruptly and removes its folder.
func (n *Node) Wipe() {
	n.ring.t.Helper()
	n.Kill()
	n.stopJobs()
	if err := os.RemoveAll(n.Dir); err != nil {
		n.ring.t.Fatalf("wipe %s: %v", n.Name, err)
	}
}

func (n *Node) finish(cause error) error {
	n.mu.Lock()
	l := n.life
	n.life = nil
	n.mu.Unlock()
	if l == nil {
		return nil
	}
	if cause != nil {
		l.network.pulled.Store(true)
		n.Host.Kill()
	}
	l.cancel(cause)
	select {
	case err := <-l.done:
		return err
	case <-time.After(Patience):
		return errors.New("did not end")
	}
}

// end is the cleanup's Kill: nothing depends on a ring that is over.
func (n *Node) end() {
	if err := n.finish(agent.ErrAbrupt); err != nil {
		n.ring.t.Errorf("%s ended with: %v", n.Name, err)
	}
}

// stopJobs ends what the node's worker has left running, which outlives agents by design.
func (n *Node) stopJobs() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	handles, err := (&proc.Runner{Dir: filepath.Join(n.Dir, "jobs")}).Adopt(ctx)
	if err != nil {
		return // there is no such folder
	}
	for _, h := range handles {
		if h.Stop(100*time.Millisecond, "test is over") == nil {
			_, _ = h.Wait(ctx)
		}
	}
}

// Client asks the node's agent over its socket. There is one for all lives of the node: each keeps connections open, and a
// socket takes only so many.
func (n *Node) Client() *api.Client { return n.client }
