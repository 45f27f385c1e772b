package connect4

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strconv"
	"time"

	"github.com/ringagent/ringagent/internal/gamedb"
)

// Board and Players make up the config key of this game.
const (
	Board     = "connect4"
	Players   = 2
	ConfigKey = "connect4_2p"
)

// Untrained is what stands for a digest where no model was given.
const Untrained = "untrained"

// progressEvery keeps the stages from printing more than a reader wants to parse.
const progressEvery = 200 * time.Millisecond

// SelfplayOptions say what to play.
type SelfplayOptions struct {
	Games int    // how many, at least 1
	Model string // model file; "" is the untrained network
	Out   string // SQLite file, made if missing, else added to
	Seed  uint64
	// Simulations per move; 0 is the network alone.
	Simulations int
	Source      string           // who plays, for people; "" is "connect4"
	Progress    io.Writer        // gets lines "games=N"; N games are on disk
	Now         func() time.Time // nil is time.Now
}

// Selfplay plays games of a network against itself and writes each, as it ends, in one transaction. The same options give
// the same moves, whatever was played before. It returns how many games are written, also with an error; the one that is
// being played when ctx ends is dropped.
func Selfplay(ctx context.Context, o SelfplayOptions) (written int, err error) {
	if o.Games < 1 {
		return 0, usagef("--games %d: want 1 or more", o.Games)
	}
	net, digest, err := networkOf(o.Model)
	if err != nil {
		return 0, err
	}
	now := o.Now
	if now == nil {
		now = time.Now
	}
	w, err := gamedb.Create(ctx, o.Out)
	if err != nil {
		return 0, fmt.Errorf("open %s: %w", o.Out, err)
	}
	defer func() {
		if cerr := w.Close(); err == nil && cerr != nil {
			err = fmt.Errorf("close %s: %w", o.Out, cerr)
		}
	}()
	s := NewSearch(NewEvaluator(net), o.Simulations)
	stop := func() bool { return ctx.Err() != nil }
	report := newReporter(o.Progress, now)
	for i := range o.Games {
		began := now()
		g, done := selfplayGame(s, newRand(o.Seed, streamPlay, uint64(i)), stop)
		if !done {
			return written, fmt.Errorf("play game %d: %w", i+1, ctx.Err())
		}
		if err := w.Add(ctx, o.record(g, i, digest, began, now())); err != nil {
			return written, fmt.Errorf("play game %d: %w", i+1, err)
		}
		written++
		report.at("games=%d\n", written, written == o.Games)
	}
	return written, nil
}

// networkOf loads a model, or makes the control when path is empty.
func networkOf(path string) (*Network, string, error) {
	if path == "" {
		return NewNetwork(0), Untrained, nil
	}
	m, err := LoadModel(path)
	if err != nil {
		return nil, "", err
	}
	return m.Net, m.Digest, nil
}

// record puts a game into the form of the database. Its id is drawn from all that tells games apart, times included, so
// that one id never has two contents: a run repeated with the same seed makes new games, not conflicting ones.
func (o *SelfplayOptions) record(g playedGame, index int, digest string, began, ended time.Time) gamedb.Game {
	h := sha256.New()
	fmt.Fprintf(h, "%s\n%s\n%d\n%d\n%d\n%d\n%d\n", Board, digest, o.Simulations, o.Seed, index, began.UnixMicro(), ended.UnixMicro())
	rec := gamedb.Game{
		Board: Board, Players: Players, Seed: int64(o.Seed & math.MaxInt64),
		CreatedAt: began, CompletedAt: ended,
		Winner: g.winner, Termination: "four_in_line", Source: o.Source, EngineMode: "puct",
		Metadata: map[string]any{"model_sha256": digest, "simulations": o.Simulations, "index": index},
		Moves:    make([]gamedb.Move, len(g.moves)),
	}
	if rec.Source == "" {
		rec.Source = Board
	}
	if g.winner == 0 {
		rec.Termination = "board_full"
	}
	if o.Simulations == 0 {
		rec.EngineMode = "policy"
	}
	for i, m := range g.moves {
		rec.Moves[i] = gamedb.Move{
			Number: i + 1, Player: i%Players + 1, Type: "drop",
			JSON:  json.RawMessage(`{"column":` + strconv.Itoa(m.column+1) + `}`),
			Probs: encodePolicy(&m.policy), Eval: math.Round(m.value*1e4) / 1e4,
		}
		h.Write([]byte{byte(m.column)})
	}
	rec.ID = "c4-" + hex.EncodeToString(h.Sum(nil)[:16])
	return rec
}

func encodePolicy(p *[Columns]float64) json.RawMessage {
	b := append(make([]byte, 0, 64), '[')
	for c, v := range p {
		if c > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendFloat(b, v, 'g', 4, 64)
	}
	return append(b, ']')
}

// reporter prints a counter at most once per progressEvery, and always the last one.
type reporter struct {
	w    io.Writer
	now  func() time.Time
	last time.Time
}

func newReporter(w io.Writer, now func() time.Time) *reporter {
	return &reporter{w: w, now: now}
}

func (r *reporter) at(format string, n int, last bool) {
	if r.w == nil {
		return
	}
	if t := r.now(); last || t.Sub(r.last) >= progressEvery {
		r.last = t
		// Progress is for whoever listens; if nobody does, the work goes on.
		_, _ = fmt.Fprintf(r.w, format, n)
	}
}
