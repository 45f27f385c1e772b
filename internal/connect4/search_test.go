package connect4

import (
	"math"
	"testing"
)

func mustParse(t *testing.T, moves string) Position {
	t.Helper()
	p, err := ParseMoves(moves)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestSearchWinsAndBlocks(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, moves string
		want        int
	}{
		{"wins upwards", "414141", 4},
		{"wins sideways", "172737", 4},
		{"blocks upwards", "41414", 4},
		{"blocks sideways", "17273", 4},
		{"wins rather than blocks", "414141", 4},
		{"wins as the second player", "7141312", 1},
	} {
		p := mustParse(t, tc.moves)
		for _, net := range []*Network{NewNetwork(1), NewNetwork(2)} {
			if got := NewSearch(NewEvaluator(net), DefaultSimulations).Run(p, nil).Column + 1; got != tc.want {
				t.Errorf("%s: after %s plays %d, want %d", tc.name, tc.moves, got, tc.want)
			}
		}
		if got := playHeuristic(p, nil) + 1; got != tc.want {
			t.Errorf("%s: heuristic plays %d, want %d", tc.name, got, tc.want)
		}
		if got := playMinimax(p, nil) + 1; got != tc.want {
			t.Errorf("%s: minimax plays %d, want %d", tc.name, got, tc.want)
		}
		// The untrained network alone goes for the first column: it is the search that finds these.
		if got := NewSearch(NewEvaluator(NewNetwork(1)), 0).Run(p, nil).Column + 1; got == tc.want && tc.want != 1 {
			t.Errorf("%s: the untrained network alone plays %d too", tc.name, got)
		}
	}
}

func TestHeuristicDoesNotHandOverAWin(t *testing.T) {
	t.Parallel()
	rng := newRand(4, streamPlay, 0)
	avoided := 0
	for range 3000 {
		p := Position{}
		for range 8 + rng.IntN(12) {
			if _, over := p.Over(); over {
				break
			}
			p = p.Play(playRandom(p, rng))
		}
		if _, over := p.Over(); over {
			continue
		}
		c := playHeuristic(p, rng)
		next := p.Play(c)
		theirs := winningSquares(p.all^p.own, p.all) & p.landing()
		if next.Lost() || theirs != 0 {
			continue
		}
		gives := func(c int) bool {
			q := p.Play(c)
			return !q.Full() && winningSquares(q.own, q.all)&q.landing() != 0
		}
		safe := false
		for o := range Columns {
			safe = safe || (p.Playable(o) && !gives(o))
			avoided += btoi(p.Playable(o) && gives(o))
		}
		if safe && gives(c) {
			t.Fatalf("%+v: plays %d and hands over a win", p, c+1)
		}
	}
	if avoided == 0 {
		t.Error("no position in which a win could be handed over was met")
	}
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

func TestSearchResult(t *testing.T) {
	t.Parallel()
	eval := NewEvaluator(busyNetwork(8))
	for _, sims := range []int{0, 1, 2, 48} {
		s := NewSearch(eval, sims)
		for _, moves := range []string{"", "4453", "444444", "111111222222333333"} {
			p := mustParse(t, moves)
			if _, over := p.Over(); over {
				t.Fatal(moves)
			}
			r := s.Run(p, nil)
			sum := 0.0
			for c, v := range r.Policy {
				sum += v
				if !p.Playable(c) && v != 0 {
					t.Errorf("%q with %d simulations: full column %d has %v", moves, sims, c+1, v)
				}
			}
			if math.Abs(sum-1) > 1e-4 || math.Abs(r.Value) > 1 || !p.Playable(r.Column) {
				t.Errorf("%q with %d simulations: %+v", moves, sims, r)
			}
		}
	}
}

func TestSearchAllocatesNothing(t *testing.T) {
	s := NewSearch(NewEvaluator(busyNetwork(8)), DefaultSimulations)
	p := mustParse(t, "4453")
	if n := testing.AllocsPerRun(20, func() { s.Run(p, nil) }); n > 0 {
		t.Errorf("a search allocates %v times", n)
	}
}

func TestNoiseIsTheSeeds(t *testing.T) {
	t.Parallel()
	play := func(seed uint64) playedGame {
		g, _ := selfplayGame(NewSearch(NewEvaluator(busyNetwork(1)), 16), newRand(seed, streamPlay, 0), func() bool { return false })
		return g
	}
	a, b := play(1), play(1)
	if len(a.moves) != len(b.moves) {
		t.Fatalf("same seed, %d and %d moves", len(a.moves), len(b.moves))
	}
	for i := range a.moves {
		if a.moves[i] != b.moves[i] {
			t.Fatalf("same seed, move %d differs: %+v, %+v", i+1, a.moves[i], b.moves[i])
		}
	}
	for seed := uint64(2); ; seed++ {
		c := play(seed)
		if len(c.moves) != len(a.moves) || c.moves[0] != a.moves[0] {
			break
		}
		if seed == 10 {
			t.Fatal("ten seeds play the same")
		}
	}
}

func BenchmarkSelfplay(b *testing.B) {
	s := NewSearch(NewEvaluator(busyNetwork(1)), DefaultSimulations)
	n := uint64(0)
	for b.Loop() {
		n++
		selfplayGame(s, newRand(1, streamPlay, n), func() bool { return false })
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "games/s")
}
