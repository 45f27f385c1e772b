package connect4

import (
	"fmt"
	"math/bits"
	"math/rand/v2"
)

// The streams into which one seed is divided, so that no two uses of it draw the same numbers.
const (
	streamWeights = iota + 1
	streamShuffle
	streamOpenings
	streamPlay
	streamGames
)

// Names of the pinned baselines.
const (
	BaselineRandom    = "random"
	BaselineHeuristic = "heuristic"
	BaselineMinimax   = "minimax"
)

// minimaxDepth is how many plies the minimax baseline looks ahead.
const minimaxDepth = 4

// player chooses a move in an unfinished position; rng is the game's own.
type player func(p Position, rng *rand.Rand) int

// baseline returns the pinned opponent of that name.
func baseline(name string) (player, error) {
	switch name {
	case BaselineRandom:
		return playRandom, nil
	case BaselineHeuristic:
		return playHeuristic, nil
	case BaselineMinimax:
		return playMinimax, nil
	}
	return nil, fmt.Errorf("opponent %q: want %s, %s or %s", name, BaselineRandom, BaselineHeuristic, BaselineMinimax)
}

// searcher returns a player that searches with net, without noise.
func searcher(net *Network, simulations int) player {
	s := NewSearch(NewEvaluator(net), simulations)
	return func(p Position, _ *rand.Rand) int { return s.Run(p, nil).Column }
}

func playRandom(p Position, rng *rand.Rand) int {
	legal := p.Legal()
	for skip := rng.IntN(bits.OnesCount8(legal)); skip > 0; skip-- {
		legal &= legal - 1
	}
	return bits.TrailingZeros8(legal)
}

// centreFirst is the order in which equally good columns are taken.
func centreFirst() [Columns]int { return [Columns]int{3, 2, 4, 1, 5, 0, 6} }

// playHeuristic wins if it can, else blocks, else avoids handing over a win, else goes for the centre.
func playHeuristic(p Position, _ *rand.Rand) int {
	theirs := winningSquares(p.all^p.own, p.all)
	here := p.landing()
	block, safe, any := -1, -1, -1
	for _, c := range centreFirst() {
		if !p.Playable(c) {
			continue
		}
		if p.Wins(c) {
			return c
		}
		square := here & (column0 << (c * stride))
		if block < 0 && square&theirs != 0 {
			block = c
		}
		if safe < 0 && (square<<1)&theirs == 0 {
			safe = c
		}
		if any < 0 {
			any = c
		}
	}
	switch {
	case block >= 0:
		return block
	case safe >= 0:
		return safe
	}
	return any
}

const minimaxWin = 10_000

func playMinimax(p Position, _ *rand.Rand) int {
	best, move := -2*minimaxWin, -1
	for _, c := range centreFirst() {
		if !p.Playable(c) {
			continue
		}
		if v := -minimax(p.Play(c), minimaxDepth-1, -2*minimaxWin, -best); v > best {
			best, move = v, c
		}
	}
	return move
}

// minimax returns the value of p for the side to move, looking depth plies ahead (alpha-beta). Earlier wins are better.
func minimax(p Position, depth, alpha, beta int) int {
	if p.Lost() {
		return -minimaxWin - depth
	}
	if p.Full() {
		return 0
	}
	if depth == 0 {
		return material(p.own, p.all) - material(p.all^p.own, p.all)
	}
	for _, c := range centreFirst() {
		if !p.Playable(c) {
			continue
		}
		if v := -minimax(p.Play(c), depth-1, -beta, -alpha); v > alpha {
			alpha = v
			if alpha >= beta {
				break
			}
		}
	}
	return alpha
}

// material counts what a side has: squares that would win, and stones near the centre.
func material(own, all uint64) int {
	score := 10 * bits.OnesCount64(winningSquares(own, all))
	for c, weight := range [Columns]int{0, 1, 2, 3, 2, 1, 0} {
		score += weight * bits.OnesCount64(own&(column0<<(c*stride)))
	}
	return score
}
