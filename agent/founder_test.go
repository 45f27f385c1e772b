package agent

import (
	"context"
	"errors"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.etcd.io/bbolt"

	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/agent/config"
	"github.com/ringagent/ringagent/deploy/workloads"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/leader"
	"github.com/ringagent/ringagent/leader/state"
	"github.com/ringagent/ringagent/mesh"
	"github.com/ringagent/ringagent/mesh/meshtest"
)

// The founder introduces itself in the background, and may be late. A token made before that would let newcomers in with a
// roster that lacks their only voter, and they would refuse it. Here nothing introduces the founder at all but the token.
func TestNoTokenBeforeTheFounder(t *testing.T) {
	t.Parallel()
	a, ctx := founder(t, func(config.Config) {})
	insist(ctx, t, "make a token", func(ctx context.Context) error {
		_, err := a.createToken(ctx, api.CreateToken{Class: id.Core, TTLSeconds: 60, Uses: 1})
		return err
	})
	if _, ok := a.leader.View().Member(a.node.ID); !ok {
		t.Error("there is a token, and the founder is not in the roster")
	}
	if exists(a.dir.path("seed.json")) {
		t.Error("the seed is sown and still there")
	}
}

// Nobody could enrol with a token of a node that cannot sign for newcomers.
func TestNoTokenWithoutTheKey(t *testing.T) {
	t.Parallel()
	a, ctx := founder(t, func(c config.Config) {
		if err := os.Remove(filepath.Join(c.DataDir, "tls", "ca.key")); err != nil {
			t.Error(err)
		}
	})
	var e *api.Error
	if _, err := a.createToken(ctx, api.CreateToken{Class: id.Core, TTLSeconds: 60, Uses: 1}); !errors.As(err, &e) ||
		e.Code != api.CodeRefused || !strings.Contains(e.Message, "ca.key") {
		t.Errorf("got %v", err)
	}
}

// The receipt of a file that is uploaded first of all is a member's, too, and not a stranger's.
func TestNoReceiptBeforeTheFounder(t *testing.T) {
	t.Parallel()
	a, ctx := founder(t, func(config.Config) {})
	insist(ctx, t, "upload", func(ctx context.Context) error {
		_, err := a.putArtifact(httptest.NewRequestWithContext(ctx, "POST", "/api/v1/artifacts?kind=file", strings.NewReader("something")))
		return err
	})
	if _, ok := a.leader.View().Member(a.node.ID); !ok {
		t.Error("there is a receipt, and the founder is not in the roster")
	}
}

// A core node whose roster lacks the node that asks for it, or has it as another class, does not introduce the ring: nobody else
// with such a roster would admit it.
func TestRosterThatLacksTheAskerIsNotTaken(t *testing.T) {
	t.Parallel()
	for name, class := range map[string]id.Class{"not in it": "", "in it as an edge node": id.Edge} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, ctx := founder(t, func(config.Config) {})
			seed, _, err := a.dir.readSeed()
			if err != nil {
				t.Fatal(err)
			}
			m := seed.Member
			if m.Class = class; class == "" {
				m.ID, m.Name, m.Class = id.NewNode(), "c2", id.Core
			}
			insist(ctx, t, "enrol", func(ctx context.Context) error {
				_, err := a.leader.Propose(ctx, a.command(state.KindEnrol, state.Enrol{Class: m.Class, Member: m}))
				return err
			})
			before := a.roster.file()
			err = a.introducedBy(ctx, mesh.Peer{Node: a.node.ID, Class: id.Core})
			if err == nil || !strings.Contains(err.Error(), "this node is not in it") {
				t.Errorf("introduced: %v", err)
			}
			if !rosterEqual(before, a.roster.file()) {
				t.Error("its roster was taken")
			}
		})
	}
}

// An operator who asks a ring for its settings as soon as it has a coordinator, or changes them, neither hears of none nor comes
// before its first ones.
func TestSettingsAreKnownFromTheFirstMomentOn(t *testing.T) {
	t.Parallel()
	for name, ask := range map[string]func(context.Context, *Agent) (any, error){
		"asked": func(ctx context.Context, a *Agent) (any, error) { return a.view(ctx, "/api/v1/settings", nil) },
		"changed": func(ctx context.Context, a *Agent) (any, error) {
			s := config.DefaultRing()
			s.Timing, s.Workload, s.Configs = ring.TimingDev, workloads.Connect4, []id.Config{"connect4_2p"}
			return a.applySettings(ctx, s)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, ctx := founder(t, func(config.Config) {})
			var got any
			insist(ctx, t, "ask for settings", func(ctx context.Context) (err error) {
				got, err = ask(ctx, a)
				return err
			})
			want := map[string]uint64{"asked": 1, "changed": 2}[name]
			if is := got.(settingsAnswer); is.Version != want || is.Settings.Workload != workloads.Connect4 {
				t.Errorf("settings are version %d, not %d, with a workload of %d bytes", is.Version, want, len(is.Settings.Workload))
			}
		})
	}
}

