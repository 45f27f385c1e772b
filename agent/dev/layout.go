package dev

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/ringagent/ringagent/agent"
	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/agent/config"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// coreNodes is how many of the nodes are core; the others are edge.
const coreNodes = 3

// Node is one line of nodes.jsonl.
type Node struct {
	Name    string   `json:"name"`
	PID     int      `json:"pid"`
	DataDir string   `json:"data_dir"`
	Class   id.Class `json:"class"`
	Address string   `json:"address"`
}

// Socket is where the node's agent listens.
func (n Node) Socket() string { return filepath.Join(n.DataDir, "agent.sock") }

// marker says that a folder is ours.
type marker struct {
	Version int  `json:"version"`
	Nodes   int  `json:"nodes"`
	Begun   bool `json:"begun,omitempty"` // nothing has run in it yet, and what lies in it may be the half of a ring
}

// write has the folder say so whole or not at all: one that says nothing is somebody else's for ever.
func (m marker) write(dir string) error {
	b, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode marker: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, markerDraft), b, 0o600); err != nil {
		return fmt.Errorf("mark folder: %w", err)
	}
	return os.Rename(filepath.Join(dir, markerDraft), filepath.Join(dir, "dev.json"))
}

const markerDraft = ".dev.json"

// openDir makes the folder, or finds a ring of ours in it; anything else is refused.
func openDir(dir string, nodes int) (abs string, found bool, err error) {
	abs, err = filepath.Abs(dir)
	if err != nil {
		return "", false, fmt.Errorf("find folder: %w", err)
	}
	entries, err := os.ReadDir(abs)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(abs, 0o700); err != nil {
			return "", false, fmt.Errorf("make folder: %w", err)
		}
		return abs, false, nil
	}
	if errors.Is(err, syscall.ENOTDIR) {
		return "", false, api.Errorf(api.CodeRefused, "%s is no folder", abs).WithHint("name one with --dir")
	}
	if err != nil {
		return "", false, fmt.Errorf("read folder: %w", err)
	}
	if len(entries) == 0 || len(entries) == 1 && entries[0].Name() == markerDraft {
		return abs, false, nil
	}
	b, err := os.ReadFile(filepath.Join(abs, "dev.json"))
	var m marker
	if err != nil || json.Unmarshal(b, &m) != nil || m.Version != 1 {
		return "", false, api.Errorf(api.CodeRefused, "folder %s is not empty and holds no dev ring", abs).
			WithHint("name another with --dir, or remove it")
	}
	if m.Begun {
		return abs, false, nil // makeDir finishes it
	}
	if m.Nodes != nodes {
		return "", false, api.Errorf(api.CodeRefused, "the ring in %s has %d nodes, not %d", abs, m.Nodes, nodes).
			WithHint(fmt.Sprintf("continue it with --nodes %d, or name another folder with --dir", m.Nodes))
	}
	return abs, true, nil
}

// makeDir writes what each node is, and makes the ring with n1 as its first voter. Where it is cut off, the next one finishes it.
func makeDir(dir string, o Options) error {
	if err := (marker{Version: 1, Nodes: o.Nodes, Begun: true}).write(dir); err != nil {
		return err
	}
	port := o.BasePort
	for i := 1; i <= o.Nodes; i++ {
		var err error
		if port, err = freePort(port + 1); err != nil {
			return err
		}
		c := config.Default(filepath.Join(dir, "n"+strconv.Itoa(i)))
		c.NodeName = "n" + strconv.Itoa(i)
		c.Listen = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
		c.Advertise = c.Listen
		c.Class = class(i)
		c.Slots = ring.Slots{CPU: 1, RAMMiB: 1024, DiskMiB: 1024}
		if i == 1 {
			if port, err = foundRing(c, o.Settings); err != nil {
				return err
			}
			continue
		}
		if err := os.MkdirAll(c.DataDir, 0o700); err != nil {
			return fmt.Errorf("make data dir: %w", err)
		}
		where := c.DataDir
		c.DataDir = ""
		y, err := c.Marshal()
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(where, "config.yaml"), y, 0o600); err != nil {
			return fmt.Errorf("write config: %w", err)
		}
	}
	return marker{Version: 1, Nodes: o.Nodes}.write(dir)
}

// foundRing makes the ring, unless an earlier attempt has, and says on which port its first node listens.
func foundRing(c config.Config, settings ring.Settings) (port int, err error) {
	file := filepath.Join(c.DataDir, "config.yaml")
	if !agent.Enrolled(c.DataDir) {
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) { // of an attempt that has got no further
			return 0, fmt.Errorf("remove config: %w", err)
		}
		if _, err := agent.Init("dev", c, settings); err != nil {
			return 0, err
		}
	}
	if c, _, err = config.Load(c.DataDir, file); err != nil {
		return 0, err
	}
	_, p, err := net.SplitHostPort(c.Listen)
	if err != nil {
		return 0, fmt.Errorf("read config: %w", err)
	}
	return strconv.Atoi(p)
}

func class(i int) id.Class {
	if i <= coreNodes {
		return id.Core
	}
	return id.Edge
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
	return 0, api.Errorf(api.CodeFailed, "no free port from %d on", want).WithHint("name another with --base-port")
}

// readNodes reads what each node's config says.
func readNodes(dir string, nodes int) ([]Node, error) {
	var out []Node
	for i := 1; i <= nodes; i++ {
		where := filepath.Join(dir, "n"+strconv.Itoa(i))
		c, _, err := config.Load(where, filepath.Join(where, "config.yaml"))
		if err != nil {
			return nil, err
		}
		out = append(out, Node{Name: c.NodeName, DataDir: where, Class: class(i), Address: c.Listen})
	}
	return out, nil
}

// noteNodes writes nodes.jsonl, for scripts that want to kill somebody.
func noteNodes(dir string, nodes []Node) error {
	var b []byte
	for _, n := range nodes {
		line, err := json.Marshal(n)
		if err != nil {
			return fmt.Errorf("encode node: %w", err)
		}
		b = append(append(b, line...), '\n')
	}
	tmp := filepath.Join(dir, ".nodes.jsonl")
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return fmt.Errorf("note nodes: %w", err)
	}
	return os.Rename(tmp, filepath.Join(dir, "nodes.jsonl"))
}
