package connect4

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/urfave/cli/v2"

	"github.com/ringagent/ringagent/internal/rating"
)

func saveTestModel(t *testing.T, dir string, seed uint64) string {
	t.Helper()
	path := filepath.Join(dir, "model-"+itoa(int(seed)))
	if err := SaveModel(path, &Model{Net: busyNetwork(seed), Info: ModelInfo{Seed: seed}}); err != nil {
		t.Fatal(err)
	}
	return path
}

// The least number of games is played against the champion, too, whatever the usual most is: promotion counts them.
func TestLeastGamesAgainstTheChampion(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	o := EvaluateOptions{Champion: saveTestModel(t, dir, 2), Opponents: []string{"random"}, MinGames: 150, MaxGames: 200, ChampionGames: DefaultChampionGames}
	list, err := o.opponents("me")
	if err != nil || len(list) != 2 {
		t.Fatalf("%v, %v", list, err)
	}
	for _, x := range list {
		if x.min != 75 || x.max < x.min {
			t.Errorf("%s: %d to %d pairs", x.name, x.min, x.max)
		}
	}
}

func TestEvaluatePairs(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	o := EvaluateOptions{
		Model: saveTestModel(t, dir, 1), Champion: saveTestModel(t, dir, 2), Opponents: []string{"random", "heuristic"},
		Out: filepath.Join(dir, "m.jsonl"), Seed: 5, Simulations: 2, MinGames: 6, MaxGames: 20, ChampionGames: 10, Now: steady(),
	}
	r, err := Evaluate(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	matches, err := rating.ReadMatches(o.Out)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Scores) != 3 || len(matches) != r.Games || len(rating.Distinct(matches)) != r.Games {
		t.Fatalf("%d scores, %d games, %d matches, %d of them distinct", len(r.Scores), r.Games, len(matches), len(rating.Distinct(matches)))
	}
	pairs := map[string]int{} // opponent and opening
	points := map[string]float64{}
	for _, m := range matches {
		if m.A != r.Digest || m.Config != ConfigKey {
			t.Fatalf("match %+v", m)
		}
		pairs[m.B+" "+m.Opening]++
		points[m.B] += m.Score
	}
	for k, n := range pairs {
		if n != 2 {
			t.Errorf("opening %s was played %d times, want a pair", k, n)
		}
	}
	for _, s := range r.Scores {
		if most := map[bool]int{true: 10, false: 20}[len(s.Opponent) == 64]; s.Games() < 6 || s.Games() > most {
			t.Errorf("%d games against %s, want 6 to %d", s.Games(), s.Opponent, most)
		}
		if s.Rate()*float64(s.Games()) != points[s.Opponent] {
			t.Errorf("%s: score says %v points, the matches %v", s.Opponent, s.Rate()*float64(s.Games()), points[s.Opponent])
		}
	}
	o.Out, o.Now = filepath.Join(dir, "again.jsonl"), steady()
	if _, err := Evaluate(context.Background(), o); err != nil {
		t.Fatal(err)
	}
	again, err := rating.ReadMatches(o.Out)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(matches, again); diff != "" {
		t.Errorf("same seed (-first +second):\n%s", diff)
	}
	o.Seed = 6
	if _, err := Evaluate(context.Background(), o); err != nil {
		t.Fatal(err)
	}
	other, err := rating.ReadMatches(o.Out)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(rating.Distinct(append(other, matches...))); n != len(other)+len(matches) {
		t.Errorf("two seeds share %d match ids", len(other)+len(matches)-n)
	}
}

func TestCandidateScore(t *testing.T) {
	t.Parallel()
	start := mustParse(t, "123") // player 2 moves first after the opening
	won := start
	for _, c := range []int{7, 1, 7, 1, 7, 2, 7} { // player 2 stacks column 7
		won = won.Play(c - 1)
	}
	if w, over := won.Over(); !over || w != 2 {
		t.Fatalf("winner %d, over %v", w, over)
	}
	if a, b := candidateScore(start, won, 0), candidateScore(start, won, 1); a != 1 || b != 0 {
		t.Errorf("the winner gets %v as the first to move, %v as the second", a, b)
	}
}

func TestOpeningsAreDistinct(t *testing.T) {
	t.Parallel()
	o := newOpenings(1)
	seen := map[Position]bool{}
	for range maxOpenings / 2 { // far more than there are positions after four plies
		p, moves := o.next()
		if q, err := ParseMoves(moves); err != nil || q != p {
			t.Fatalf("opening %s: %v", moves, err)
		}
		if _, over := p.Over(); over || seen[p] {
			t.Fatalf("opening %s is decided or came twice", moves)
		}
		seen[p] = true
	}
}

