package gamedb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// loader reads records from one session with prepared statements. Most of a small game's cost is the query, so those that are
// expected are read many at a time, where that gives what reading them one by one would.
type loader struct {
	session   session
	tables    []tableColumns
	condition string
	most      bounds      // of one game
	one       []*sql.Stmt // by table: the rows of one game; made when it is needed
	many      []*sql.Stmt // by table: those of mostAhead games

	next  []string // what is expected, in order
	ahead int      // how many are read at a time
	ready map[string]record
	alone int // so many of next are to be read one by one
}

const (
	mostAhead = 32
	// What was read ahead stays in memory. Larger games are read one by one, each within its own bounds.
	aheadBytes = 4 << 20
	aheadRows  = 20_000
)

// newLoader prepares reading the given tables. Where a condition is given, such as finishedCondition's, records say whether a row
// of the table of games meets it.
func newLoader(ctx context.Context, s session, tables []tableColumns, condition string) (*loader, error) {
	l := &loader{session: s, tables: tables, condition: condition, most: bounds{maxRows, maxGameBytes}, one: make([]*sql.Stmt, len(tables))}
	for i := range tables {
		many, err := l.prepare(ctx, i, ofMany)
		if err != nil {
			l.Close()
			return nil, err
		}
		l.many = append(l.many, many)
	}
	return l, nil
}

func (l *loader) prepare(ctx context.Context, table int, which string) (*sql.Stmt, error) {
	t, more := l.tables[table], ""
	if l.tells(table) {
		more = l.condition
	}
	stmt, err := l.session.PrepareContext(ctx, t.rowsSQL(which, more))
	if err != nil {
		return nil, fmt.Errorf("prepare reading %s: %w", t.name, err)
	}
	return stmt, nil
}

// The ways in which a table's rows are asked for.
var (
	ofOne  = "= ?"
	ofMany = "IN (?" + strings.Repeat(", ?", mostAhead-1) + ")"
)

// rowsSQL asks for the rows whose game_id is which, and after their columns for one expression more where there is one.
func (t tableColumns) rowsSQL(which, more string) string {
	// The plus takes the declared type away, so that the driver hands over what is stored and converts nothing.
	expr := make([]string, len(t.cols))
	for i, c := range t.cols {
		expr[i] = "+" + quote(c)
	}
	if more != "" {
		expr = append(expr, more)
	}
	order := make([]string, len(t.key))
	for i, c := range t.key {
		order[i] = quote(c)
	}
	return "SELECT " + strings.Join(expr, ", ") + " FROM " + quote(t.name) + " WHERE game_id " + which + " ORDER BY " + strings.Join(order, ", ")
}

// tells says whether a table's rows end with whether they meet the condition.
func (l *loader) tells(table int) bool { return l.condition != "" && l.tables[table].isParent() }

func (l *loader) Close() {
	for _, s := range slices.Concat(l.one, l.many) {
		if s != nil {
			_ = s.Close() // read-only: nothing is lost
		}
	}
}

// expect says which games will be loaded, in this order. Some may be left out, and others loaded between them.
func (l *loader) expect(ids []string) { l.next, l.ahead, l.ready, l.alone = ids, mostAhead, nil, 0 }

// keys are the values that a column without a type may hold for a game id, which is their text. A column with a type finds its
// own by the first.
func keys(gameID string) []any {
	out := []any{gameID}
	if n, err := strconv.ParseInt(gameID, 10, 64); err == nil && strconv.FormatInt(n, 10) == gameID {
		out = append(out, n)
	}
	return append(out, []byte(gameID))
}

// load reads one game. A game that is not there is a record whose parent part has no row. Its id is text in all rows, whatever
// the file has.
func (l *loader) load(ctx context.Context, gameID string) (record, error) {
	if r, ok := l.ready[gameID]; ok {
		delete(l.ready, gameID) // who asks again wants what is there then
		return r, nil
	}
	at := slices.Index(l.next, gameID)
	switch {
	case at < 0: // not expected
		return l.single(ctx, gameID)
	case at < l.alone || l.ahead == 1:
		l.next, l.alone = l.next[at+1:], max(0, l.alone-at-1)
		return l.single(ctx, gameID)
	}
	l.next, l.alone = l.next[at:], 0
	n := min(l.ahead, len(l.next))
	var err error
	if l.ready, err = l.several(ctx, l.next[:n]); err == nil {
		l.next = l.next[n:]
		return l.load(ctx, gameID)
	}
	if err := ctx.Err(); err != nil {
		return record{}, err
	}
	if !errors.Is(err, errOdd) && !Damaged(err) {
		return record{}, err // after a full disk, say, there may be no transaction any more: nothing goes on in it
	}
	// Something is large, damaged or odd. One by one it shows what that is, and the others are read.
	l.alone, l.ahead = n, max(1, l.ahead/2)
	return l.load(ctx, gameID)
}

func (l *loader) single(ctx context.Context, gameID string) (record, error) {
	r := record{id: gameID, parts: make([]part, len(l.tables))}
	read := l.most
	for i, t := range l.tables {
		var err error
		if l.one[i] == nil {
			if l.one[i], err = l.prepare(ctx, i, ofOne); err != nil {
				return record{}, err
			}
		}
		var rows [][]any
		for _, key := range keys(gameID) {
			read.rows = l.most.rows // in each table; what they take is counted over all
			if rows, err = loadRows(ctx, l.one[i], []any{key}, l.width(i), &read); err != nil {
				return record{}, fmt.Errorf("read %s of game %.60q: %w", t.name, gameID, err)
			}
			if len(rows) > 0 {
				break
			}
		}
		l.keep(&r, i, rows)
		if t.isParent() && len(rows) == 0 {
			break // no game, and a merge asks for many that are not there
		}
	}
	return r, nil
}

