package connect4

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ringagent/ringagent/internal/gamedb"
	"github.com/ringagent/ringagent/internal/npz"
)

// steady is a clock that goes on by a millisecond with every look.
func steady() func() time.Time {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	return func() time.Time { at = at.Add(time.Millisecond); return at }
}

func readGames(t *testing.T, path string) []gamedb.Game {
	t.Helper()
	var games []gamedb.Game
	err := gamedb.Read(context.Background(), path, func(g gamedb.Game) error { games = append(games, g); return nil })
	if err != nil {
		t.Fatal(err)
	}
	return games
}

func playInto(t *testing.T, path string, games int, seed uint64) {
	t.Helper()
	n, err := Selfplay(context.Background(), SelfplayOptions{Games: games, Out: path, Seed: seed, Simulations: 8, Now: steady()})
	if err != nil || n != games {
		t.Fatalf("played %d games of %d: %v", n, games, err)
	}
}

func exportFrom(t *testing.T, out string, inputs ...string) ExportResult {
	t.Helper()
	r, err := Export(context.Background(), ExportOptions{Inputs: inputs, Out: out, Mirror: true})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestSelfplayIsTheSeeds(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a, b, c := filepath.Join(dir, "a.db"), filepath.Join(dir, "b.db"), filepath.Join(dir, "c.db")
	playInto(t, a, 6, 1)
	playInto(t, b, 6, 1)
	playInto(t, c, 6, 2)
	first := readGames(t, a)
	if diff := cmp.Diff(first, readGames(t, b)); diff != "" {
		t.Errorf("same seed (-first +second):\n%s", diff)
	}
	if len(first) != 6 {
		t.Fatalf("%d games in the file", len(first))
	}
	ids := map[string]bool{}
	for _, g := range append(first, readGames(t, c)...) {
		if ids[g.ID] {
			t.Errorf("game id %s twice", g.ID)
		}
		ids[g.ID] = true
		if _, err := replay(g); err != nil {
			t.Errorf("game %s: %v", g.ID, err)
		}
		if g.Metadata["model_sha256"] != Untrained {
			t.Errorf("game %s is said to be of model %v", g.ID, g.Metadata["model_sha256"])
		}
	}
}

func TestSelfplayStopsAndKeepsWhatEnded(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "g.db")
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	progress := writerFunc(func(b []byte) { // a slow clock below prints every game
		if bytes.Contains(b, []byte("games=3\n")) {
			cancel()
		}
	})
	at := time.Unix(1_700_000_000, 0)
	now := func() time.Time { at = at.Add(time.Second); return at }
	n, err := Selfplay(ctx, SelfplayOptions{Games: 1000, Out: path, Simulations: 8, Progress: progress, Now: now})
	if !errors.Is(err, context.Canceled) || n != 3 {
		t.Fatalf("wrote %d games, %v", n, err)
	}
	if got := len(readGames(t, path)); got != n {
		t.Errorf("said %d games, %d are in the file", n, got)
	}
}

type writerFunc func([]byte)

func (f writerFunc) Write(b []byte) (int, error) { f(b); return len(b), nil }

func TestExportShapes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a, b, out := filepath.Join(dir, "a.db"), filepath.Join(dir, "b.db"), filepath.Join(dir, "d.npz")
	playInto(t, a, 4, 1)
	playInto(t, b, 3, 2)
	plies := 0
	for _, g := range append(readGames(t, a), readGames(t, b)...) {
		plies += len(g.Moves)
	}
	r := exportFrom(t, out, a, b, dir) // each file is met twice
	if r.Games != 7 || r.Samples != 2*plies || r.Skipped != 0 {
		t.Fatalf("exported %+v, want 7 games and %d samples", r, 2*plies)
	}
	if _, err := npz.Verify(out); err != nil {
		t.Fatal(err)
	}
	f, err := npz.Open(out)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	n := r.Samples
	for name, want := range map[string]npz.Header{
		"features": {Dtype: "<f4", Shape: []int{n, planes, Rows, Columns}}, "values": {Dtype: "<f4", Shape: []int{n}},
		"policy_indices": {Dtype: "<i4", Shape: []int{n, 7}}, "policy_values": {Dtype: "<f4", Shape: []int{n, 7}},
		"globals": {Dtype: "<f4", Shape: []int{n, 20}}, "values_mp": {Dtype: "<f4", Shape: []int{n, 4}},
		"num_players": {Dtype: "<i4", Shape: []int{n}}, "move_numbers": {Dtype: "<i4", Shape: []int{n}},
	} {
		got, err := f.Header(name)
		if err != nil || got.Dtype != want.Dtype || !slices.Equal(got.Shape, want.Shape) {
			t.Errorf("%s: %+v, %v; want %+v", name, got, err, want)
		}
	}
	checkSums(t, f)
	checkMirrors(t, f, n)
	again := filepath.Join(dir, "again.npz")
	exportFrom(t, again, b, a)
	if x, y := mustRead(t, out), mustRead(t, again); !bytes.Equal(x, y) {
		t.Error("the same games in another order make another file")
	}
	newest, err := Export(context.Background(), ExportOptions{Inputs: []string{a, b}, Out: again, MaxGames: 2})
	if err != nil || newest.Games != 2 {
		t.Errorf("newest two games: %+v, %v", newest, err)
	}
}

