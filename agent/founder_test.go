package agent

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/agent/config"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/mesh/meshtest"
)

// The founder introduces itself in the background, and may be late. A token made before that would let newcomers in with a
// roster that lacks their only voter, and they would refuse it. Here nothing introduces the founder at all but the token.
func TestNoTokenBeforeTheFounder(t *testing.T) {
	t.Parallel()
	c := config.Default(t.TempDir())
	c.NodeName, c.Listen, c.Class = "c1", "127.0.7.1:8770", id.Core
	if err := os.WriteFile(filepath.Join(c.DataDir, "ballast"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(c.DataDir, "ballast"), ballastBytes); err != nil {
		t.Fatal(err)
	}
	s := config.DefaultRing()
	s.Timing = ring.TimingDev
	if _, err := Init("test", c, s); err != nil {
		t.Fatal(err)
	}
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
	ask, stop := context.WithTimeout(ctx, 40*time.Second)
	defer stop()
	for {
		_, err := a.createToken(ask, api.CreateToken{Class: id.Core, TTLSeconds: 60, Uses: 1})
		if err == nil {
			break
		}
		if !pause(ask, 20*time.Millisecond) {
			t.Fatalf("no token: %v", err)
		}
	}
	if _, ok := a.leader.View().Member(a.node.ID); !ok {
		t.Error("there is a token, and the founder is not in the roster")
	}
	if exists(a.dir.path("seed.json")) {
		t.Error("the seed is sown and still there")
	}
}
