package dev

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/ringagent/ringagent/agent"
	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/proc"
	"github.com/ringagent/ringagent/internal/ring"
)

// Options say which ring to run.
type Options struct {
	Dir      string
	Nodes    int
	BasePort int           // n<i> listens on BasePort+i, or the next free port
	For      time.Duration // 0 = until the context ends
	Settings ring.Settings // of a new ring
	Self     string        // path of this binary
	Progress func(string)  // a line for people, as it happens
	JSON     bool
}

// Waits for things that normally take a second or two.
const (
	startLimit = 30 * time.Second
	readyLimit = 60 * time.Second
	stopLimit  = 25 * time.Second
	poll       = 100 * time.Millisecond
)

// Run makes or continues the ring, shows how it goes, stops it when ctx or Options.For ends, and sums up.
func Run(ctx context.Context, o Options) (Summary, error) {
	dir, found, err := openDir(o.Dir, o.Nodes)
	if err != nil {
		return Summary{}, err
	}
	begin := time.Now()
	if !found {
		if err := makeDir(dir, o); err != nil {
			return Summary{}, err
		}
	}
	nodes, err := readNodes(dir, o.Nodes)
	if err != nil {
		return Summary{}, err
	}
	r := &running{dir: dir, nodes: nodes, options: o, begin: begin}
	for _, n := range nodes {
		if pid, alive := holder(n.DataDir); alive {
			return Summary{}, api.Errorf(api.CodeLocked, "node %s already runs as process %d", n.Name, pid).
				WithHint("this folder's ring is running; stop it first, or name another folder with --dir")
		}
	}
	defer r.stop()
	if err := r.start(ctx); err != nil {
		return Summary{}, err
	}
	if o.For > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, o.For)
		defer cancel()
	}
	r.watch(ctx)
	return r.summary()
}

type running struct {
	dir     string
	nodes   []Node
	options Options
	begin   time.Time
	last    picture
}

func (r *running) say(format string, args ...any) {
	if r.options.Progress != nil {
		r.options.Progress(fmt.Sprintf("%6.1fs  ", time.Since(r.begin).Seconds()) + fmt.Sprintf(format, args...))
	}
}

// start brings the nodes up: the first alone, then the others with tokens from it.
func (r *running) start(ctx context.Context) error {
	if err := r.launch(&r.nodes[0]); err != nil {
		return err
	}
	if err := r.until(ctx, startLimit, "n1 coordinates", func(ctx context.Context) bool {
		l, err := r.leader(ctx, r.nodes[0])
		return err == nil && l.Coordinator != nil
	}); err != nil {
		return err
	}
	for i := 1; i < len(r.nodes); i++ {
		n := &r.nodes[i]
		if !agent.Enrolled(n.DataDir) {
			if err := r.enrol(ctx, *n); err != nil {
				return err
			}
		}
		if err := r.launch(n); err != nil {
			return err
		}
	}
	if err := noteNodes(r.dir, r.nodes); err != nil {
		return err
	}
	want := 1
	if len(r.nodes) >= coreNodes { // there are never two voters: they would bear no failure, as one
		want = coreNodes
	}
	if err := r.until(ctx, readyLimit, fmt.Sprintf("%d voters", want), func(ctx context.Context) bool {
		l, err := r.leader(ctx, r.nodes[0])
		if err != nil || len(l.Voters) < want {
			return false
		}
		var ms api.Members
		if r.client(r.nodes[0]).Get(ctx, "/api/v1/members", nil, &ms) != nil {
			return false
		}
		alive := 0
		for _, m := range ms.Members {
			if m.Status == "alive" {
				alive++
			}
		}
		return alive == len(r.nodes)
	}); err != nil {
		return err
	}
	r.say("ready: %d nodes, %d voters", len(r.nodes), want)
	r.say("look at it:  %s --data-dir %s status", filepath.Base(r.options.Self), r.nodes[min(1, len(r.nodes)-1)].DataDir)
	r.say("break it:    kill -9 any pid of %s; start it again with: %s agent --data-dir <its data_dir>",
		filepath.Join(r.dir, "nodes.jsonl"), filepath.Base(r.options.Self))
	return nil
}

// until polls good for at most limit.
func (r *running) until(ctx context.Context, limit time.Duration, what string, good func(context.Context) bool) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	t := time.NewTicker(poll)
	defer t.Stop()
	for {
		if good(ctx) {
			return nil
		}
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return api.Errorf(api.CodeTimeout, "waited %s for: %s", limit, what).
					WithHint("the agents' logs are in " + filepath.Join(r.dir, "n1", "agent.log") + " and so on")
			}
			return ctx.Err()
		case <-t.C:
		}
	}
}

