package gamedb

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"sync"
)

// Writer appends finished games to one file. It is safe for concurrent use; games are written one after the other.
type Writer struct {
	mu   sync.Mutex
	conn *conn
	stmt map[string]*sql.Stmt // by table
}

var writerColumns = map[string]string{
	"games": `game_id board_type num_players rng_seed created_at completed_at game_status winner termination_reason total_moves
		total_turns duration_ms source schema_version metadata_json engine_mode`,
	"game_players":       `game_id player_number player_type ai_type`,
	"game_initial_state": `game_id initial_state_json compressed`,
	"game_moves":         `game_id move_number turn_number player move_type move_json engine_eval move_probs`,
}

// Create opens the file at path for writing, making it and its tables if they are missing. The directory must exist. A file
// of a newer schema is ErrNewerSchema. The caller must Close the Writer.
func Create(ctx context.Context, path string) (*Writer, error) {
	c, err := openForWriting(ctx, path)
	if err != nil {
		return nil, err
	}
	w := &Writer{conn: c, stmt: make(map[string]*sql.Stmt)}
	for name, columns := range writerColumns {
		if w.stmt[name], err = c.PrepareContext(ctx, insertSQL(name, strings.Fields(columns), nil)); err != nil {
			_ = w.Close()
			return nil, fmt.Errorf("prepare insert into %s: %w", name, err)
		}
	}
	return w, nil
}

func openForWriting(ctx context.Context, path string) (*conn, error) {
	c, err := open(ctx, path, forWriting)
	if err != nil {
		return nil, err
	}
	if err := prepareTables(ctx, c); err != nil {
		_ = c.Close()
		return nil, fmt.Errorf("prepare %s: %w", path, err)
	}
	return c, nil
}

// prepareTables brings an empty or older file to the layout.
func prepareTables(ctx context.Context, c *conn) error {
	tx, err := c.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	defer func() { _ = tx.Rollback() }() // nothing to undo after the commit
	version, err := schemaVersion(ctx, tx)
	if err != nil {
		return err
	}
	have, err := columns(ctx, tx)
	if err != nil {
		return err
	}
	if err := makeRoom(ctx, tx, have, nil); err != nil {
		return err
	}
	if version == 0 {
		if err := markVersion(ctx, tx); err != nil {
			return err
		}
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}

// Add writes one game, parent and children, in one transaction. A game whose id is there already is an error.
func (w *Writer) Add(ctx context.Context, g Game) error {
	if err := g.check(); err != nil {
		return err
	}
	var meta any
	if g.Metadata != nil {
		b, err := json.Marshal(g.Metadata)
		if err != nil {
			return fmt.Errorf("encode metadata of game %s: %w", g.ID, err)
		}
		meta = string(b)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.conn.transact(ctx, func() error { return w.insert(ctx, g, meta) }); err != nil {
		return fmt.Errorf("write game %s: %w", g.ID, err)
	}
	return nil
}

func (w *Writer) insert(ctx context.Context, g Game, meta any) error {
	put := func(table string, args ...any) error {
		_, err := w.stmt[table].ExecContext(ctx, args...)
		return err
	}
	var winner, duration any // a draw has no winner, an unknown start no duration
	if g.Winner > 0 {
		winner = g.Winner
	}
	if !g.CreatedAt.IsZero() {
		duration = g.CompletedAt.Sub(g.CreatedAt).Milliseconds()
	}
	if err := put("games", g.ID, g.Board, g.Players, g.Seed, formatTime(g.CreatedAt), formatTime(g.CompletedAt), "completed",
		winner, g.Termination, len(g.Moves), len(g.Moves), duration, g.Source, SchemaVersion, meta, g.EngineMode); err != nil {
		return err
	}
	for p := 1; p <= g.Players; p++ {
		if err := put("game_players", g.ID, p, "ai", g.EngineMode); err != nil {
			return err
		}
	}
	if g.Initial != nil {
		if err := put("game_initial_state", g.ID, string(g.Initial), 0); err != nil {
			return err
		}
	}
	for _, m := range g.Moves {
		var eval any
		if !math.IsNaN(m.Eval) {
			eval = m.Eval
		}
		if err := put("game_moves", g.ID, m.Number, m.Number, m.Player, m.Type, rawText(m.JSON), eval, rawText(m.Probs)); err != nil {
			return err
		}
	}
	return nil
}

func rawText(m json.RawMessage) any {
	if m == nil {
		return nil
	}
	return string(m)
}

// Close ends the Writer. What Add has returned for stays.
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.stmt {
		if s != nil {
			_ = s.Close() // closing the connection frees it anyway
		}
	}
	if err := w.conn.Close(); err != nil {
		return fmt.Errorf("close game database: %w", err)
	}
	return nil
}

// insertSQL takes the values of columns; in the empty ones it leaves none, whatever a stranger's table has for want of a value.
func insertSQL(table string, columns, empty []string) string {
	var names, values []string
	for _, c := range columns {
		names, values = append(names, quote(c)), append(values, "?")
	}
	for _, c := range empty {
		names, values = append(names, quote(c)), append(values, "NULL")
	}
	return "INSERT INTO " + quote(table) + " (" + strings.Join(names, ", ") + ") VALUES (" + strings.Join(values, ", ") + ")"
}
