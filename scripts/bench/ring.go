package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/ringagent/ringagent/agent"
	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/agent/config"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// patience bounds every wait for something that takes seconds.
const patience = 2 * time.Minute

// ringSpec says which ring to make.
type ringSpec struct {
	core, edge int
	inside     bool // agents that can be asked to publish from inside
}

// testRing is a ring of agent processes.
type testRing struct {
	o     options
	spec  ringSpec
	dir   string
	nodes []*node
}

type node struct {
	name    string
	class   id.Class
	dir     string
	address string
	api     *api.Client
	pid     int
	ended   chan struct{}
}

// client asks the node's agent. There is one for all questions: each keeps connections, of which an agent takes only so many.
func (n *node) client() *api.Client { return n.api }

func (n *node) control() string { return filepath.Join(n.dir, "bench.sock") }

// startRing makes a ring, starts its agents and waits until all are settled. The caller closes it, also after an error.
func startRing(ctx context.Context, o options, spec ringSpec) (*testRing, error) {
	dir, err := os.MkdirTemp(o.dir, "ring")
	if err != nil {
		return nil, fmt.Errorf("make folder: %w", err)
	}
	r := &testRing{o: o, spec: spec, dir: dir}
	port := o.port
	for i := range spec.core + spec.edge {
		n := &node{name: "n" + strconv.Itoa(i+1), class: id.Core}
		if i >= spec.core {
			n.class = id.Edge
		}
		n.dir = filepath.Join(dir, n.name)
		n.api = api.NewClient(filepath.Join(n.dir, "agent.sock"))
		if port, err = freePort(port); err != nil {
			return r, err
		}
		n.address = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
		port++
		r.nodes = append(r.nodes, n)
	}
	if err := r.found(); err != nil {
		return r, fmt.Errorf("make ring: %w", err)
	}
	for i, n := range r.nodes {
		if i > 0 {
			if err := r.enrol(ctx, n); err != nil {
				return r, err
			}
		}
		if err := r.launch(n); err != nil {
			return r, err
		}
		if i == 0 {
			if err := until(ctx, "the first node coordinates", func(ctx context.Context) error {
				_, err := r.coordinator(ctx, r.nodes[:1])
				return err
			}); err != nil {
				return r, err
			}
		}
	}
	return r, r.settled(ctx)
}

func (n *node) config() config.Config {
	c := config.Default(n.dir)
	c.NodeName, c.Listen, c.Advertise, c.Class, c.FailureDomain = n.name, n.address, n.address, n.class, n.name
	c.Log.Level = "warn"
	return c
}

// found makes the ring: as a production ring is, but without a workload.
func (r *testRing) found() error {
	first := r.nodes[0]
	s := config.DefaultRing()
	s.Timing = ring.TimingDev // the same times as lan, but voters are promoted after 3 s instead of 10
	s.Voters = 3
	if _, err := agent.Init("bench", first.config(), s); err != nil {
		return err
	}
	for _, n := range r.nodes[1:] {
		if err := os.MkdirAll(n.dir, 0o700); err != nil {
			return err
		}
		c := n.config()
		c.DataDir = ""
		y, err := c.Marshal()
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(n.dir, "config.yaml"), y, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func (r *testRing) enrol(ctx context.Context, n *node) error {
	var t api.TokenCreated
	if err := r.nodes[0].client().Post(ctx, "/api/v1/tokens", api.CreateToken{Class: n.class, TTLSeconds: 600, Uses: 1}, &t); err != nil {
		return fmt.Errorf("make token: %w", err)
	}
	cmd := exec.CommandContext(ctx, r.o.bin, "join", r.nodes[0].address, "--data-dir", n.dir, "--token-file", "-", "--enrol-only")
	cmd.Stdin = strings.NewReader(t.Token)
	var out bytes.Buffer
	cmd.Stderr = &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("enrol %s: %w: %s", n.name, err, strings.TrimSpace(out.String()))
	}
	return nil
}

// launch starts a node's agent.
func (r *testRing) launch(n *node) error {
	log, err := os.OpenFile(filepath.Join(n.dir, "agent.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open log of %s: %w", n.name, err)
	}
	defer log.Close()
	cmd := exec.Command(r.o.bin, "agent", "--data-dir", n.dir)
	if r.spec.inside {
		cmd = exec.Command(r.o.self, "-agent", n.dir, "-control", n.control(), "-profiles", r.o.profiles)
	}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a Ctrl-C at the terminal reaches only us
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", n.name, err)
	}
	ended := make(chan struct{})
	n.pid, n.ended = cmd.Process.Pid, ended
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	return nil
}

