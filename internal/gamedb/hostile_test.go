package gamedb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// goodPack returns the bytes of a pack of three games.
func goodPack(t *testing.T) []byte {
	t.Helper()
	dir := t.TempDir()
	src, pack := filepath.Join(dir, "a.db"), filepath.Join(dir, "pack.db")
	writeGames(t, src, sampleGame(1), sampleGame(2), sampleGame(3))
	if _, err := Pack(t.Context(), src, pack, []string{"game-0001", "game-0002", "game-0003"}); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(pack)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestVerifyRefusesDamagedFiles(t *testing.T) {
	t.Parallel()
	good := goodPack(t)
	change := func(at int, with ...byte) []byte {
		b := bytes.Clone(good)
		copy(b[at:], with)
		return b
	}
	for name, b := range map[string][]byte{
		"empty":              {},
		"no database":        bytes.Repeat([]byte("not a database. "), 1000),
		"header only":        good[:100],
		"cut in a page":      good[:len(good)-1000],
		"a page missing":     good[:len(good)-4096],
		"something appended": append(bytes.Clone(good), make([]byte, 4096)...),
		"header":             change(0, 'X'),
		"page size":          change(16, 0x20, 0x00),
		"page size of one":   change(16, 0x00, 0x01),
		"tree":               change(4096, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff),
		"encrypted":          func() []byte { b := make([]byte, len(good)); _, _ = rand.NewChaCha8([32]byte{}).Read(b); return b }(),
	} {
		path := filepath.Join(t.TempDir(), "a.db")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := Verify(t.Context(), path); !errors.Is(err, ErrUnsafe) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := Verify(t.Context(), filepath.Join(t.TempDir(), "absent")); !errors.Is(err, os.ErrNotExist) || errors.Is(err, ErrUnsafe) {
		t.Errorf("absent: %v", err)
	}
	path := filepath.Join(t.TempDir(), "a.db")
	for _, suffix := range []string{"-wal", "-journal"} {
		if err := errors.Join(os.WriteFile(path, good, 0o600), os.WriteFile(path+suffix, []byte("rest"), 0o600)); err != nil {
			t.Fatal(err)
		}
		if err := Verify(t.Context(), path); !errors.Is(err, ErrUnsafe) {
			t.Errorf("%s: %v", suffix, err)
		}
		if _, err := mergeOne(t.Context(), path+".merged", path, ""); !errors.Is(err, ErrUnsafe) {
			t.Errorf("merge with %s: %v", suffix, err)
		}
		if err := os.Remove(path + suffix); err != nil {
			t.Fatal(err)
		}
	}
	if err := Verify(t.Context(), path); err != nil {
		t.Error("the good file:", err)
	}
}

func TestVerifyRefusesWhatWouldRun(t *testing.T) {
	t.Parallel()
	const endless = `WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT`
	manyTables := []string{"BEGIN"}
	for i := range 2 * maxTables {
		manyTables = append(manyTables, fmt.Sprintf("CREATE TABLE t%d (x)", i))
	}
	manyTables = append(manyTables, "COMMIT")
	asView := func(select_ string) []string {
		return []string{"DROP TABLE game_players", "DROP TABLE game_initial_state", "DROP TABLE game_moves", "DROP TABLE games",
			"CREATE VIEW games AS " + select_}
	}
	for name, c := range map[string]struct {
		statements []string
		reading    bool // also reading must refuse it, not only the check
	}{
		"view named games":      {asView("SELECT 'x' AS game_id, 'completed' AS game_status"), true},
		"endless view":          {asView(endless + " x AS game_id, 'completed' AS game_status FROM n"), true},
		"another view":          {[]string{"CREATE VIEW v AS " + endless + " count(*) FROM n"}, false},
		"trigger":               {[]string{"CREATE TRIGGER g AFTER INSERT ON games BEGIN DELETE FROM games; END"}, false},
		"virtual table":         {[]string{"CREATE VIRTUAL TABLE f USING fts5(x)"}, false},
		"virtual table of ours": {append(asView("SELECT 1 AS game_id")[:3], "CREATE VIRTUAL TABLE game_moves USING fts5(game_id, move_number)"), true},
		"computed column":       {[]string{"ALTER TABLE games ADD COLUMN z AS (length(board_type))"}, true},
		"odd column":            {[]string{`ALTER TABLE games ADD COLUMN "x"" y"`}, true},
		"many tables":           {manyTables, false},
		"no games":              {asView("SELECT 1 AS game_id")[:4], false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "a.db")
			if err := os.WriteFile(path, goodPack(t), 0o600); err != nil {
				t.Fatal(err)
			}
			execSQL(t, path, c.statements...)
			began := time.Now()
			if err := Verify(t.Context(), path); !errors.Is(err, ErrUnsafe) {
				t.Errorf("verify: %v", err)
			}
			if c.reading {
				if _, err := Finished(t.Context(), path); !errors.Is(err, ErrUnsafe) {
					t.Errorf("finished: %v", err)
				}
				if _, err := mergeOne(t.Context(), path+".merged", path, ""); !errors.Is(err, ErrUnsafe) {
					t.Errorf("merge: %v", err)
				}
			}
			if d := time.Since(began); d > 10*time.Second {
				t.Errorf("took %v", d)
			}
		})
	}
}

