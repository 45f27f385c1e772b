package gamedb

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
)

// Games are counted by the table of games alone. A file whose games all lack what a pack needs must not pass for that.
func TestUsable(t *testing.T) {
	t.Parallel()
	const tables = `CREATE TABLE games (game_id TEXT PRIMARY KEY, board_type, num_players, game_status, winner);
		CREATE TABLE game_moves (game_id TEXT, move_number, PRIMARY KEY (game_id, move_number))`
	const good = `INSERT INTO games VALUES ('good', 'ttt', 2, 'completed', 1); INSERT INTO game_moves VALUES ('good', 0)`
	const moveless = `INSERT INTO games VALUES ('a', 'ttt', 2, 'completed', 1)`
	for name, c := range map[string]struct {
		statements []string
		want       string
	}{
		"good":         {[]string{tables, good}, ""},
		"one is":       {[]string{tables, moveless, good}, ""},
		"no game yet":  {[]string{tables}, ""},
		"none ended":   {[]string{tables, `INSERT INTO games VALUES ('a', 'ttt', 2, 'playing', NULL)`}, ""},
		"no moves":     {[]string{tables, moveless}, `1 finished games, and none can be used, such as "a": no moves`},
		"winner":       {[]string{tables, good, `UPDATE games SET winner = 'X'`}, "winner is no number"},
		"number":       {[]string{tables, good, `UPDATE game_moves SET move_number = 'first'`}, "a move without a number"},
		"board":        {[]string{tables, good, `UPDATE games SET board_type = 'Tic Tac Toe'`}, "Tic Tac Toe_2p"},
		"no key":       {[]string{`CREATE TABLE games (id, board_type)`}, "table games lacks its key column game_id"},
		"no move list": {[]string{`CREATE TABLE games (game_id, board_type, num_players, game_status)`, `INSERT INTO games VALUES ('a', 'ttt', 2, 'completed')`}, "no moves"},
	} {
		path := filepath.Join(t.TempDir(), "games.db")
		execSQL(t, path, c.statements...)
		err := Usable(t.Context(), path)
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.want != "" && (!errors.Is(err, ErrUnsafe) || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: %v; want %s", name, err, c.want)
		}
	}
}
