package connect4

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/ringagent/ringagent/internal/gamedb"
)

// ErrNoSamples says that the databases hold nothing to learn from.
var ErrNoSamples = errors.New("no samples")

// ExportOptions say what to export.
type ExportOptions struct {
	// Inputs are databases and packs, or directories, whose files *.db are taken. A game that is in several counts once.
	Inputs []string
	Out    string // NPZ file
	// MaxGames takes the newest games only; 0 is all.
	MaxGames int
	// Mirror adds the reflection of every position.
	Mirror   bool
	Progress io.Writer // gets lines "games=N"
}

// ExportResult is what an export did.
type ExportResult struct {
	Games, Samples int
	// Skipped is how many games of this board could not be replayed.
	Skipped int
}

// Export replays the finished games of the inputs, in the order of (time, id), and writes their positions as a training
// set. Without any it is ErrNoSamples and writes nothing. The same games make the same bytes.
func Export(ctx context.Context, o ExportOptions) (ExportResult, error) {
	var r ExportResult
	files, err := databases(o.Inputs)
	if err != nil {
		return r, err
	}
	games, skipped, err := gather(ctx, files)
	if err != nil {
		return r, err
	}
	r.Skipped = skipped
	if o.MaxGames > 0 && len(games) > o.MaxGames {
		games = games[len(games)-o.MaxGames:]
	}
	var d dataset
	report := newReporter(o.Progress, time.Now)
	for i, g := range games {
		if err := ctx.Err(); err != nil {
			return r, fmt.Errorf("export: %w", err)
		}
		d.addGame(&g.game, o.Mirror)
		d.newest = g.ended
		report.at("games=%d\n", i+1, i+1 == len(games))
	}
	d.games = len(games)
	r.Games, r.Samples = len(games), d.n
	if d.n == 0 {
		return r, fmt.Errorf("export %d files with %d unusable games: %w", len(files), skipped, ErrNoSamples)
	}
	if err := d.save(o.Out); err != nil {
		return r, err
	}
	return r, nil
}

// databases lists the files of the inputs.
func databases(inputs []string) ([]string, error) {
	var files []string
	for _, in := range inputs {
		st, err := os.Stat(in)
		if err != nil {
			return nil, fmt.Errorf("find games: %w", err)
		}
		if !st.IsDir() {
			files = append(files, in)
			continue
		}
		found, err := fs.Glob(os.DirFS(in), "*.db")
		if err != nil {
			return nil, fmt.Errorf("find games in %s: %w", in, err)
		}
		for _, name := range found {
			files = append(files, filepath.Join(in, name))
		}
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("find games: no database: %w", ErrNoSamples)
	}
	return files, nil
}

type finishedGame struct {
	id    string
	ended time.Time
	game  playedGame
}

// gather reads all games of this board once, oldest first, and counts those that break the rules.
func gather(ctx context.Context, files []string) (games []finishedGame, skipped int, err error) {
	seen := make(map[string]bool)
	for _, file := range files {
		err := gamedb.Read(ctx, file, func(g gamedb.Game) error {
			if g.Board != Board || g.Players != Players || seen[g.ID] {
				return nil
			}
			seen[g.ID] = true
			played, err := replay(g)
			if err != nil {
				skipped++
				return nil
			}
			games = append(games, finishedGame{id: g.ID, ended: g.CompletedAt, game: played})
			return nil
		})
		if err != nil {
			return nil, 0, fmt.Errorf("gather games: %w", err)
		}
	}
	slices.SortFunc(games, func(a, b finishedGame) int {
		return cmp.Or(a.ended.Compare(b.ended), cmp.Compare(a.id, b.id))
	})
	return games, skipped, nil
}

var errReplay = errors.New("game breaks the rules")

// replay reads a stored game and checks it against the rules: a game that was not really played must not be learnt from.
func replay(g gamedb.Game) (playedGame, error) {
	out := playedGame{winner: g.Winner, moves: make([]playedMove, len(g.Moves))}
	var p Position
	for i, m := range g.Moves {
		var drop struct {
			Column int `json:"column"`
		}
		if err := json.Unmarshal(m.JSON, &drop); err != nil {
			return out, fmt.Errorf("%w: move %d: %w", errReplay, i+1, err)
		}
		c := drop.Column - 1
		if _, over := p.Over(); over || !p.Playable(c) || m.Player != p.Player() || !(m.Eval >= -1 && m.Eval <= 1) {
			return out, fmt.Errorf("%w: move %d", errReplay, i+1)
		}
		move := &out.moves[i]
		move.column, move.value = c, m.Eval
		if err := decodePolicy(m.Probs, p.Legal(), &move.policy); err != nil {
			return out, fmt.Errorf("%w: move %d: %w", errReplay, i+1, err)
		}
		p = p.Play(c)
	}
	if winner, over := p.Over(); !over || winner != g.Winner {
		return out, fmt.Errorf("%w: result", errReplay)
	}
	return out, nil
}

// decodePolicy reads the search's distribution and scales it to a sum of one.
func decodePolicy(b []byte, legal uint8, dst *[Columns]float64) error {
	var shares []float64
	if err := json.Unmarshal(b, &shares); err != nil {
		return err
	}
	if len(shares) != Columns {
		return fmt.Errorf("%d probabilities", len(shares))
	}
	var sum float64
	for c, v := range shares {
		if !(v >= 0 && v <= 1) || (v > 0 && legal&(1<<c) == 0) {
			return fmt.Errorf("probability %v of column %d", v, c+1)
		}
		sum += v
	}
	if !(sum > 0.99 && sum < 1.01) {
		return fmt.Errorf("probabilities sum to %v", sum)
	}
	for c, v := range shares {
		dst[c] = v / sum
	}
	return nil
}

// addGame appends all positions of a game in which a move was made.
func (d *dataset) addGame(g *playedGame, mirrored bool) {
	var p Position
	for i := range g.moves {
		m := &g.moves[i]
		d.add(p, &m.policy, outcome(g.winner, p.Player()), m.value, len(g.moves), mirrored)
		p = p.Play(m.column)
	}
}
