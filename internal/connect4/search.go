package connect4

import (
	"math"
	"math/bits"
	"math/rand/v2"
)

const (
	// DefaultSimulations is the search that all figures of this package are given for.
	DefaultSimulations = 48
	// MaxSimulations bounds the memory of a search.
	MaxSimulations = 1 << 16

	exploration = 1.5
	// noiseShare is the part of the root's priors that is noise in self-play.
	noiseShare = 0.25
)

// What node.child holds instead of an index.
const (
	untried int32 = 0
	winning int32 = -1
	drawing int32 = -2
)

// node is an unfinished position of the tree with the statistics of the moves that leave it, as the side to move sees
// them.
type node struct {
	pos    Position
	prior  [Columns]float32
	total  [Columns]float32
	visits [Columns]float32
	child  [Columns]int32
	sum    float32 // visits of all moves
	value  float32 // what the network said
	legal  uint8
}

// Search is a Monte Carlo tree search guided by a network (PUCT). It keeps its memory from move to move, allocates
// nothing while it runs, and belongs to one goroutine.
type Search struct {
	eval  *Evaluator
	sims  int
	nodes []node
	path  [Squares]step
}

type step struct {
	node int32
	move int
}

// Result is what a search found out about a position.
type Result struct {
	// Column is the best move, from 0.
	Column int
	// Value is what the side to move may expect, from -1 to 1.
	Value float64
	// Policy is the share of the simulations that each column got; without simulations, the network's own opinion.
	Policy [Columns]float64
}

// NewSearch returns a search of so many simulations a move, from 0 (the network alone) to MaxSimulations.
func NewSearch(eval *Evaluator, simulations int) *Search {
	simulations = min(max(simulations, 0), MaxSimulations)
	return &Search{eval: eval, sims: simulations, nodes: make([]node, 0, simulations+1)}
}

// Run searches an unfinished position. With noise, the priors of the root are mixed with noise drawn from it, so that
// self-play tries what the network would not.
func (s *Search) Run(p Position, noise *rand.Rand) Result {
	s.nodes = s.nodes[:0]
	rootValue := s.expand(p)
	root := &s.nodes[0]
	if s.sims == 0 {
		return s.alone(root)
	}
	if noise != nil {
		disturb(root, noise)
	}
	for range s.sims {
		s.simulate()
	}
	var r Result
	var best, total float32 = -1, rootValue
	for c := range Columns {
		r.Policy[c] = float64(root.visits[c] / root.sum)
		total += root.total[c]
		// Among moves tried equally often the one that turned out better is chosen; a win is always the best.
		rank := root.visits[c]
		if root.visits[c] > 0 {
			rank += root.total[c] / root.visits[c] * 0.5
		}
		if root.child[c] == winning {
			rank = float32(math.Inf(1))
		}
		if root.legal&(1<<c) != 0 && rank > best {
			best, r.Column = rank, c
		}
	}
	r.Value = float64(total / (root.sum + 1))
	return r
}

func (s *Search) alone(root *node) Result {
	r := Result{Value: float64(root.value)}
	best := float32(-1)
	for c := range Columns {
		r.Policy[c] = float64(root.prior[c])
		if root.legal&(1<<c) != 0 && root.prior[c] > best {
			best, r.Column = root.prior[c], c
		}
	}
	return r
}

// disturb mixes a draw from the flat Dirichlet distribution into the priors: normalised exponentials.
func disturb(root *node, rng *rand.Rand) {
	var draw [Columns]float32
	var sum float32
	for set := root.legal; set != 0; set &= set - 1 {
		c := bits.TrailingZeros8(set)
		draw[c] = float32(rng.ExpFloat64())
		sum += draw[c]
	}
	for c := range Columns {
		root.prior[c] = (1-noiseShare)*root.prior[c] + noiseShare*draw[c]/sum
	}
}

// expand adds the position to the tree and returns its value for the side to move.
func (s *Search) expand(p Position) float32 {
	value, policy := s.eval.Evaluate(p)
	s.nodes = append(s.nodes, node{pos: p, prior: *policy, value: value, legal: p.Legal()})
	return value
}

// simulate walks down by the best moves, adds one position or meets the end of the game, and carries the value back up.
func (s *Search) simulate() {
	at, depth := int32(0), 0
	var value float32 // for the side that moved last on the path
	for {
		n := &s.nodes[at]
		c := n.choose()
		s.path[depth] = step{at, c}
		depth++
		switch n.child[c] {
		case winning:
			value = 1
		case drawing:
			value = 0
		case untried:
			next := n.pos.Play(c)
			switch {
			case next.Lost():
				n.child[c], value = winning, 1
			case next.Full():
				n.child[c], value = drawing, 0
			default:
				n.child[c] = int32(len(s.nodes))
				value = -s.expand(next)
			}
		default:
			at = n.child[c]
			continue
		}
		break
	}
	for depth--; depth >= 0; depth-- {
		n, c := &s.nodes[s.path[depth].node], s.path[depth].move
		n.total[c] += value
		n.visits[c]++
		n.sum++
		value = -value
	}
}

// choose returns the move with the highest upper bound.
func (n *node) choose() int {
	scale := exploration * float32(math.Sqrt(float64(n.sum+1)))
	best, move := float32(math.Inf(-1)), 0
	for set := n.legal; set != 0; set &= set - 1 {
		c := bits.TrailingZeros8(set) & 7
		q := n.value // a move not tried yet is thought to be as good as the position
		if n.visits[c] > 0 {
			q = n.total[c] / n.visits[c]
		}
		if u := q + scale*n.prior[c]/(1+n.visits[c]); u > best {
			best, move = u, c
		}
	}
	return move
}
