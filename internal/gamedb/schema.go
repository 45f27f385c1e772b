package gamedb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// SchemaVersion is the layout written here, and the newest one that is read.
const SchemaVersion = 18

// ErrNewerSchema says that a file has a schema version above SchemaVersion: its bytes may be replicated, its rows not read.
var ErrNewerSchema = errors.New("game database has a newer schema")

// ErrUnsafe says that a file is no plain game database: damaged, or built so that reading it would run what it contains.
var ErrUnsafe = errors.New("game database refused")

// Bounds on what a foreign file may make us do.
const (
	maxColumns   = 128
	maxStrange   = 64 // columns of one table of a file that are not of the layout
	maxTables    = 64
	maxRows      = 100_000  // rows of one game in one table
	maxGameBytes = 64 << 20 // one game in memory
	maxIDLength  = 200
)

// table describes one table of the layout. The key's first column is always game_id, and for children it is a reference.
type table struct {
	name     string
	key      []string
	columns  []string // without the key
	optional bool     // made only where a source has it
}

func (t table) isParent() bool { return t.name == "games" }

// layout lists the parent first. Children follow in a fixed order, which is part of a game's content hash.
func layout() []table {
	return []table{
		{name: "games", key: []string{"game_id"}, columns: strings.Fields(`board_type num_players rng_seed created_at
			completed_at game_status winner termination_reason total_moves total_turns duration_ms source schema_version
			time_control_type initial_time_ms time_increment_ms metadata_json quality_score quality_category engine_mode
			parity_status parity_checked_at parity_divergence_move opponent_type opponent_model_id`)},
		{name: "game_players", key: []string{"game_id", "player_number"}, columns: strings.Fields(`player_type ai_type
			ai_difficulty ai_profile_id final_eliminated_rings final_territory_spaces final_rings_in_hand`)},
		{name: "game_initial_state", key: []string{"game_id"}, columns: []string{"initial_state_json", "compressed"}},
		{name: "game_moves", key: []string{"game_id", "move_number"}, columns: strings.Fields(`turn_number player phase
			move_type move_json timestamp think_time_ms time_remaining_ms engine_eval engine_eval_type engine_depth engine_nodes
			engine_pv engine_time_ms move_probs search_stats_json heuristic_features`)},
		{name: "game_state_snapshots", key: []string{"game_id", "move_number"},
			columns: []string{"state_json", "compressed", "state_hash"}, optional: true},
		{name: "game_choices", key: []string{"game_id", "move_number", "choice_type"},
			columns: strings.Fields("player options_json selected_option_json ai_reasoning"), optional: true},
		{name: "game_history_entries", key: []string{"game_id", "move_number"}, columns: strings.Fields(`player phase_before phase_after
			status_before status_after progress_before_json progress_after_json state_hash_before state_hash_after
			board_summary_before_json board_summary_after_json state_before_json state_after_json compressed_states available_moves_json
			available_moves_count engine_eval engine_depth fsm_valid fsm_error_code`), optional: true},
		{name: "game_nnue_features", key: []string{"game_id", "move_number", "player_perspective"},
			columns: strings.Fields("features value board_type feature_dim"), optional: true},
	}
}

// session is the part of database/sql that a connection and a transaction have in common.
type session interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	PrepareContext(ctx context.Context, query string) (*sql.Stmt, error)
}

