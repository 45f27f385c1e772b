package agent_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/ringagent/ringagent/agent"
	"github.com/ringagent/ringagent/agent/agenttest"
	"github.com/ringagent/ringagent/internal/gamedb"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// A pack that nobody takes, as its record counts other games than it has, keeps the others out of no export.
func TestExportLeavesUnfitPacksOut(t *testing.T) {
	t.Parallel()
	var s seats
	r := agenttest.Start(t, agenttest.Options{Core: 1, Edge: 1, Specs: base(s.spec())})
	first, env := s.at(t, r, "c1"), s.at(t, r, "e1")
	bad := announce(t, first, ring.KindPack, packBytes(t, 0, 1))
	path := filepath.Join(t.TempDir(), "good")
	if err := os.WriteFile(path, packBytes(t, 1, 1), 0o600); err != nil {
		t.Fatal(err)
	}
	good, n, err := first.Store.PutFile(t.Context(), path)
	if err == nil {
		err = first.Effects.AddArtifacts(t.Context(), ring.Artifact{Digest: good, Kind: ring.KindPack, Config: "connect4_2p", Bytes: n,
			Created: time.Now().UTC(), Origin: first.Self.ID, Holders: []id.Node{first.Self.ID}, Counters: map[string]int64{ring.CounterGames: 1}})
	}
	if err != nil {
		t.Fatal(err)
	}
	list := announce(t, first, ring.KindFile, []byte(string(bad)+"\n"+string(good)+"\n"))
	for _, packs := range [][]id.Digest{{bad, good}, {list}} {
		out, err := agent.Merged(t.Context(), env.Store, "connect4_2p", packs...)
		if err != nil {
			t.Fatal(err)
		}
		if c, err := gamedb.Count(t.Context(), out); err != nil || c.Games != 1 {
			t.Errorf("%d games, %v", c.Games, err)
		}
	}
}