func TestMoveFollowsTheModel(t *testing.T) {
	t.Parallel()
	model := saveTestModel(t, t.TempDir(), 3)
	alone, err := ChooseMove(MoveOptions{Model: model})
	if err != nil {
		t.Fatal(err)
	}
	control, err := ChooseMove(MoveOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if alone.Value == 0 || control.Value != 0 || control.Policy[0] != control.Policy[6] {
		t.Errorf("model %+v, control %+v", alone, control)
	}
}

func TestCommandLine(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	model, junk := saveTestModel(t, dir, 1), filepath.Join(dir, "junk")
	if err := os.WriteFile(junk, []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		args string
		code int
		out  string // pattern
	}{
		{"move --untrained --moves 4453", 0, `^\{"column":[1-7],"value":[-0-9.e]+,"policy":\[([-0-9.e]+,){6}[-0-9.e]+\]\}\n$`},
		{"move --moves 4453 --model " + model, 0, `"column":`},
		{"move --moves  --simulations 0 --model " + model, 0, `"column":`},
		{"move --untrained --moves 9", 2, "^$"},
		{"move --untrained --moves 4444444", 2, "^$"},
		{"move --untrained --moves 1212121", 2, "^$"},
		{"move --moves 1", 2, "^$"},
		{"move --untrained --simulations -1", 2, "^$"},
		{"move --untrained --model " + model, 2, "^$"},
		{"move --model " + junk, 1, "^$"},
		{"move --model " + junk + "-not-there", 4, "^$"},
		{"move --untrained stray", 2, "^$"},
		{"move --untrained --nonsense", 2, "^$"},
		{"", 2, "^$"},
		{"play", 2, "^$"},
		{"selfplay --games 1", 2, "^$"},
		{"selfplay --games 0 --out " + dir + "/g.db", 2, "^$"},
		{"selfplay --games many --out " + dir + "/g.db", 2, "^$"},
		{"selfplay --games 2 --simulations 4 --seed 3 --out " + dir + "/g.db", 0, `games=2\n$`},
		{"export --out " + dir + "/d.npz", 2, "^$"},
		{"export --db " + dir + "/g.db --out " + dir + "/d.npz", 0, `EXPORT_SUMMARY: samples=\d+ games=2 skipped=0\n$`},
		{"train --dataset " + dir + "/d.npz --epochs 1 --out " + dir + "/m", 0, `TRAINING_SUMMARY: `},
		{"train --dataset " + dir + "/d.npz --epochs 0 --out " + dir + "/m", 2, "^$"},
		{"evaluate --model " + dir + "/m --opponents random --simulations 0 --min-games 4 --max-games 4 --out " + dir + "/x", 0, `EVALUATION_SUMMARY: games=4 opponents=1 `},
		{"evaluate --model " + dir + "/m --opponents nobody --out " + dir + "/x", 2, "^$"},
		{"evaluate --model " + dir + "/m --champion " + dir + "/m --out " + dir + "/x", 2, "^$"},
		{"evaluate --out " + dir + "/x", 2, "^$"},
		{"evaluate --untrained --opponents untrained --out " + dir + "/x", 2, "^$"},
		{"evaluate --model " + model + " --opponents untrained --simulations 2 --min-games 2 --max-games 2 --out " + dir + "/x", 0, `opponent=untrained games=2 `},
	} {
		var out bytes.Buffer
		app := &cli.App{
			Name: "test", Writer: &out, ErrWriter: io.Discard, Commands: []*cli.Command{Command()},
			ExitErrHandler: func(*cli.Context, error) {},
		}
		args := append([]string{"test", Board}, strings.Split(tc.args, " ")...)
		if tc.args == "" {
			args = args[:2]
		}
		err := app.RunContext(context.Background(), args)
		code := 0
		var coder cli.ExitCoder
		switch {
		case errors.As(err, &coder):
			code = coder.ExitCode()
		case err != nil:
			code = 1
		}
		if code != tc.code || (code == 0 && !regexp.MustCompile(tc.out).Match(out.Bytes())) {
			t.Errorf("connect4 %s: exit %d, %v, printed %q; want exit %d", tc.args, code, err, out.String(), tc.code)
		}
	}
}
