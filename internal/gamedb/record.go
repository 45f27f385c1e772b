package gamedb

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/ringagent/ringagent/internal/id"
)

// record is one game as its rows, in every table of the layout that the file has.
type record struct {
	id    string
	done  bool // finished, where the loader was told how to know
	parts []part
}

type part struct {
	tableColumns
	rows [][]any // nil, int64, float64, string or []byte, in the order of cols
}

// Rejection names a game that was left out, or in Gather a whole pack, and says why.
type Rejection struct {
	ID     string
	Pack   string // all of it was left out, and ID is empty
	Reason string
}

// annotation says whether a column holds later opinions about a game instead of the game. They may change after the game is
// finished, so they are no part of what makes two copies of it the same.
func annotation(table, column string) bool {
	return table == "games" && (strings.HasPrefix(column, "parity_") || strings.HasPrefix(column, "quality_"))
}

// sum is the content hash of a game: over tables in the layout's order, rows in key order, columns by name. An absent value
// and a column that the file does not have are the same.
func (r record) sum() [sha256.Size]byte {
	h := sha256.New()
	for _, p := range r.parts {
		order := make([]int, 0, len(p.cols))
		for i, c := range p.cols {
			if c != "game_id" && !annotation(p.name, c) {
				order = append(order, i)
			}
		}
		slices.SortFunc(order, func(a, b int) int { return strings.Compare(p.cols[a], p.cols[b]) })
		for _, row := range p.rows {
			hashBytes(h, 'R', []byte(p.name))
			for _, i := range order {
				if row[i] != nil {
					hashBytes(h, 'C', []byte(p.cols[i]))
					hashValue(h, row[i])
				}
			}
		}
	}
	return [sha256.Size]byte(h.Sum(nil))
}

func hashBytes(h hash.Hash, tag byte, b []byte) {
	var head [9]byte
	head[0] = tag
	binary.BigEndian.PutUint64(head[1:], uint64(len(b)))
	h.Write(head[:])
	h.Write(b)
}

func hashValue(h hash.Hash, v any) {
	var word [8]byte
	switch v := v.(type) {
	case int64:
		binary.BigEndian.PutUint64(word[:], uint64(v))
		hashBytes(h, 'i', word[:])
	case float64:
		binary.BigEndian.PutUint64(word[:], math.Float64bits(v))
		hashBytes(h, 'f', word[:])
	case string:
		hashBytes(h, 's', []byte(v))
	case []byte:
		hashBytes(h, 'b', v)
	}
}

// notes stand for a game's annotations: how many there are, then the hash of what they say.
type notes [1 + sha256.Size]byte

func (r record) notes() (out notes) {
	h := sha256.New()
	rows, value := r.find("games")
	cols := slices.Sorted(slices.Values(r.parts[0].cols))
	for _, c := range cols {
		if v := value(rows[0], c); annotation("games", c) && v != nil {
			out[0]++
			hashBytes(h, 'C', []byte(c))
			hashValue(h, v)
		}
	}
	copy(out[1:], h.Sum(nil))
	return out
}

// find returns the rows of a table with a way to look values up by column name.
func (r record) find(name string) (rows [][]any, value func(row []any, column string) any) {
	for _, p := range r.parts {
		if p.name != name {
			continue
		}
		at := make(map[string]int, len(p.cols))
		for i, c := range p.cols {
			at[c] = i
		}
		return p.rows, func(row []any, column string) any {
			if i, ok := at[column]; ok {
				return row[i]
			}
			return nil
		}
	}
	return nil, func([]any, string) any { return nil }
}

// config is that of a record without a fault.
func (r record) config() id.Config {
	games, value := r.find("games")
	return configKey(text(value(games[0], "board_type")), integer(value(games[0], "num_players")))
}

// fault says why a game cannot be taken in, or nothing.
func (r record) fault() string {
	games, value := r.find("games")
	if len(games) != 1 {
		return fmt.Sprintf("%d rows in games", len(games))
	}
	if r.id == "" || len(r.id) > maxIDLength || strings.ContainsRune(r.id, 0) {
		return "unusable game id"
	}
	board, ok1 := value(games[0], "board_type").(string)
	players, ok2 := value(games[0], "num_players").(int64)
	if !ok1 || !ok2 || players < 1 || players > 9 {
		return "no board or number of players"
	}
	if _, err := id.ParseConfig(string(configKey(board, int(players)))); err != nil {
		return err.Error()
	}
	switch w := value(games[0], "winner").(type) {
	case nil:
	case int64:
		if w < 0 || w > players {
			return fmt.Sprintf("winner %d of %d players", w, players)
		}
	default:
		return "winner is no number"
	}
	if v := value(games[0], "completed_at"); v != nil {
		if _, err := parseTime(v); err != nil {
			return "unreadable time of completion"
		}
	}
	moves, value := r.find("game_moves")
	if len(moves) == 0 {
		return "no moves"
	}
	for _, m := range moves {
		if _, ok := value(m, "move_number").(int64); !ok {
			return "a move without a number"
		}
		if p, ok := value(m, "player").(int64); ok && (p < 0 || p > players) {
			return fmt.Sprintf("a move by player %d of %d", p, players)
		}
	}
	return ""
}

// game decodes a record without faults.
func (r record) game() (Game, error) {
	games, value := r.find("games")
	row := games[0]
	g := Game{ID: r.id, Board: text(value(row, "board_type")), Players: integer(value(row, "num_players")),
		Winner: integer(value(row, "winner")), Termination: text(value(row, "termination_reason")),
		Source: text(value(row, "source")), EngineMode: text(value(row, "engine_mode"))}
	g.Seed, _ = value(row, "rng_seed").(int64) // older games have none
	var err error
	if g.CreatedAt, err = optionalTime(value(row, "created_at")); err != nil {
		return Game{}, fmt.Errorf("game %s: created_at: %w", r.id, err)
	}
	if g.CompletedAt, err = optionalTime(value(row, "completed_at")); err != nil {
		return Game{}, fmt.Errorf("game %s: completed_at: %w", r.id, err)
	}
	if meta := text(value(row, "metadata_json")); meta != "" {
		if err := json.Unmarshal([]byte(meta), &g.Metadata); err != nil {
			return Game{}, fmt.Errorf("game %s: metadata: %w", r.id, err)
		}
	}
	if rows, value := r.find("game_initial_state"); len(rows) > 0 {
		if s := text(value(rows[0], "initial_state_json")); json.Valid([]byte(s)) {
			g.Initial = json.RawMessage(s)
		}
	}
	moves, value := r.find("game_moves")
	g.Moves = make([]Move, len(moves))
	for i, row := range moves {
		m := Move{Number: integer(value(row, "move_number")), Player: integer(value(row, "player")),
			Type: text(value(row, "move_type")), JSON: raw(value(row, "move_json")), Probs: raw(value(row, "move_probs")),
			Eval: math.NaN()}
		switch e := value(row, "engine_eval").(type) {
		case float64:
			m.Eval = e
		case int64:
			m.Eval = float64(e)
		}
		g.Moves[i] = m
	}
	return g, nil
}

func text(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case []byte:
		return string(v)
	}
	return ""
}

func integer(v any) int {
	n, _ := v.(int64) // anything else was NULL: zero by the meaning of the fields
	return int(n)
}

func raw(v any) json.RawMessage {
	if s := text(v); s != "" && json.Valid([]byte(s)) {
		return json.RawMessage(s)
	}
	return nil
}

func optionalTime(v any) (time.Time, error) {
	if v == nil {
		return time.Time{}, nil
	}
	return parseTime(v)
}
