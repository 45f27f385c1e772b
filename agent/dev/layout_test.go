package dev

import (
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/ringagent/ringagent/agent"
	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/agent/config"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

func options(t *testing.T) Options {
	s := config.DefaultRing()
	s.Timing = ring.TimingDev
	return Options{Dir: t.TempDir(), Nodes: 5, BasePort: 23700, Settings: s}
}

func TestLayoutOfANewRing(t *testing.T) {
	t.Parallel()
	o := options(t)
	dir, found, err := openDir(filepath.Join(o.Dir, "new", "ring"), o.Nodes)
	if err != nil || found {
		t.Fatalf("open: %v, found %v", err, found)
	}
	if err := makeDir(dir, o); err != nil {
		t.Fatal(err)
	}
	nodes, err := readNodes(dir, o.Nodes)
	if err != nil {
		t.Fatal(err)
	}
	ports := map[string]bool{}
	for i, n := range nodes {
		want := id.Edge
		if i < 3 {
			want = id.Core
		}
		if n.Name != "n"+strconv.Itoa(i+1) || n.Class != want || n.DataDir != filepath.Join(dir, n.Name) {
			t.Errorf("node %d: %+v", i+1, n)
		}
		if ports[n.Address] || !strings.HasPrefix(n.Address, "127.0.0.1:") {
			t.Errorf("node %d listens on %s, as another or for everybody", i+1, n.Address)
		}
		ports[n.Address] = true
		if agent.Enrolled(n.DataDir) != (i == 0) {
			t.Errorf("node %s: only the first is in the ring from the start", n.Name)
		}
	}
	if again, found, err := openDir(dir, o.Nodes); err != nil || !found || again != dir {
		t.Errorf("open again: %v, %v, %s", err, found, again)
	}
	var refused *api.Error
	if _, _, err := openDir(dir, 3); !errors.As(err, &refused) || refused.Code != api.CodeRefused {
		t.Errorf("another number of nodes: %v", err)
	}

	if err := noteNodes(dir, nodes); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "nodes.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	for i, line := range strings.Split(strings.TrimSpace(string(b)), "\n") {
		var n Node
		if err := json.Unmarshal([]byte(line), &n); err != nil || n != nodes[i] {
			t.Errorf("line %d: %+v, %v", i+1, n, err)
		}
	}
}

// A dev that was cut off while it made its folder has left nothing that the next one cannot finish.
func TestFolderThatWasBegunIsFinished(t *testing.T) {
	t.Parallel()
	for at, cut := range map[string]func(dir string) error{
		"at once":         func(dir string) error { return os.RemoveAll(filepath.Join(dir, "n1")) },
		"in the marker":   func(dir string) error { return os.WriteFile(filepath.Join(dir, markerDraft), nil, 0o600) },
		"within the ring": func(dir string) error { return os.Remove(filepath.Join(dir, "n1", "node.json")) },
		"behind the ring": func(dir string) error { return os.RemoveAll(filepath.Join(dir, "n2")) },
		"within a config": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "n3", "config.yaml"), []byte("node_na"), 0o600)
		},
		"before the start": func(string) error { return nil },
	} {
		o := options(t)
		o.Nodes = 3
		dir, _, err := openDir(filepath.Join(o.Dir, "ring"), o.Nodes)
		if err != nil {
			t.Fatal(err)
		}
		if at != "in the marker" {
			if err := makeDir(dir, o); err != nil {
				t.Fatal(err)
			}
			if err := (marker{Version: 1, Nodes: 3, Begun: true}).write(dir); err != nil {
				t.Fatal(err)
			}
		}
		if err := cut(dir); err != nil {
			t.Fatal(err)
		}
		if _, found, err := openDir(dir, o.Nodes); err != nil || found {
			t.Errorf("%s: found %v, %v", at, found, err)
			continue
		}
		if err := makeDir(dir, o); err != nil {
			t.Errorf("%s: %v", at, err)
			continue
		}
		nodes, err := readNodes(dir, o.Nodes)
		ports := map[string]bool{}
		for _, n := range nodes {
			ports[n.Address] = true
		}
		if err != nil || len(ports) != 3 || !agent.Enrolled(nodes[0].DataDir) {
			t.Errorf("%s: %+v, %v", at, nodes, err)
		}
		if _, found, err := openDir(dir, o.Nodes); err != nil || !found {
			t.Errorf("%s: made, and found %v, %v", at, found, err)
		}
	}
}

// A file in the way is refused like any folder that is somebody else's.
func TestFileInsteadOfAFolder(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{file, filepath.Join(file, "below")} {
		var refused *api.Error
		if _, _, err := openDir(dir, 5); !errors.As(err, &refused) || refused.Code != api.CodeRefused || refused.Hint == "" {
			t.Errorf("%s: %v", dir, err)
		}
	}
}

func TestForeignFolderIsLeftAlone(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{"notes.txt": "mine", "dev.json": "{}", "dev.json ": `{"version":1,"nodes":5}`} {
		dir := t.TempDir()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		var refused *api.Error
		if _, _, err := openDir(dir, 5); !errors.As(err, &refused) || refused.Code != api.CodeRefused {
			t.Errorf("folder with %q: %v", name, err)
		}
		if b, err := os.ReadFile(path); err != nil || string(b) != text {
			t.Errorf("%q was touched: %q, %v", name, b, err)
		}
	}
	if _, found, err := openDir(t.TempDir(), 5); err != nil || found {
		t.Errorf("empty folder: %v, found %v", err, found)
	}
}

func TestTakenPortIsSkipped(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	taken := l.Addr().(*net.TCPAddr).Port
	got, err := freePort(taken)
	if err == nil && got <= taken || err != nil && taken < 65300 {
		t.Errorf("freePort(%d) = %d, %v", taken, got, err)
	}
	if _, err := freePort(65536); err == nil {
		t.Error("a port beyond the last one")
	}
}

func TestHolderOfALock(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if _, alive := holder(dir); alive {
		t.Error("nobody has ever been here")
	}
	if err := os.WriteFile(filepath.Join(dir, "agent.lock"), []byte("1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if pid, alive := holder(dir); alive {
		t.Errorf("a file that nobody locks is held by %d", pid)
	}
}