func mustRead(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func checkSums(t *testing.T, f *npz.Reader) {
	t.Helper()
	text, err := f.String("data_checksums")
	if err != nil {
		t.Fatal(err)
	}
	sums := map[string]string{}
	if err := json.Unmarshal([]byte(text), &sums); err != nil {
		t.Fatal(err)
	}
	_, values, err := f.Float32("values")
	if err != nil {
		t.Fatal(err)
	}
	b := []byte("(" + itoa(len(values)) + ",)float32")
	for _, v := range values {
		bits := math.Float32bits(v)
		b = append(b, byte(bits), byte(bits>>8), byte(bits>>16), byte(bits>>24))
	}
	sum := sha256.Sum256(b)
	if sums["values"] != hex.EncodeToString(sum[:]) || len(sums["features"]) != 64 {
		t.Errorf("checksums are %v", sums)
	}
}

func itoa(n int) string { b, _ := json.Marshal(n); return string(b) }

// checkMirrors looks at pairs of samples: the second is the first from left to right.
func checkMirrors(t *testing.T, f *npz.Reader, n int) {
	t.Helper()
	_, x, err := f.Float32("features")
	if err != nil {
		t.Fatal(err)
	}
	_, pol, err := f.Float32("policy_values")
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < n; i += 2 {
		for c := range Columns {
			if pol[i*Columns+c] != pol[(i+1)*Columns+Columns-1-c] {
				t.Fatalf("sample %d: policy is not mirrored", i)
			}
			for row := range planes * Rows {
				if x[i*Inputs+row*Columns+c] != x[(i+1)*Inputs+row*Columns+Columns-1-c] {
					t.Fatalf("sample %d: features are not mirrored", i)
				}
			}
		}
	}
}

func TestExportRefusesGamesThatBreakTheRules(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	src, bad := filepath.Join(dir, "src.db"), filepath.Join(dir, "bad.db")
	playInto(t, src, 5, 1)
	games := readGames(t, src)
	w, err := gamedb.Create(context.Background(), bad)
	if err != nil {
		t.Fatal(err)
	}
	for i, spoil := range []func(*gamedb.Game){
		func(g *gamedb.Game) { g.Winner = (g.Winner + 1) % 3 },
		func(g *gamedb.Game) { g.Moves = g.Moves[:len(g.Moves)-1] },
		func(g *gamedb.Game) { g.Moves[0].JSON = json.RawMessage(`{"column":8}`) },
		func(g *gamedb.Game) { g.Moves[2].Probs = json.RawMessage(`[1,1,1,1,1,1,1]`) },
		func(g *gamedb.Game) { g.Moves[3].Player = 3 - g.Moves[3].Player },
	} {
		spoil(&games[i])
		if err := w.Add(context.Background(), games[i]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "d.npz")
	r, err := Export(context.Background(), ExportOptions{Inputs: []string{bad}, Out: out})
	if !errors.Is(err, ErrNoSamples) || r.Skipped != 5 {
		t.Errorf("exported %+v, %v", r, err)
	}
	if _, err := os.Stat(out); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an export without samples leaves a file: %v", err)
	}
}

func TestTrainIsTheSeeds(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	db, data := filepath.Join(dir, "g.db"), filepath.Join(dir, "d.npz")
	playInto(t, db, 3, 1)
	exportFrom(t, data, db)
	train := func(name, parent string, seed uint64) TrainResult {
		var out bytes.Buffer
		r, err := Train(context.Background(), TrainOptions{
			Dataset: data, Parent: parent, Out: filepath.Join(dir, name), Epochs: 2, Seed: seed, Progress: &out,
		})
		if err != nil {
			t.Fatal(err)
		}
		if !regexp.MustCompile(`(?s)^epoch=1 .*epoch=2 .*TRAINING_SUMMARY: loss=[0-9.]+ samples=\d+ games=3 epochs=2\n$`).Match(out.Bytes()) {
			t.Errorf("printed %q", out.String())
		}
		return r
	}
	a, b, other := train("a", "", 1), train("b", "", 1), train("c", "", 2)
	if a.Digest != b.Digest || a.Digest == other.Digest {
		t.Errorf("digests %s, %s with one seed, %s with another", a.Digest, b.Digest, other.Digest)
	}
	child := train("d", filepath.Join(dir, "a"), 1)
	m, err := LoadModel(filepath.Join(dir, "d"))
	if err != nil || m.Info.Parent != a.Digest || child.ParentDigest != a.Digest {
		t.Errorf("child of %s: %+v, %v", a.Digest, m.Info, err)
	}
	if child.PolicyLoss+child.ValueLoss >= a.PolicyLoss+a.ValueLoss {
		t.Errorf("going on made the loss no smaller: %+v after %+v", child, a)
	}
}

func TestTrainRefusesOtherData(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "d.npz")
	w, err := npz.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	_ = w.Float32("features", []int{1, 40, 8, 8}, make([]float32, 40*64))
	_ = w.Float32("values", []int{1}, []float32{0})
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	out := path + ".model"
	if _, err := Train(context.Background(), TrainOptions{Dataset: path, Out: out}); !errors.Is(err, ErrDataset) {
		t.Errorf("features of another board: %v", err)
	}
	if _, err := os.Stat(out); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a refused training leaves a model: %v", err)
	}
}

// A folder may have a name that would be a pattern.
func TestDatabasesAreFoundInAnyFolder(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "a [strange] one*")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, name := range []string{"1.db", "2.db", "3.txt"} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if filepath.Ext(name) == ".db" {
			want = append(want, path)
		}
	}
	if found, err := databases([]string{dir}); err != nil || !slices.Equal(found, want) {
		t.Errorf("%v, %v", found, err)
	}
}
