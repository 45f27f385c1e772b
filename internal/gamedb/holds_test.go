package gamedb

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// idsOnly is a broken Holds: it does not look at what the games are.
func idsOnly(ctx context.Context, joined, pack string) error {
	have, err := Finished(ctx, joined)
	if err != nil {
		return err
	}
	there := map[string]bool{}
	for _, i := range have {
		there[i] = true
	}
	want, err := Finished(ctx, pack)
	if err != nil {
		return err
	}
	for _, i := range want {
		if !there[i] {
			return fmt.Errorf("game %.60q: %w", i, ErrNotHeld)
		}
	}
	return nil
}

// What is missing of the game 2, or differs, is found, and games 3 of another pack stay held. The broken variant passes what
// only the contents tell.
func TestHoldsFindsWhatIsMissing(t *testing.T) {
	t.Parallel()
	const two = " WHERE game_id = 'game-0002'"
	caught := 0
	for name, c := range map[string]struct {
		joined, pack []string // what is done to the joined pack, and to the pack of the games 1 and 2 after the join
		fools        bool     // it passes who compares ids alone
	}{
		"a game":             {joined: []string{"DELETE FROM games" + two}},
		"a game's rows":      {joined: []string{"DELETE FROM game_moves" + two}, fools: true},
		"a move":             {joined: []string{"DELETE FROM game_moves" + two + " AND move_number = 3"}, fools: true},
		"other move":         {joined: []string{"UPDATE game_moves SET move_json = '{}'" + two + " AND move_number = 3"}, fools: true},
		"other class":        {joined: []string{"UPDATE game_moves SET player = CAST(player AS TEXT)" + two}, fools: true},
		"other winner":       {joined: []string{"UPDATE games SET winner = 1" + two}, fools: true},
		"no player":          {joined: []string{"DELETE FROM game_players" + two}, fools: true},
		"one more move":      {joined: []string{"INSERT INTO game_moves (game_id, move_number) VALUES ('game-0002', 99)"}, fools: true},
		"unfinished":         {joined: []string{"UPDATE games SET game_status = 'active'" + two}},
		"other id":           {joined: []string{"UPDATE games SET game_id = 'GAME-0002'" + two, "UPDATE game_moves SET game_id = 'GAME-0002'" + two}},
		"another game's":     {joined: []string{"UPDATE game_moves SET game_id = 'x'" + two, "UPDATE game_moves SET game_id = 'game-0002' WHERE game_id = 'game-0001'"}, fools: true},
		"empty":              {pack: []string{"DELETE FROM games"}, fools: true},
		"none is finished":   {pack: []string{"UPDATE games SET game_status = 'active'"}, fools: true},
		"a game that is new": {pack: []string{"INSERT INTO games (game_id, board_type, num_players, game_status) VALUES ('new', 'connect4', 2, 'completed')"}},
		"one that is finished since": {joined: []string{"DELETE FROM games" + two}, pack: []string{
			"UPDATE games SET game_status = 'COMPLETED'" + two}},
		"one that does not count": {joined: []string{"UPDATE games SET board_type = 'Go!'" + two}, pack: []string{"UPDATE games SET board_type = 'Go!'" + two}, fools: true},
		"moveless in both":        {joined: []string{"DELETE FROM game_moves" + two}, pack: []string{"DELETE FROM game_moves" + two}, fools: true},
		"two at once": {joined: []string{"CREATE TABLE g AS SELECT * FROM games", "DROP TABLE games", "ALTER TABLE g RENAME TO games",
			"INSERT INTO games SELECT * FROM games" + two}, fools: true},
		"any case": {joined: []string{"CREATE TABLE g (game_id TEXT COLLATE NOCASE)", "INSERT INTO g SELECT game_id FROM games",
			"ALTER TABLE games RENAME TO old", "CREATE TABLE games AS SELECT g.game_id, " + restOf("games") + " FROM g JOIN old USING (game_id)",
			"PRAGMA writable_schema = 1", "UPDATE sqlite_schema SET sql = replace(sql, 'game_id TEXT', 'game_id TEXT COLLATE NOCASE') WHERE name = 'games'",
			"UPDATE games SET game_id = upper(game_id)" + two}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			small, other := packOf(t, filepath.Join(dir, "a"), []int{1, 2}), packOf(t, filepath.Join(dir, "b"), []int{3})
			dst, _ := joinPacks(t, small, other)
			if err := Holds(t.Context(), dst, small); err != nil {
				t.Fatal(err)
			}
			execSQL(t, dst, c.joined...)
			execSQL(t, small, c.pack...)
			if err := Holds(t.Context(), dst, small); !errors.Is(err, ErrNotHeld) {
				t.Errorf("it is held: %v", err)
			}
			if err := Holds(t.Context(), dst, other); err != nil {
				t.Errorf("the other pack is not held: %v", err)
			}
			if err := idsOnly(t.Context(), dst, small); (err == nil) != c.fools {
				t.Errorf("who compares ids alone: %v", err)
			} else if err == nil {
				caught++
			}
		})
	}
	if caught == 0 {
		t.Error("nothing here catches who compares ids alone")
	}
}

// restOf lists the columns of a table of the layout but its id.
func restOf(name string) string {
	for _, t := range layout() {
		if t.name == name {
			return strings.Join(t.columns, ", ")
		}
	}
	return ""
}

// Later notes are no part of a game, and a joined pack may have more columns and children than the pack.
func TestHoldsOverlooksNotes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	small := packOf(t, filepath.Join(dir, "a"), []int{1, 2})
	large := packOf(t, filepath.Join(dir, "b"), []int{1, 2, 3}, "UPDATE games SET quality_score = 3", "ALTER TABLE games ADD COLUMN more",
		"UPDATE games SET more = 1 WHERE game_id = 'game-0003'", "CREATE TABLE game_choices (game_id, move_number, choice_type)")
	if err := Holds(t.Context(), large, small); err != nil {
		t.Error(err)
	}
}

// An index that tells of other columns than it says passes SQLite's quick check, and the list of games is short. What is missing in
// the list is neither joined nor held.
func TestNoShortListIsBelieved(t *testing.T) {
	t.Parallel()
	bad := packOf(t, filepath.Join(t.TempDir(), "bad"), []int{1, 2}, "UPDATE games SET source = 'completed' WHERE game_id = 'game-0001'",
		"CREATE INDEX i ON games (source, completed_at, game_id)", "PRAGMA writable_schema = 1",
		"UPDATE sqlite_schema SET sql = 'CREATE INDEX i ON games (game_status, completed_at, game_id)' WHERE name = 'i'")
	if ids, err := Finished(t.Context(), bad); err != nil || len(ids) != 1 {
		t.Fatalf("the list is to be short: %v %v", ids, err)
	}
	refused(t, []string{bad}, bad, "finished games have 2 rows in games")
	neverHeld(t, bad)
}