func (l *loader) width(table int) int {
	n := len(l.tables[table].cols)
	if l.tells(table) {
		n++
	}
	return n
}

// keep makes rows a record's part.
func (l *loader) keep(r *record, table int, rows [][]any) {
	t := l.tables[table]
	for k, row := range rows {
		for j, c := range t.cols {
			if c == "game_id" {
				row[j] = r.id
			}
		}
		if l.tells(table) {
			r.done = r.done || row[len(t.cols)] == int64(1)
			rows[k] = row[:len(t.cols)]
		}
	}
	r.parts[table] = part{tableColumns: t, rows: rows}
}

// errOdd says that games read together may not be what they are when they are read one by one.
var errOdd = errors.New("not to be read together")

// several reads games together. Any error may be due to one of them, or to their being together.
func (l *loader) several(ctx context.Context, ids []string) (map[string]record, error) {
	if alikeIDs(ids) {
		return nil, errOdd
	}
	out := make(map[string]record, len(ids))
	for _, gameID := range ids {
		out[gameID] = record{id: gameID, parts: make([]part, len(l.tables))}
	}
	read := bounds{rows: aheadRows, bytes: aheadBytes}
	wanted := ids
	for i := range l.tables {
		found, err := l.rowsOf(ctx, i, wanted, &read)
		if err != nil {
			return nil, err
		}
		var there []string
		for _, gameID := range wanted {
			r := out[gameID]
			l.keep(&r, i, found[gameID])
			out[gameID] = r
			if len(found[gameID]) > 0 {
				there = append(there, gameID)
			}
		}
		if l.tables[i].isParent() {
			wanted = there
		}
	}
	return out, nil
}

// alikeIDs says whether a column that compares letters without their case, or texts without the blanks at their end, would take two
// of the ids for one.
func alikeIDs(ids []string) bool {
	seen := make(map[string]bool, len(ids))
	for _, gameID := range ids {
		folded := strings.ToLower(strings.TrimRight(gameID, " "))
		if seen[folded] {
			return true
		}
		seen[folded] = true
	}
	return false
}

// rowsOf reads one table's rows of several games, each by the first of its keys that has any.
func (l *loader) rowsOf(ctx context.Context, table int, ids []string, read *bounds) (map[string][][]any, error) {
	found := make(map[string][][]any, len(ids))
	for _, gameID := range ids {
		found[gameID] = nil
	}
	column := slices.Index(l.tables[table].cols, "game_id")
	for class := range keyClasses {
		var args []any
		for _, gameID := range ids {
			if len(found[gameID]) > 0 {
				continue
			}
			if key, ok := keyOf(gameID, class); ok {
				args = append(args, key)
			}
		}
		if len(args) == 0 {
			continue
		}
		for len(args) < mostAhead {
			args = append(args, args[0])
		}
		rows, err := loadRows(ctx, l.many[table], args, l.width(table), read)
		if err != nil {
			return nil, err
		}
		for _, row := range rows {
			gameID, ok := textOf(row[column], class)
			if _, asked := found[gameID]; !ok || !asked {
				return nil, errOdd // found by another comparison than that of bytes
			}
			found[gameID] = append(found[gameID], row)
		}
	}
	return found, nil
}

// keyClasses is how many kinds of keys there are.
const keyClasses = 3

// keyOf is the key of one kind: text, number, bytes.
func keyOf(gameID string, class int) (any, bool) {
	all := keys(gameID)
	switch {
	case class == 0:
		return all[0], true
	case class == keyClasses-1:
		return all[len(all)-1], true
	}
	return all[1], len(all) == keyClasses
}

// textOf is the id that a key of one kind stands for.
func textOf(v any, class int) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, class == 0
	case int64:
		return strconv.FormatInt(v, 10), class == 1
	case []byte:
		return string(v), class == keyClasses-1
	}
	return "", false
}

// bounds are what may still be read. Bytes are counted over all tables of a game: a file can have many rows that take more room here
// than in it, each with a hundred columns without a value.
type bounds struct{ rows, bytes int }

// valueBytes is what a value takes in memory beside its text or blob.
const valueBytes = 16

func loadRows(ctx context.Context, stmt *sql.Stmt, args []any, width int, left *bounds) ([][]any, error) {
	rows, err := stmt.QueryContext(ctx, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out [][]any
	into := make([]any, width)
	for rows.Next() {
		vals := make([]any, width)
		for i := range vals {
			into[i] = &vals[i]
		}
		if err := rows.Scan(into...); err != nil {
			return nil, err
		}
		left.bytes -= width * valueBytes
		for _, v := range vals {
			switch v := v.(type) {
			case string:
				left.bytes -= len(v)
			case []byte:
				left.bytes -= len(v)
			}
		}
		out = append(out, vals)
		if left.rows--; left.rows < 0 || left.bytes < 0 {
			return nil, fmt.Errorf("game has more than %d rows or %d bytes: %w", maxRows, maxGameBytes, ErrUnsafe)
		}
	}
	return out, rows.Err()
}
