package connect4

import (
	"math"
	"math/rand/v2"
)

// playedMove is one move of a game with what the search thought before it.
type playedMove struct {
	column int
	policy [Columns]float64
	value  float64 // for the player to move
}

type playedGame struct {
	moves  []playedMove
	winner int // 0 for a draw, else player 1 or 2
}

const (
	// exploringPlies is how long moves are drawn in proportion to the search's visits; after that the best is played.
	exploringPlies = 12
	// strayShare is the part of the moves among the first strayPlies that are drawn from the legal ones alone, so that
	// games do not all follow one opening. What the search thought is still recorded.
	strayShare = 0.1
	strayPlies = 12
)

// selfplayGame plays one game of s against itself. It stops between two moves and returns false when stop says so.
func selfplayGame(s *Search, rng *rand.Rand, stop func() bool) (playedGame, bool) {
	var g playedGame
	g.moves = make([]playedMove, 0, Squares)
	for p := (Position{}); ; {
		if winner, over := p.Over(); over {
			g.winner = winner
			return g, true
		}
		if stop() {
			return g, false
		}
		r := s.Run(p, rng)
		c := r.Column
		if ply := p.Ply(); ply < strayPlies && rng.Float64() < strayShare {
			c = playRandom(p, rng)
		} else if ply < exploringPlies {
			c = draw(&r.Policy, rng)
		}
		g.moves = append(g.moves, playedMove{column: c, policy: r.Policy, value: r.Value})
		p = p.Play(c)
	}
}

// draw returns a column in proportion to its share.
func draw(policy *[Columns]float64, rng *rand.Rand) int {
	x, last := rng.Float64(), 0
	for c, share := range policy {
		if share == 0 {
			continue
		}
		if x < share {
			return c
		}
		x -= share
		last = c
	}
	return last
}

// outcome is the result of a game for player: 1 won, 0 drawn, -1 lost.
func outcome(winner, player int) float64 {
	switch winner {
	case 0:
		return 0
	case player:
		return 1
	}
	return -1
}

// newRand returns the generator of use n of a stream of a seed.
func newRand(seed uint64, stream, n uint64) *rand.Rand {
	// PCG's two halves are mixed together, so neighbouring seeds do not give neighbouring numbers.
	return rand.New(rand.NewPCG(seed, stream<<56^n*0x9E3779B97F4A7C15&(math.MaxUint64>>8)))
}
