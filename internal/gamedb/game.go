package gamedb

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/ringagent/ringagent/internal/id"
)

// Game is one finished game.
type Game struct {
	ID      string // unique wherever games meet; at most 200 bytes
	Board   string // the config key's first part, such as "connect4"
	Players int    // 1 to 9
	Seed    int64

	CreatedAt, CompletedAt time.Time // kept to the microsecond, UTC

	Winner      int // player number from 1; 0 is a draw
	Termination string
	Source      string // who played: a job's or node's name, for people
	EngineMode  string
	Metadata    map[string]any  // must encode as JSON; nil is none
	Initial     json.RawMessage // the starting position, if it is not the usual one
	Moves       []Move          // at least one, numbers strictly rising
}

// Move is one move of a game.
type Move struct {
	Number int
	Player int    // from 1
	Type   string // free, such as "drop"
	JSON   json.RawMessage
	Probs  json.RawMessage // the search's distribution, nil if there was none
	Eval   float64         // the engine's opinion for the player to move; NaN is unknown
}

// Config is the config key of the game: board, "_", players, "p".
func (g Game) Config() id.Config { return configKey(g.Board, g.Players) }

func configKey(board string, players int) id.Config {
	return id.Config(fmt.Sprintf("%s_%dp", board, players))
}

// check says what is wrong with a game that is about to be written.
func (g Game) check() error {
	switch {
	case g.ID == "" || len(g.ID) > maxIDLength || strings.ContainsRune(g.ID, 0):
		return fmt.Errorf("game id %.40q: want 1 to %d bytes", g.ID, maxIDLength)
	case g.Winner < 0 || g.Winner > g.Players:
		return fmt.Errorf("game %s: winner %d of %d players", g.ID, g.Winner, g.Players)
	case len(g.Moves) == 0:
		return fmt.Errorf("game %s has no moves", g.ID)
	case len(g.Moves) > maxRows:
		return fmt.Errorf("game %s has more than %d moves", g.ID, maxRows)
	case g.CompletedAt.IsZero():
		return fmt.Errorf("game %s has no time of completion", g.ID)
	case g.Initial != nil && !json.Valid(g.Initial):
		return fmt.Errorf("game %s: initial state is no JSON", g.ID)
	}
	if _, err := id.ParseConfig(string(g.Config())); err != nil {
		return fmt.Errorf("game %s: %w", g.ID, err)
	}
	last := math.MinInt
	for _, m := range g.Moves {
		switch {
		case m.Number <= last:
			return fmt.Errorf("game %s: move %d follows move %d", g.ID, m.Number, last)
		case m.Player < 1 || m.Player > g.Players:
			return fmt.Errorf("game %s: move %d by player %d of %d", g.ID, m.Number, m.Player, g.Players)
		case m.JSON != nil && !json.Valid(m.JSON), m.Probs != nil && !json.Valid(m.Probs):
			return fmt.Errorf("game %s: move %d is no JSON", g.ID, m.Number)
		case math.IsInf(m.Eval, 0):
			return fmt.Errorf("game %s: move %d has an infinite evaluation", g.ID, m.Number)
		}
		last = m.Number
	}
	return nil
}

// timeLayout sorts as text in the order of time.
const timeLayout = "2006-01-02T15:04:05.000000Z"

func formatTime(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UTC().Format(timeLayout)
}

var errNoTime = errors.New("no time")

// parseTime accepts what the old system's writers left behind: ISO texts with and without zone, and Unix seconds.
func parseTime(v any) (time.Time, error) {
	switch v := v.(type) {
	case int64:
		return time.Unix(v, 0).UTC(), nil
	case float64:
		if math.IsNaN(v) || math.Abs(v) > 1e12 {
			return time.Time{}, errNoTime
		}
		whole, part := math.Modf(v)
		return time.Unix(int64(whole), int64(part*1e9)).UTC(), nil
	case string:
		for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05.999999999", "2006-01-02 15:04:05.999999999Z07:00",
			"2006-01-02 15:04:05.999999999"} {
			if t, err := time.Parse(layout, v); err == nil {
				return t.UTC(), nil
			}
		}
	}
	return time.Time{}, errNoTime
}