// launch starts a node's agent in a process group of its own, so that a Ctrl-C at the terminal reaches only us.
func (r *running) launch(n *Node) error {
	log, err := os.OpenFile(filepath.Join(n.DataDir, "agent.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open log of %s: %w", n.Name, err)
	}
	defer log.Close()
	cmd := exec.Command(r.options.Self, "agent", "--data-dir", n.DataDir)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", n.Name, err)
	}
	n.PID = cmd.Process.Pid
	go func() { _ = cmd.Wait() }() // so that a killed agent does not stay as a zombie
	return nil
}

// enrol buys a node its certificate with a token that only it gets.
func (r *running) enrol(ctx context.Context, n Node) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	var t api.TokenCreated
	if err := r.client(r.nodes[0]).Post(ctx, "/api/v1/tokens", api.CreateToken{Class: n.Class, TTLSeconds: 600, Uses: 1}, &t); err != nil {
		return fmt.Errorf("make token for %s: %w", n.Name, err)
	}
	cmd := exec.CommandContext(ctx, r.options.Self, "join", r.nodes[0].Address, "--data-dir", n.DataDir, "--token-file", "-", "--enrol-only")
	cmd.Stdin = strings.NewReader(t.Token)
	var errOut bytes.Buffer
	cmd.Stderr = &errOut
	if err := cmd.Run(); err != nil {
		return api.Errorf(api.CodeFailed, "enrol %s: %v: %s", n.Name, err, strings.TrimSpace(errOut.String()))
	}
	return nil
}

func (r *running) client(n Node) *api.Client { return api.NewClient(n.Socket()) }

func (r *running) leader(ctx context.Context, n Node) (api.Leader, error) {
	var l api.Leader
	err := r.client(n).Get(ctx, "/api/v1/leader", nil, &l)
	return l, err
}

// holder is the process that has a data dir's lock, if one has.
func holder(dataDir string) (int, bool) {
	f, err := os.Open(filepath.Join(dataDir, "agent.lock"))
	if err != nil {
		return 0, false
	}
	defer f.Close()
	if syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB) == nil {
		return 0, false
	}
	b, err := io.ReadAll(io.LimitReader(f, 32))
	if err != nil {
		return 0, true
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0, true
	}
	return pid, true
}

// stop ends all agents of the folder, also those that somebody started again by hand, and then their jobs. Edge nodes go
// first: they bring their last games to the core nodes before they end. Jobs end right after their agents, or they would
// take the processors from those that are still to stop.
func (r *running) stop() {
	r.say("stopping")
	for _, edge := range []bool{true, false} {
		which := func(n Node) bool { return (n.Class == id.Edge) == edge }
		r.end(which)
		r.stopJobs(which)
	}
}

// end stops the agents of some nodes at once.
func (r *running) end(which func(Node) bool) {
	each := func(f func(Node, int)) {
		for _, n := range r.nodes {
			if pid, alive := holder(n.DataDir); alive && which(n) {
				f(n, pid)
			}
		}
	}
	each(func(_ Node, pid int) {
		if pid > 0 {
			_ = syscall.Kill(pid, syscall.SIGTERM)
		}
	})
	ctx, cancel := context.WithTimeout(context.Background(), stopLimit)
	defer cancel()
	_ = r.until(ctx, stopLimit, "agents end", func(context.Context) bool {
		left := 0
		each(func(Node, int) { left++ })
		return left == 0
	})
	each(func(n Node, pid int) {
		if pid > 0 {
			r.say("%s did not stop in %s; killing process %d", n.Name, stopLimit, pid)
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	})
}

// stopJobs ends the jobs that outlive their agents: nobody is left to gather what they play.
func (r *running) stopJobs(which func(Node) bool) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for _, n := range r.nodes {
		if !which(n) {
			continue
		}
		runner := &proc.Runner{Dir: filepath.Join(n.DataDir, "jobs")}
		handles, err := runner.Adopt(ctx)
		if err != nil {
			continue // the folder is not there, or an agent that would not die still has it
		}
		for _, h := range handles {
			if h.Stop(time.Second, "dev ring stopped") == nil {
				_, _ = h.Wait(ctx)
			}
		}
	}
}
