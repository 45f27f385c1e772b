package rating

import (
	"fmt"
	"math"
)

// Verdict is where a sequential test stands.
type Verdict int

// The three verdicts.
const (
	Continue Verdict = iota
	AcceptH1
	AcceptH0
)

func (v Verdict) String() string {
	switch v {
	case AcceptH1:
		return "accept H1"
	case AcceptH0:
		return "accept H0"
	}
	return "continue"
}

// SPRT is a sequential probability ratio test on pairs of games (one opening, played from both sides) that asks whether the
// first player is stronger by elo1 (H1) or by elo0 (H0) logistic Elo points. It counts the five possible scores of a pair, so
// the dependence between a pair's games and the share of draws need no assumption.
type SPRT struct {
	score0, score1 float64 // expected score a game, from 0 to 1
	lower, upper   float64 // bounds on the log likelihood ratio
	pairs          [5]int  // by score 0, 0.5 … 2
}

// NewSPRT begins a test: alpha is the chance of accepting H1 although H0 is true, beta that of the reverse. The four are
// constants of the caller: elo0 ≥ elo1, or chances outside (0, 0.5), panic.
func NewSPRT(elo0, elo1, alpha, beta float64) *SPRT {
	if !(elo0 < elo1 && math.Abs(elo0) < 4000 && math.Abs(elo1) < 4000 && alpha > 0 && alpha < 0.5 && beta > 0 && beta < 0.5) {
		panic(fmt.Sprintf("rating: SPRT of elo0 %v, elo1 %v, alpha %v, beta %v", elo0, elo1, alpha, beta))
	}
	return &SPRT{score0: expected(elo0), score1: expected(elo1), lower: math.Log(beta / (1 - alpha)),
		upper: math.Log((1 - beta) / alpha)}
}

// expected is the score a game of somebody who is stronger by elo points.
func expected(elo float64) float64 { return 1 / (1 + math.Pow(10, -elo/400)) }

// Add counts one pair: 0, 0.5, 1, 1.5 or 2 points of the first player in the two games.
func (s *SPRT) Add(pairScore float64) error {
	i := int(2 * pairScore)
	if i < 0 || i > 4 || float64(i) != 2*pairScore {
		return fmt.Errorf("pair score %v: want 0, 0.5, 1, 1.5 or 2: %w", pairScore, ErrInvalid)
	}
	s.pairs[i]++
	return nil
}

// Pairs is how many pairs were added.
func (s *SPRT) Pairs() int {
	n := 0
	for _, c := range s.pairs {
		n += c
	}
	return n
}

// LLR is the generalised log likelihood ratio of H1 to H0: the observed shares of the five scores are bent as little as
// possible to have the mean that each hypothesis demands, and the two are compared. Zero before the first pair.
func (s *SPRT) LLR() float64 {
	n := s.Pairs()
	if n == 0 {
		return 0
	}
	// A score not seen yet is not impossible. The usual trick gives it a thousandth of a pair.
	var share [5]float64
	total := 0.0
	for i, c := range s.pairs {
		share[i] = max(float64(c), 1e-3)
		total += share[i]
	}
	llr := 0.0
	q0, q1 := bend(share, total, s.score0), bend(share, total, s.score1)
	for i := range share {
		llr += share[i] * math.Log(q1[i]/q0[i])
	}
	return llr
}

// bend returns the most likely distribution over the five scores, given the counts, among those with the given mean.
func bend(counts [5]float64, total, mean float64) [5]float64 {
	var offset [5]float64
	for i := range offset {
		offset[i] = float64(i)/4 - mean
	}
	// The solution is share/(1 + λ·offset) with the λ that makes the mean right. The sum falls in λ between the two poles.
	low, high := -1/offset[4], -1/offset[0]
	for range 100 {
		λ := (low + high) / 2
		sum := 0.0
		for i, c := range counts {
			sum += c / total * offset[i] / (1 + λ*offset[i])
		}
		if sum > 0 {
			low = λ
		} else {
			high = λ
		}
	}
	λ := (low + high) / 2
	var q [5]float64
	for i, c := range counts {
		q[i] = c / total / (1 + λ*offset[i])
	}
	return q
}

// Verdict compares the ratio with the bounds. Callers end an undecided test at a number of pairs of their own.
func (s *SPRT) Verdict() Verdict {
	switch llr := s.LLR(); {
	case llr >= s.upper:
		return AcceptH1
	case llr <= s.lower:
		return AcceptH0
	}
	return Continue
}

// WilsonInterval is the 95 % interval of a win rate from points (wins plus half the draws) in a number of games; [0, 1]
// without games. With draws it is a little too wide.
func WilsonInterval(points float64, games int) (low, high float64) {
	if games <= 0 {
		return 0, 1
	}
	n := float64(games)
	p := min(max(points/n, 0), 1)
	z2 := confidence95 * confidence95
	centre := (p + z2/(2*n)) / (1 + z2/n)
	half := confidence95 / (1 + z2/n) * math.Sqrt(p*(1-p)/n+z2/(4*n*n))
	return max(centre-half, 0), min(centre+half, 1)
}
