package agent_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"github.com/ringagent/ringagent/agent"
	"github.com/ringagent/ringagent/agent/agenttest"
	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/agent/config"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/mesh/identity"
	"github.com/ringagent/ringagent/mesh/meshtest"
)

// The files that join and init write, in the order in which they get their final names; wholeDir keeps the tables true. A
// crash leaves the files before some point, and of the next one perhaps a temporary file.
var (
	joinWrites = []string{
		"tls/node.key", "tls/node.id", // before the ring is asked
		"timing", "roster.json", "peers.json", "tls/node.crt", "tls/ca.crt", "api.token", "config.yaml", "node.json", // after it has granted
	}
	initWrites = []string{
		"tls/node.key", "tls/node.id", "tls/node.crt", "tls/ca.key", "tls/ca.crt", "api.token", "seed.json", "config.yaml", "node.json",
	}
)

const secretPart = "half of a secret"

// crashAt makes of a whole data dir what a crash after the first n writes leaves.
func crashAt(t *testing.T, dir string, writes []string, n int) {
	t.Helper()
	for _, w := range writes[n:] {
		if err := os.Remove(filepath.Join(dir, w)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}
	if n < len(writes) {
		next := filepath.Join(dir, writes[n])
		must(t, os.MkdirAll(filepath.Dir(next), 0o700))
		must(t, os.WriteFile(filepath.Join(filepath.Dir(next), "."+filepath.Base(next)+".31415926"), []byte(secretPart), 0o600))
	}
}

// wholeDir checks that a finished data dir holds the files of the table, in its order, and nothing else that would matter.
func wholeDir(t *testing.T, dir string, writes []string) {
	t.Helper()
	var have []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		if name != "agent.lock" && name != "ballast" {
			have = append(have, name)
		}
		return nil
	})
	must(t, err)
	want := slices.Sorted(slices.Values(writes))
	if slices.Sort(have); !slices.Equal(have, want) {
		t.Fatalf("the data dir holds %q; the table of writes says %q", have, want)
	}
	for i := range writes[1:] {
		a, err := os.Stat(filepath.Join(dir, writes[i]))
		must(t, err)
		b, err := os.Stat(filepath.Join(dir, writes[i+1]))
		must(t, err)
		// The node's id is written again, as the ring has granted it.
		if a.ModTime().After(b.ModTime()) && writes[i] != "tls/node.id" {
			t.Errorf("%s was written after %s: the table of writes has another order", writes[i], writes[i+1])
		}
	}
}

// noParts fails when a temporary file is left anywhere.
func noParts(t *testing.T, at, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		if b, err := os.ReadFile(path); err == nil && bytes.Contains(b, []byte(secretPart)) {
			t.Errorf("%s: %s is left behind", at, path)
		}
		return nil
	})
	must(t, err)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func exitOf(err error) int {
	var e *api.Error
	if errors.As(err, &e) {
		return e.Exit()
	}
	return -1
}

// A join that dies between any two of its writes is finished by the next join or start; once the place is granted it costs
// no second use of the token, gives the same node, and leaves no part of a secret behind.
func TestInterruptedJoin(t *testing.T) {
	t.Parallel()
	r := agenttest.Prepare(t, agenttest.Options{Core: 1, Edge: len(joinWrites), Specs: base()})
	c1 := r.Node("c1")
	c1.Enrol()
	c1.Start()
	const asked, settled = 2, 7 // writes before the ring is asked, and until the place stands on disk
	tokens := func() (uses int) {
		var ts api.Tokens
		must(t, c1.Client().Get(t.Context(), "/api/v1/tokens", nil, &ts))
		for _, x := range ts.Tokens {
			uses += x.Used
		}
		return uses
	}
	for n := range len(joinWrites) {
		at := "after " + strings.Join(joinWrites[:n], " ")
		e := r.Node(fmt.Sprintf("e%d", n+1))
		token, before := r.Token(id.Edge), tokens()
		e.Prepare()
		var granted []byte
		if n >= asked {
			must(t, e.EnrolWith(t.Context(), token))
			wholeDir(t, e.Dir, joinWrites)
			granted, _ = os.ReadFile(filepath.Join(e.Dir, "node.json"))
		} else if n > 0 {
			store, err := identity.OpenStore(e.Dir)
			must(t, err)
			_, err = store.NodeKey()
			must(t, err)
		}
		crashAt(t, e.Dir, joinWrites, n)
		if agent.Enrolled(e.Dir) || agent.Granted(e.Dir) != (n >= settled) {
			t.Errorf("%s: enrolled %v, granted %v", at, agent.Enrolled(e.Dir), agent.Granted(e.Dir))
		}
		ask := e.Enrolment(token)
		switch {
		case n >= settled && n%2 == 0:
			ask.Token, ask.Network = identity.Secret{}, nil // as `agent` does it: nothing is asked of anybody
		case n >= settled:
			foreign := ask
			other, err := identity.ParseToken(token.Reveal())
			must(t, err)
			other.CA = id.Digest(strings.Repeat("0", 64))
			foreign.Token = other.Encode()
			if err := agent.Enrol(t.Context(), foreign); exitOf(err) != 8 {
				t.Errorf("%s: the token of another ring: %v, want exit code 8", at, err)
			}
			if _, err := agent.Init("other", ask.Config, config.DefaultRing()); exitOf(err) != 8 {
				t.Errorf("%s: init: %v, want exit code 8", at, err)
			}
		}
		if err := agent.Enrol(t.Context(), ask); err != nil {
			t.Errorf("%s: %v", at, err)
			continue
		}
		noParts(t, at, e.Dir)
		if now, _ := os.ReadFile(filepath.Join(e.Dir, "node.json")); granted != nil && !bytes.Equal(now, granted) {
			t.Errorf("%s: node.json is %s, was %s", at, now, granted)
		}
		if got := tokens() - before; got != 1 {
			t.Errorf("%s: the token was used %d times", at, got)
		}
		e.Start()
		mustNote(t, r, e, at)
		e.Stop()
	}
	var ms api.Members
	must(t, c1.Client().Get(t.Context(), "/api/v1/members", nil, &ms))
	if len(ms.Members) != 1+len(joinWrites) {
		t.Errorf("%d members, want %d: somebody got in twice", len(ms.Members), 1+len(joinWrites))
	}
}