func TestVerifyEndsWithItsContext(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a.db")
	if err := os.WriteFile(path, goodPack(t), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Verify(ctx, path); !errors.Is(err, context.Canceled) || errors.Is(err, ErrUnsafe) {
		t.Errorf("the file is blamed, or nothing is: %v", err)
	}
}

// A check constraint may be as slow as its author likes. SQLite does not even parse those of a file opened for reading only,
// which this holds it to.
func TestCheckConstraintsOfAFileDoNotRun(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a.db")
	if err := os.WriteFile(path, goodPack(t), 0o600); err != nil {
		t.Fatal(err)
	}
	execSQL(t, path, "CREATE TABLE slow (x CHECK (instr(hex(zeroblob(10000000 + x)), 'zz') = 0))", "INSERT INTO slow VALUES (1)",
		"CREATE TABLE false (x)", "INSERT INTO false VALUES (1)", "PRAGMA writable_schema = 1",
		"UPDATE sqlite_schema SET sql = 'CREATE TABLE false (x CHECK (x > 1))' WHERE name = 'false'")
	if err := Verify(t.Context(), path); err != nil {
		t.Errorf("a constraint was evaluated: %v", err)
	}
}

// What else a file can have evaluated is computed columns, in whatever table: quick_check looks at their values.
func TestComputedColumnsOfAFileDoNotRun(t *testing.T) {
	t.Parallel()
	for kind, column := range map[string]string{
		"as it is read": "y AS (instr(hex(zeroblob(100000000 + x)), 'zz')) VIRTUAL NOT NULL",
		"stored":        "y AS (x + 1) STORED NOT NULL",
	} {
		path := filepath.Join(t.TempDir(), "a.db")
		if err := os.WriteFile(path, goodPack(t), 0o600); err != nil {
			t.Fatal(err)
		}
		execSQL(t, path, "CREATE TABLE other (x, "+column+")", "INSERT INTO other (x) VALUES (1)")
		if err := Verify(t.Context(), path); !errors.Is(err, ErrUnsafe) || !strings.Contains(err.Error(), "other.y") {
			t.Errorf("%s: %v", kind, err)
		}
	}
}

// Whichever way a stranger's file is opened, its constraints are not evaluated.
func TestConstraintsAreOffForStrangers(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a.db")
	if err := os.WriteFile(path, goodPack(t), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, how := range []access{live, finished, mending} {
		c, err := open(t.Context(), path, how)
		if err != nil {
			t.Fatal(err)
		}
		var off bool
		if err := c.QueryRowContext(t.Context(), "PRAGMA ignore_check_constraints").Scan(&off); err != nil || !off {
			t.Errorf("%d: %v %v", how, off, err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}

// Whatever bits flip, reading ends with an error or with games, never otherwise, and a merge takes all or nothing.
func TestFlippedBitsNeverCrash(t *testing.T) {
	t.Parallel()
	good, dir := goodPack(t), t.TempDir()
	rng := rand.New(rand.NewPCG(1, 2))
	path := filepath.Join(dir, "a.db")
	refused := 0
	const runs = 40
	for run := range runs {
		b := bytes.Clone(good)
		for range 1 + rng.IntN(4) {
			b[rng.IntN(len(b))] ^= 1 << rng.IntN(8)
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if Verify(t.Context(), path) != nil {
			refused++
			continue
		}
		merged := filepath.Join(dir, fmt.Sprintf("merged-%d.db", run))
		res, err := mergeOne(t.Context(), merged, path, "")
		if err != nil {
			continue
		}
		if n := len(readGames(t, merged)); n > res.Added {
			t.Fatalf("run %d: %d games after %+v", run, n, res)
		}
	}
	t.Logf("%d of %d refused", refused, runs)
}

// A disk that stalls is not the file's fault: the check that ran out of time says so, and blames nobody.
func TestSlowCheckBlamesNoFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a.db")
	if err := os.WriteFile(path, goodPack(t), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := verifyWithin(t.Context(), path, 0); !errors.Is(err, ErrSlow) || Damaged(err) {
		t.Errorf("no time at all: %v", err)
	}
	for _, machine := range []error{os.ErrNotExist, syscall.EMFILE, syscall.EIO, context.DeadlineExceeded, ErrSlow, ErrNewerSchema} {
		if Damaged(fmt.Errorf("read: %w", machine)) {
			t.Errorf("%v is taken for damage", machine)
		}
	}
}