// plainName is what a column of a foreign file may be called; anything else would need quoting rules in every reader.
var plainName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,63}$`)

func quote(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// makeRoom brings a file of ours, whose columns are have, to the layout, and to the given tables of a source. Missing columns have no type and
// no default; optional tables are made only where the source has them.
func makeRoom(ctx context.Context, s session, have map[string][]string, tables []tableColumns) error {
	want := map[string][]string{}
	for _, t := range layout() {
		if !t.optional {
			want[t.name] = t.columns
		}
	}
	for _, t := range tables {
		want[t.name] = slices.Concat(want[t.name], t.cols, t.empty)
	}
	for _, t := range layout() {
		cols, wanted := want[t.name]
		if !wanted {
			continue
		}
		known := have[t.name]
		if len(known) == 0 {
			if _, err := s.ExecContext(ctx, createTable(t)); err != nil {
				return fmt.Errorf("create table %s: %w", t.name, err)
			}
			known = slices.Concat(t.key, t.columns)
		}
		for _, c := range cols {
			if slices.Contains(known, c) {
				continue
			}
			if _, err := s.ExecContext(ctx, "ALTER TABLE "+quote(t.name)+" ADD COLUMN "+quote(c)); err != nil {
				return fmt.Errorf("add column %s to %s: %w", c, t.name, err)
			}
			known = append(known, c)
		}
	}
	return nil
}

// markVersion notes the schema version in a file of ours that does not say any.
func markVersion(ctx context.Context, s session) error {
	if _, err := s.ExecContext(ctx, `CREATE TABLE IF NOT EXISTS schema_metadata (key TEXT PRIMARY KEY, value)`); err != nil {
		return fmt.Errorf("create table schema_metadata: %w", err)
	}
	_, err := s.ExecContext(ctx, `INSERT OR IGNORE INTO schema_metadata (key, value) VALUES ('schema_version', ?)`,
		strconv.Itoa(SchemaVersion))
	if err != nil {
		return fmt.Errorf("write schema version: %w", err)
	}
	return nil
}

func createTable(t table) string {
	var b strings.Builder
	fmt.Fprintf(&b, "CREATE TABLE IF NOT EXISTS %s (game_id TEXT NOT NULL", t.name)
	if !t.isParent() {
		b.WriteString(" REFERENCES games(game_id) ON DELETE CASCADE")
	}
	for _, c := range t.key[1:] {
		fmt.Fprintf(&b, ", %s NOT NULL", c)
	}
	for _, c := range t.columns {
		b.WriteString(", " + c)
	}
	fmt.Fprintf(&b, ", PRIMARY KEY (%s))", strings.Join(t.key, ", "))
	return b.String()
}

// schemaVersion is 0 for a file without the metadata table, as old variants are.
func schemaVersion(ctx context.Context, s session) (int, error) {
	var n int
	err := s.QueryRowContext(ctx, `SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'schema_metadata'`).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("read schema: %w", err)
	}
	if n == 0 {
		return 0, nil
	}
	var v any
	err = s.QueryRowContext(ctx, `SELECT +value FROM schema_metadata WHERE key = 'schema_version'`).Scan(&v)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return 0, nil
	case err != nil:
		return 0, fmt.Errorf("read schema version: %w", err)
	}
	version, err := strconv.Atoi(strings.TrimSpace(fmt.Sprint(v)))
	if err != nil {
		return 0, fmt.Errorf("schema version %.40q is no number: %w", fmt.Sprint(v), ErrUnsafe)
	}
	if version > SchemaVersion {
		return version, fmt.Errorf("schema version %d, newest known %d: %w", version, SchemaVersion, ErrNewerSchema)
	}
	return version, nil
}

// columns lists the columns of the layout's tables that there are, by table, in declared order and lower case. Computed columns are refused:
// reading one evaluates an expression from the file.
func columns(ctx context.Context, s session) (map[string][]string, error) {
	rows, err := s.QueryContext(ctx, `SELECT lower(t.name), x.name, x.hidden FROM sqlite_schema t, pragma_table_xinfo(t.name) x
		WHERE t.type = 'table' AND lower(t.name) IN (`+layoutNames()+`) ORDER BY x.cid`)
	if err != nil {
		return nil, fmt.Errorf("read columns: %w", err)
	}
	defer rows.Close()
	out := map[string][]string{}
	for rows.Next() {
		var name, column string
		var hidden int
		if err := rows.Scan(&name, &column, &hidden); err != nil {
			return nil, fmt.Errorf("read columns: %w", err)
		}
		if hidden != 0 || !plainName.MatchString(column) {
			return nil, fmt.Errorf("column %.80q of %s is computed or oddly named: %w", column, name, ErrUnsafe)
		}
		if out[name] = append(out[name], strings.ToLower(column)); len(out[name]) > maxColumns {
			return nil, fmt.Errorf("table %s has more than %d columns: %w", name, maxColumns, ErrUnsafe)
		}
	}
	return out, rows.Err()
}

// strange lists the columns that are not of the layout. They travel along, but each that a pack brings stays in the merged databases,
// where a table has room for maxColumns: what one pack may bring is bounded, and the layout's own have their place.
func (t tableColumns) strange() (out []string) {
	for _, c := range t.cols {
		if !slices.Contains(t.key, c) && !slices.Contains(t.columns, c) {
			out = append(out, c)
		}
	}
	return out
}

// layoutNames is a list of the layout's tables in SQL.
func layoutNames() string {
	var names []string
	for _, t := range layout() {
		names = append(names, "'"+t.name+"'")
	}
	return strings.Join(names, ", ")
}

// tablesOf pairs the layout with the columns that there are.
func tablesOf(have map[string][]string) (out []tableColumns) {
	for _, t := range layout() {
		if cols := have[t.name]; len(cols) > 0 {
			out = append(out, tableColumns{table: t, cols: cols})
		}
	}
	return out
}
