package agent

import (
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/ringagent/ringagent/internal/gamedb"
	"github.com/ringagent/ringagent/internal/ring"
)

// A node takes no pack, and states no receipt, of which the record counts other games than there are.
func TestPackIsLookedIntoForItsCounter(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	src, pack := filepath.Join(dir, "src.db"), filepath.Join(dir, "pack.db")
	w, err := gamedb.Create(t.Context(), src)
	if err != nil {
		t.Fatal(err)
	}
	g := gamedb.Game{ID: "g", Board: "connect4", Players: 2, CompletedAt: time.Unix(1e9, 0), Moves: []gamedb.Move{{Number: 1, Player: 1}}}
	if err := errors.Join(w.Add(t.Context(), g), w.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := gamedb.Pack(t.Context(), src, pack, []string{"g"}); err != nil {
		t.Fatal(err)
	}
	for said, good := range map[int64]bool{1: true, 0: false, 2: false, 4e18: false, -1: false} {
		a := ring.Artifact{Kind: ring.KindPack, Config: "connect4_2p", Counters: map[string]int64{ring.CounterGames: said}}
		err := fit(t.Context(), a, pack)
		var bad *unfit
		if good != (err == nil) || !good && !errors.As(err, &bad) {
			t.Errorf("%d games are counted in it: %v", said, err)
		}
	}
	// What was counted before anybody looked stays what it is.
	if err := fit(t.Context(), ring.Artifact{Kind: ring.KindPack, Safe: true, Counters: map[string]int64{ring.CounterGames: 2}}, pack); err != nil {
		t.Error(err)
	}
	// The same bytes before they are a pack, as those of a joined one are.
	if err := fit(t.Context(), ring.Artifact{Kind: ring.KindFile}, pack); err != nil {
		t.Error(err)
	}
}
