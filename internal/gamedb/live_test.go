package gamedb

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"modernc.org/sqlite"
)

// TestMain also is the other process.
func TestMain(m *testing.M) {
	switch os.Getenv("GAMEDB_TEST_ROLE") {
	case "play":
		play(os.Getenv("GAMEDB_TEST_PATH"))
	case "lock":
		tryToWrite(os.Getenv("GAMEDB_TEST_PATH"))
	}
	os.Exit(m.Run())
}

const batch = 10

// play adds a batch of games for each byte on its input and names each game when it is written.
func play(path string) {
	w, err := Create(context.Background(), path)
	for n := 0; err == nil; n++ {
		if n%batch == 0 {
			_, err = io.ReadFull(os.Stdin, make([]byte, 1))
		}
		if err == nil {
			err = w.Add(context.Background(), sampleGame(n))
		}
		if err == nil {
			_, err = fmt.Println(sampleGame(n).ID)
		}
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func tryToWrite(path string) {
	w, err := Create(context.Background(), path)
	if err == nil {
		_, err = w.conn.ExecContext(context.Background(), "PRAGMA busy_timeout = 0")
	}
	if err == nil {
		err = w.Add(context.Background(), sampleGame(99))
	}
	fmt.Println(err == nil)
	os.Exit(0)
}

func startOther(t *testing.T, role, path string, in io.Reader) (*exec.Cmd, *bufio.Reader) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "GAMEDB_TEST_ROLE="+role, "GAMEDB_TEST_PATH="+path)
	cmd.Stdin = in
	out, err := cmd.StdoutPipe()
	if err = errors.Join(err, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	return cmd, bufio.NewReader(out)
}

// Another process writes, is read meanwhile, and is killed in the middle. What it said was written is there, whole.
func TestGamesOfALiveAndOfAKilledWriter(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "live.db")
	in, more, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer more.Close()
	cmd, out := startOther(t, "play", path, in)
	_ = in.Close() // the other process has its own
	ask := func(batches int) {
		if _, err := more.Write(make([]byte, batches)); err != nil {
			t.Fatal(err)
		}
	}
	var said []string
	listen := func(n int) {
		for range n {
			line, err := out.ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			said = append(said, line[:len(line)-1])
		}
	}
	check := func() {
		ids, err := Finished(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range said {
			if !slices.Contains(ids, want) {
				t.Fatalf("%s was written and is not listed", want)
			}
		}
	}
	for round := range 4 {
		ask(2) // it plays the second while the first is read
		listen(batch)
		check()
		info, err := Pack(t.Context(), path, filepath.Join(dir, "pack.db"), said)
		if err != nil || info.Games != len(said) || len(info.Rejected) != 0 {
			t.Fatalf("round %d: %+v %v", round, info, err)
		}
		if c, err := Count(t.Context(), path); err != nil || c.Games < len(said) {
			t.Fatalf("round %d: %+v %v", round, c, err)
		}
		listen(batch)
	}
	ask(50)
	listen(batch / 2)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	rest, _ := io.ReadAll(out) // what it said before it died; the last line may be cut
	_ = cmd.Wait()
	for line := range bufioLines(rest) {
		said = append(said, line)
	}
	check()
	games := readGames(t, path)
	if len(games) >= 58*batch {
		t.Errorf("it was killed too late: %d games", len(games))
	}
	for i, g := range games {
		if diff := cmp.Diff(sampleGame(i), g, cmpopts.EquateNaNs()); diff != "" {
			t.Fatal(diff)
		}
	}
}

func bufioLines(b []byte) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for {
			i := slices.Index(b, '\n')
			if i < 0 || !yield(string(b[:i])) {
				return
			}
			b = b[i+1:]
		}
	}
}

