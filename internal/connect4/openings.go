package connect4

import "math/rand/v2"

const (
	// openingPlies is how many random moves a game of an evaluation begins with.
	openingPlies = 4
	// maxOpenings bounds the pairs and games of an evaluation, so that distinct openings do not run out.
	maxOpenings = 5_000
	// openingTries is how often a position that has been used is drawn again before openings get a ply longer.
	openingTries = 200
)

// openings draws distinct, undecided positions for the pairs of an evaluation.
type openings struct {
	rng   *rand.Rand
	seen  map[Position]bool
	plies int
}

func newOpenings(seed uint64) *openings {
	return &openings{rng: newRand(seed, streamOpenings, 0), seen: make(map[Position]bool), plies: openingPlies}
}

// next returns a position that it has not returned before, and the columns that lead there.
func (o *openings) next() (Position, string) {
	for tries := 1; ; tries++ {
		p, moves := Position{}, make([]byte, 0, Squares)
		for range o.plies {
			c := playRandom(p, o.rng)
			p = p.Play(c)
			moves = append(moves, byte('1'+c))
			if _, over := p.Over(); over {
				break
			}
		}
		if _, over := p.Over(); !over && !o.seen[p] {
			o.seen[p] = true
			return p, string(moves)
		}
		if tries%openingTries == 0 {
			o.plies++
		}
	}
}
