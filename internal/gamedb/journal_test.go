package gamedb

import (
	"database/sql"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// spill makes a database in the journal mode that SQLite has by default, whose writer is within a transaction that has reached
// the file already, and stays there until the test ends.
func spill(t *testing.T, path string) {
	t.Helper()
	writeGames(t, path, sampleGame(1))
	execSQL(t, path, "PRAGMA journal_mode = DELETE")
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(1)
	for _, q := range []string{"PRAGMA cache_size = 1", "BEGIN IMMEDIATE",
		`WITH RECURSIVE n(i) AS (SELECT 100 UNION ALL SELECT i+1 FROM n WHERE i < 3000)
			INSERT INTO game_moves (game_id, move_number, player, move_json) SELECT 'game-0001', i, 1, hex(randomblob(200)) FROM n`} {
		if _, err := db.Exec(q); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { _ = db.Close() })
}

// The games of a writer that was killed within a transaction come away, without what it had half written.
func TestGamesOfAWriterThatLeftAJournal(t *testing.T) {
	t.Parallel()
	writing, path := filepath.Join(t.TempDir(), "job.db"), filepath.Join(t.TempDir(), "killed.db")
	spill(t, writing)
	for _, side := range []string{"", "-journal"} { // what the writer's death leaves
		b, err := os.ReadFile(writing + side)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path+side, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ids, err := Finished(t.Context(), path)
	if diff := cmp.Diff([]string{"game-0001"}, ids); err != nil || diff != "" {
		t.Fatal(err, diff)
	}
	pack := filepath.Join(t.TempDir(), "pack.db")
	if _, err := Pack(t.Context(), path, pack, ids); err != nil {
		t.Fatal(err)
	}
	got := readGames(t, pack)
	if len(got) != 1 || len(got[0].Moves) != len(sampleGame(1).Moves) {
		t.Errorf("%d games, %d moves", len(got), len(got[0].Moves))
	}
	if _, err := os.Stat(path + "-journal"); !os.IsNotExist(err) {
		t.Errorf("the journal is still there: %v", err)
	}
}

// What a living writer is in the middle of is left alone.
func TestJournalOfALivingWriterIsLeftAlone(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "job.db")
	spill(t, path)
	c, err := open(t.Context(), path, mending)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.ExecContext(t.Context(), "PRAGMA busy_timeout = 0"); err != nil {
		t.Fatal(err)
	}
	var n int
	if err := c.QueryRowContext(t.Context(), "SELECT count(*) FROM sqlite_schema").Scan(&n); err == nil {
		t.Error("it was read in mid-transaction")
	}
	if _, err := os.Stat(path + "-journal"); err != nil {
		t.Errorf("the writer's journal: %v", err)
	}
	if _, err := c.ExecContext(t.Context(), "DELETE FROM games"); err == nil {
		t.Error("a foreign file was changed")
	}
}

// A file that its writer keeps locked cannot be read now. Nothing is wrong with it, and nobody waits long for it.
func TestLockedFileIsReadLater(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "job.db")
	spill(t, path)
	if ids, err := Finished(t.Context(), path); err == nil || Damaged(err) {
		t.Errorf("%v, %v", ids, err)
	}
	c, err := open(t.Context(), path, live)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var millis int
	if err := c.QueryRowContext(t.Context(), "PRAGMA busy_timeout").Scan(&millis); err != nil || millis > 500 {
		t.Errorf("a reader waits %d ms: %v", millis, err)
	}
}