// A folder in which an agent has run and that has lost its node.json may hold the only keys of a ring: nothing is made of it.
func TestHeadlessFolderIsLeftAlone(t *testing.T) {
	t.Parallel()
	c := config.Default(filepath.Join(t.TempDir(), "data"))
	c.NodeName, c.Listen, c.Class = "c1", "127.0.9.1:8770", id.Core
	_, err := agent.Init("first", c, config.DefaultRing())
	must(t, err)
	must(t, os.Mkdir(filepath.Join(c.DataDir, "raft"), 0o700))
	must(t, os.Remove(filepath.Join(c.DataDir, "node.json")))
	key, err := os.ReadFile(filepath.Join(c.DataDir, "tls/ca.key"))
	must(t, err)
	_, err = agent.Init("second", c, config.DefaultRing())
	if exitOf(err) != 8 {
		t.Errorf("init: %v, want exit code 8", err)
	}
	token := identity.NewToken(id.Digest(strings.Repeat("0", 64)))
	err = agent.Enrol(t.Context(), agent.Enrolment{
		Config: c, Seeds: []string{"127.0.9.2:8770"}, Token: token.Encode(), Network: meshtest.New(1).Host("127.0.9.1"),
	})
	if exitOf(err) != 8 {
		t.Errorf("join: %v, want exit code 8", err)
	}
	if now, err := os.ReadFile(filepath.Join(c.DataDir, "tls/ca.key")); err != nil || !bytes.Equal(now, key) {
		t.Errorf("the key of the ring is gone: %v", err)
	}
}

// An init that dies between any two of its writes can be said again, and makes a whole ring. A join is not taken for it.
func TestInterruptedInit(t *testing.T) {
	t.Parallel()
	for n := range len(initWrites) {
		at := "after " + strings.Join(initWrites[:n], " ")
		c := config.Default(filepath.Join(t.TempDir(), "data"))
		c.NodeName, c.Listen, c.Class = "c1", "127.0.8.1:8770", id.Core
		must(t, os.Mkdir(c.DataDir, 0o700))
		must(t, os.WriteFile(filepath.Join(c.DataDir, "ballast"), nil, 0o600))
		must(t, os.Truncate(filepath.Join(c.DataDir, "ballast"), 32<<20))
		_, err := agent.Init("first", c, config.DefaultRing())
		must(t, err)
		wholeDir(t, c.DataDir, initWrites)
		old, _ := os.ReadFile(filepath.Join(c.DataDir, "tls/ca.key"))
		crashAt(t, c.DataDir, initWrites, n)
		if agent.Granted(c.DataDir) {
			t.Errorf("%s: taken for a place in a ring", at)
		}
		if slices.Contains(initWrites[:n], "tls/ca.key") {
			token := identity.NewToken(id.Digest(strings.Repeat("0", 64)))
			err := agent.Enrol(t.Context(), agent.Enrolment{
				Config: c, Seeds: []string{"127.0.8.2:8770"}, Token: token.Encode(), Network: meshtest.New(1).Host("127.0.8.1"),
			})
			if exitOf(err) != 8 {
				t.Errorf("%s: join: %v, want exit code 8", at, err)
			}
		}
		// A join that failed before it had its place may have left these, too.
		must(t, os.WriteFile(filepath.Join(c.DataDir, "roster.json"), []byte(`{"index":99,"members":[{"id":"0123456789abcdef"}]}`), 0o600))
		must(t, os.WriteFile(filepath.Join(c.DataDir, "peers.json"), []byte(`{}`), 0o600))
		made, err := agent.Init("second", c, config.DefaultRing())
		if err != nil {
			t.Errorf("%s: %v", at, err)
			continue
		}
		noParts(t, at, c.DataDir)
		if now, _ := os.ReadFile(filepath.Join(c.DataDir, "tls/ca.key")); bytes.Equal(now, old) {
			t.Errorf("%s: the key of the ring that was never born is still there", at)
		}
		a, err := agent.New(c, agent.Options{Log: zerolog.Nop(), Network: meshtest.New(1).Host("127.0.8.1")})
		if err != nil {
			t.Errorf("%s: the agent does not take what init made: %v", at, err)
			continue
		}
		if have, err := os.ReadFile(filepath.Join(c.DataDir, "roster.json")); err == nil || made.Ring != "second" {
			t.Errorf("%s: %+v, roster %s", at, made, have)
		}
		ended, end := context.WithCancelCause(t.Context())
		end(agent.ErrAbrupt)
		must(t, a.Run(ended))
	}
}