func (n *node) running() bool {
	if n.ended == nil {
		return false
	}
	select {
	case <-n.ended:
		return false
	default:
		return true
	}
}

// kill ends a node's agent as a crash would.
func (n *node) kill() {
	if n.running() {
		_ = syscall.Kill(n.pid, syscall.SIGKILL)
		<-n.ended
	}
}

// stop ends a node's agent in order.
func (n *node) stop() {
	if !n.running() {
		return
	}
	_ = syscall.Kill(n.pid, syscall.SIGTERM)
	select {
	case <-n.ended:
	case <-time.After(25 * time.Second):
		n.kill()
	}
}

// close stops all agents and removes the folder.
func (r *testRing) close() {
	if r == nil {
		return
	}
	var group sync.WaitGroup
	for _, n := range r.nodes {
		group.Go(n.stop)
	}
	group.Wait()
	_ = os.RemoveAll(r.dir)
}

// up are the nodes whose agents run.
func (r *testRing) up() []*node {
	var out []*node
	for _, n := range r.nodes {
		if n.running() {
			out = append(out, n)
		}
	}
	return out
}

// coordinator is the node that all of the given ones name.
func (r *testRing) coordinator(ctx context.Context, asked []*node) (*node, error) {
	name := ""
	for _, n := range asked {
		var l api.Leader
		if err := n.client().Get(ctx, "/api/v1/leader", nil, &l); err != nil {
			return nil, err
		}
		if l.Coordinator == nil || name != "" && *l.Coordinator != name {
			return nil, fmt.Errorf("%s knows no coordinator, or another one", n.name)
		}
		name = *l.Coordinator
	}
	for _, n := range r.nodes {
		if n.name == name {
			return n, nil
		}
	}
	return nil, fmt.Errorf("no node %q", name)
}

// settled waits until all running nodes see each other alive, name one coordinator, and the voters are complete.
func (r *testRing) settled(ctx context.Context) error {
	return until(ctx, "a settled ring", func(ctx context.Context) error {
		up := r.up()
		if len(up) < len(r.nodes) {
			return errors.New("an agent has ended")
		}
		c, err := r.coordinator(ctx, up)
		if err != nil {
			return err
		}
		var l api.Leader
		if err := c.client().Get(ctx, "/api/v1/leader", nil, &l); err != nil {
			return err
		}
		if want := min(3, r.spec.core); len(l.Voters) != want {
			return fmt.Errorf("%d voters", len(l.Voters))
		}
		for _, n := range up {
			var s api.Status
			if err := n.client().Get(ctx, "/api/v1/status", nil, &s); err != nil {
				return err
			}
			if s.Members["alive"] != len(up) {
				return fmt.Errorf("%s sees %d alive", n.name, s.Members["alive"])
			}
		}
		if missing, err := r.waiting(ctx, c); err != nil || len(missing) > 0 {
			return errors.Join(err, fmt.Errorf("singletons not running: %s", strings.Join(missing, " ")))
		}
		return nil
	})
}

// waiting are the singletons that, as a node knows, do not run on a live node.
func (r *testRing) waiting(ctx context.Context, via *node) ([]string, error) {
	var d api.Daemons
	if err := via.client().Get(ctx, "/api/v1/daemons", nil, &d); err != nil {
		return nil, err
	}
	live := map[string]bool{}
	for _, n := range r.up() {
		live[n.name] = true
	}
	var out []string
	for _, row := range d.Daemons {
		if row.Scope == "cluster" && (row.State != "RUNNING" || row.Node == nil || !live[*row.Node]) {
			out = append(out, row.Name)
		}
	}
	return out, nil
}

// until polls good, and fails with its last error.
func until(ctx context.Context, what string, good func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	t := time.NewTicker(10 * time.Millisecond)
	defer t.Stop()
	last := errors.New("no answer yet")
	for {
		err := good(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited for %s: %w", what, last)
		case <-t.C:
		}
	}
}

// freePort is the first port from want on that nobody listens on.
func freePort(want int) (int, error) {
	for p := want; p < want+200 && p < 65536; p++ {
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(p)))
		if err == nil {
			l.Close()
			return p, nil
		}
	}
	return 0, fmt.Errorf("no free port from %d on", want)
}