// Hashing a database while it is open drops the locks of the whole process where only POSIX locks exist: another process
// would then write into the middle of our transaction.
func TestClosingADescriptorDoesNotDropLocks(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("only Linux has locks that belong to the open file")
	}
	path := filepath.Join(t.TempDir(), "a.db")
	writeGames(t, path, sampleGame(1))
	c, err := open(t.Context(), path, forPacking) // without the write-ahead log, whose locks are elsewhere
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if !sqlite.OFDLockingEnabled() {
		t.Fatal("locks are the process's")
	}
	tx, err := c.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback() }()
	if _, err := tx.ExecContext(t.Context(), "UPDATE games SET winner = 1"); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err = errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	cmd, out := startOther(t, "lock", path, nil)
	line, err := out.ReadString('\n')
	if err != nil || line != "false\n" {
		t.Errorf("the other process wrote: %q %v", line, err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// Two processes' worth of merges into one file wait for each other.
func TestConcurrentMerges(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	merged := filepath.Join(dir, "merged.db")
	done := make(chan error)
	const packs = 4
	for i := range packs {
		src, pack := filepath.Join(dir, fmt.Sprintf("a%d.db", i)), filepath.Join(dir, fmt.Sprintf("p%d.db", i))
		writeGames(t, src, sampleGame(i), sampleGame(100))
		if _, err := Pack(t.Context(), src, pack, []string{sampleGame(i).ID, sampleGame(100).ID}); err != nil {
			t.Fatal(err)
		}
		go func() {
			_, err := mergeOne(t.Context(), merged, pack, "")
			done <- err
		}()
	}
	for range packs {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if n := len(readGames(t, merged)); n != packs+1 {
		t.Errorf("%d games", n)
	}
}

func BenchmarkAdd(b *testing.B) {
	w, err := Create(b.Context(), filepath.Join(b.TempDir(), "a.db"))
	if err != nil {
		b.Fatal(err)
	}
	defer w.Close()
	n := 0
	for b.Loop() {
		g := sampleGame(n)
		for len(g.Moves) < 30 {
			m := g.Moves[1]
			m.Number = len(g.Moves)
			g.Moves = append(g.Moves, m)
		}
		if err := w.Add(b.Context(), g); err != nil {
			b.Fatal(err)
		}
		n++
	}
}

func BenchmarkPackAndMerge(b *testing.B) {
	dir := b.TempDir()
	src := filepath.Join(dir, "a.db")
	w, err := Create(b.Context(), src)
	if err != nil {
		b.Fatal(err)
	}
	const games = 1000
	var ids []string
	for n := range games {
		g := sampleGame(n)
		g.CompletedAt = g.CompletedAt.Add(time.Duration(n))
		ids = append(ids, g.ID)
		if err := w.Add(b.Context(), g); err != nil {
			b.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		b.Fatal(err)
	}
	n := 0
	for b.Loop() {
		pack := filepath.Join(dir, "pack.db")
		if _, err := Pack(b.Context(), src, pack, ids); err != nil {
			b.Fatal(err)
		}
		if _, err := mergeOne(b.Context(), filepath.Join(dir, fmt.Sprintf("m%d.db", n)), pack, ""); err != nil {
			b.Fatal(err)
		}
		n++
	}
	b.ReportMetric(float64(games*n)/b.Elapsed().Seconds(), "games/s")
}

// BenchmarkMergeSmallPacks merges what nodes of a busy ring hand in: packs of some fifty games.
func BenchmarkMergeSmallPacks(b *testing.B) {
	dir := b.TempDir()
	const packs, games = 20, 50
	var paths []string
	for p := range packs {
		src := filepath.Join(dir, fmt.Sprintf("job%d.db", p))
		w, err := Create(b.Context(), src)
		if err != nil {
			b.Fatal(err)
		}
		var ids []string
		for n := range games {
			g := sampleGame(p*games + n)
			g.Initial = nil
			for len(g.Moves) < 24 {
				m := g.Moves[1]
				m.Number = len(g.Moves)
				g.Moves = append(g.Moves, m)
			}
			if err := w.Add(b.Context(), g); err != nil {
				b.Fatal(err)
			}
			ids = append(ids, g.ID)
		}
		if err := w.Close(); err != nil {
			b.Fatal(err)
		}
		pack := filepath.Join(dir, fmt.Sprintf("pack%d.db", p))
		if _, err := Pack(b.Context(), src, pack, ids); err != nil {
			b.Fatal(err)
		}
		paths = append(paths, pack)
	}
	n := 0
	for b.Loop() {
		m, err := OpenMerger(b.Context(), filepath.Join(dir, fmt.Sprintf("m%d.db", n)))
		if err != nil {
			b.Fatal(err)
		}
		for _, pack := range paths {
			if _, err := m.Merge(b.Context(), pack, "connect4_2p"); err != nil {
				b.Fatal(err)
			}
		}
		if err := m.Close(); err != nil {
			b.Fatal(err)
		}
		n++
	}
	b.ReportMetric(float64(games*packs*n)/b.Elapsed().Seconds(), "games/s")
}