// endUnrun closes what New has opened of an agent that never ran.
func endUnrun(t *testing.T, a *Agent) {
	t.Helper()
	over, cancel := context.WithCancel(t.Context())
	cancel()
	_ = a.outbox.Run(over) // it closes its file
	_ = a.leader.Close()
	a.closeReplica()
	a.mesh.Close()
	_ = a.local.close()
	a.dir.close()
}

// insist asks until it is granted, for at most 40 s.
func insist(ctx context.Context, t *testing.T, what string, ask func(context.Context) error) {
	t.Helper()
	ctx, stop := context.WithTimeout(ctx, 40*time.Second)
	defer stop()
	for {
		err := ask(ctx)
		if err == nil {
			return
		}
		if !pause(ctx, 20*time.Millisecond) {
			t.Fatalf("%s: %v", what, err)
		}
	}
}

// founder is the first node of a ring in its first start, of which nothing has introduced itself. Before that start its data
// directory may be changed.
func founder(t *testing.T, before func(config.Config)) (*Agent, context.Context) {
	t.Helper()
	c := config.Default(t.TempDir())
	c.NodeName, c.Listen, c.Class = "c1", "127.0.7.1:8770", id.Core
	if err := os.WriteFile(filepath.Join(c.DataDir, "ballast"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(c.DataDir, "ballast"), ballastBytes); err != nil {
		t.Fatal(err)
	}
	s := config.DefaultRing()
	s.Timing, s.Workload, s.Configs = ring.TimingDev, workloads.Connect4, []id.Config{"connect4_2p"}
	if _, err := Init("test", c, s); err != nil {
		t.Fatal(err)
	}
	before(c)
	a, err := New(c, Options{Log: zerolog.Nop(), Network: meshtest.New(1).Host("127.0.7.1")})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- runParts(ctx, part{"mesh", a.mesh.Run}, part{"leader", a.leader.Run}, part{"event replica", a.replica.Run}, part{"outbox", a.outbox.Run})
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		_ = a.local.close()
		a.dir.close()
	})
	return a, ctx
}

// A ring that has just begun says of no workload that there is none, also where its first start was cut off on the way.
func TestWorkIsTakenFromTheFirstMomentOn(t *testing.T) {
	t.Parallel()
	for name, before := range map[string]func(config.Config){
		"first start": func(config.Config) {},
		"cut off before Raft's files": func(c config.Config) {
			if err := os.Mkdir(filepath.Join(c.DataDir, "raft"), 0o700); err != nil {
				t.Error(err)
			}
		},
		"cut off between Raft's first two writes": func(c config.Config) {
			dir := filepath.Join(c.DataDir, "raft")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Error(err)
				return
			}
			s, err := leader.OpenStore(dir)
			if err == nil {
				err = errors.Join(s.SetUint64([]byte("CurrentTerm"), 1), s.Close())
			}
			if err != nil {
				t.Error(err)
			}
		},
		"failed late": func(c config.Config) {
			db, err := bbolt.Open(filepath.Join(c.DataDir, "outbox.db"), 0o600, nil)
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := New(c, Options{Log: zerolog.Nop(), Network: meshtest.New(1).Host("127.0.7.1")}); err == nil {
				t.Error("started with an outbox that somebody else has open")
			}
			if err := db.Close(); err != nil {
				t.Error(err)
			}
		},
		"cut off before Run": func(c config.Config) {
			a, err := New(c, Options{Log: zerolog.Nop(), Network: meshtest.New(1).Host("127.0.7.1")})
			if err != nil {
				t.Error(err)
				return
			}
			endUnrun(t, a)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, ctx := founder(t, before)
			insist(ctx, t, "add work", func(ctx context.Context) error {
				_, err := a.addWork(ctx, api.AddWork{Type: "selfplay", Config: "connect4_2p"})
				if err != nil && api.AsError(err).Code == api.CodeRefused {
					t.Fatal(err)
				}
				return err
			})
		})
	}
}
