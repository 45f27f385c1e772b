package agent

import (
	"database/sql"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ringagent/ringagent/agent/worker"
	"github.com/ringagent/ringagent/internal/gamedb"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/proc"
	"github.com/ringagent/ringagent/internal/rating"
)

// Matches under a name of the workload's own choice are good matches, and would be told as measured and then be missed by
// the gates: the error must come from the job, and say what to write.
func TestMatchesBelongToTheCandidate(t *testing.T) {
	t.Parallel()
	digest := id.Digest(strings.Repeat("ab", 32))
	match := func(a string, config string) rating.Match {
		return rating.Match{ID: a + config, Time: time.Unix(1_700_000_000, 0), Config: config, A: a, B: "random", Score: 1}
	}
	for name, c := range map[string]struct {
		matches   []rating.Match
		candidate id.Digest
		want      string
	}{
		"named":          {[]rating.Match{match("old", "x_2p"), match(string(digest), "x_2p")}, digest, ""},
		"another name":   {[]rating.Match{match("candidate", "x_2p")}, digest, `is "candidate" there; write the SHA-256 of the file {model}, ` + string(digest)},
		"another config": {[]rating.Match{match(string(digest), "y_2p")}, digest, "match 1 is of y_2p; this job measures x_2p"},
		"an id twice":    {[]rating.Match{match(string(digest), "x_2p"), match(string(digest), "x_2p")}, digest, "two matches have the id"},
		"no candidate":   {[]rating.Match{match("candidate", "x_2p")}, "", ""},
	} {
		path := filepath.Join(t.TempDir(), "matches.jsonl")
		if err := rating.WriteMatches(path, c.matches); err != nil {
			t.Fatal(err)
		}
		claim := worker.Claim{Config: "x_2p", Inputs: map[string]id.Digest{"candidate": c.candidate}}
		err := belongs(t.Context(), claim, proc.Artifact{Path: path, Kind: "matches"})
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want %q", name, err, c.want)
		}
	}
}

// A job's games are taken for those of its config whatever they say of themselves, so they have to say the same.
func TestGamesBelongToTheConfig(t *testing.T) {
	t.Parallel()
	path := oneGame(t, "y")
	out := proc.Artifact{Path: path, Kind: "games"}
	if err := belongs(t.Context(), worker.Claim{Config: "y_2p"}, out); err != nil {
		t.Error(err)
	}
	if err := belongs(t.Context(), worker.Claim{Config: "x_2p"}, out); err == nil || !strings.Contains(err.Error(), "y_2p; board_type and num_players should make x_2p") {
		t.Errorf("games of another config: %v", err)
	}
}

// Games that no pack can take are worth nothing, though they can be counted: their job must not end well.
func TestJobOfUnusableGamesFails(t *testing.T) {
	t.Parallel()
	path := oneGame(t, "x")
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = db.ExecContext(t.Context(), `DELETE FROM game_moves`)
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	counters, err := jobValidators()["games"](t.Context(), path)
	if err == nil || !strings.Contains(err.Error(), `such as "g1": no moves`) {
		t.Errorf("counted %v, %v", counters, err)
	}
}

// oneGame writes a file with one game of a board.
func oneGame(t *testing.T, board string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "games.db")
	w, err := gamedb.Create(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	err = w.Add(t.Context(), gamedb.Game{ID: "g1", Board: board, Players: 2, CreatedAt: now, CompletedAt: now, Moves: []gamedb.Move{{Player: 1}}})
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return path
}
