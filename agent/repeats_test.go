package agent_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/ringagent/ringagent/agent/agenttest"
	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/daemons/datasync"
	"github.com/ringagent/ringagent/deploy/workloads"
	"github.com/ringagent/ringagent/internal/gamedb"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// packBytes is a pack of n games, from number first on.
func packBytes(t *testing.T, first, n int) []byte {
	t.Helper()
	dir := t.TempDir()
	src, pack := filepath.Join(dir, "src.db"), filepath.Join(dir, "pack.db")
	w, err := gamedb.Create(t.Context(), src)
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for i := first; i < first+n; i++ {
		at := time.Date(2026, 11, 23, 10, 0, i, 0, time.UTC)
		g := gamedb.Game{ID: fmt.Sprint("game-", i), Board: "connect4", Players: 2, CreatedAt: at, CompletedAt: at, Initial: json.RawMessage("{}"),
			Moves: []gamedb.Move{{Player: 1, Type: "drop", JSON: json.RawMessage("{}")}}}
		if err := w.Add(t.Context(), g); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, g.ID)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := gamedb.Pack(t.Context(), src, pack, ids); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(pack)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Two packs that share games, handed in at two nodes, count every game once at every node.
func TestSharedGamesOfTwoPacksCountOnce(t *testing.T) {
	t.Parallel()
	r := agenttest.Start(t, agenttest.Options{Core: 2, Specs: base(datasync.AutoSync()), Settings: func(s *ring.Settings) {
		s.Workload, s.Configs = workloads.Connect4, []id.Config{"connect4_2p"}
		s.Daemons = map[string]json.RawMessage{"AUTO_SYNC": json.RawMessage(`{"every":"1s"}`)}
	}})
	q := map[string][]string{"kind": {"games"}, "config": {"connect4_2p"}}
	for name, b := range map[string][]byte{"c1": packBytes(t, 0, 6), "c2": packBytes(t, 4, 5)} {
		if err := r.Node(name).Client().Upload(t.Context(), "/api/v1/artifacts", q, bytes.NewReader(b), nil); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range r.Nodes() {
		r.Until(n.Name+" counts every game once", func(ctx context.Context) error {
			var out api.Games
			if err := n.Client().Get(ctx, "/api/v1/games", nil, &out); err != nil {
				return err
			}
			if len(out.Configs) != 1 || out.Configs[0].Games != 9 || out.Configs[0].Packs != 2 {
				return fmt.Errorf("%+v", out.Configs)
			}
			return nil
		})
	}
}
