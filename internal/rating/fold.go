package rating

import (
	"maps"
	"math"
	"slices"
)

// Rating is what the matches say about one participant.
type Rating struct {
	Elo                        float64 // rounded to 0.01
	Low, High                  float64 // 95 % of the posterior; both are Elo for a pinned participant
	Games, Wins, Losses, Draws int
}

const (
	eloPerLog     = 400 / math.Ln10 // Elo points in one unit of log odds
	priorMean     = 1200.0          // Elo, where nothing is pinned
	priorSpread   = 600.0           // Elo; worth about a third of a drawn game, so a few games outweigh it
	confidence95  = 1.959963984540054
	maxIterations = 100
	converged     = 1e-10 // log odds
	largestStep   = 3.0   // log odds
)

// Fold rates everybody who appears in the matches: the posterior mode of a Bradley–Terry model in which a draw is half a win
// for each, pinned participants stand at their given Elo, and everybody else has a weak normal prior around the mean of the
// pins, so that winning every game does not mean infinity. Each valid match counts once, by id; the result depends on the
// set of matches only and is the same to the bit on every machine. The matches should be of one config; the matrix of the
// free participants makes its cost grow with the number of pairs that met.
func Fold(matches []Match, pins map[string]float64) map[string]Rating {
	s := sums{}
	for _, m := range Distinct(matches) {
		s.add(m, 1)
	}
	return s.rate(pins)
}

// rate is Fold for matches that have been counted.
func (s sums) rate(pins map[string]float64) map[string]Rating {
	out := make(map[string]Rating)
	for p, r := range s {
		if r.games() > 0 {
			out[p.a], out[p.b] = out[p.a].plus(r), out[p.b].plus(record{r.losses, r.draws, r.wins})
		}
	}
	names := slices.Sorted(maps.Keys(out))
	f := newFit(names, s, pins)
	f.solve()
	deviation := f.deviations()
	for i, name := range names {
		r := out[name]
		if pin, ok := pins[name]; ok {
			r.Elo, r.Low, r.High = pin, pin, pin
		} else {
			elo := float64(f.theta[i] * eloPerLog)
			half := float64(float64(confidence95*deviation[i]) * eloPerLog)
			r.Elo, r.Low, r.High = hundredth(elo), hundredth(elo-half), hundredth(elo+half)
		}
		out[name] = r
	}
	return out
}

// plus counts further games from the side of the rated.
func (r Rating) plus(x record) Rating {
	r.Games += x.games()
	r.Wins += x.wins
	r.Losses += x.losses
	r.Draws += x.draws
	return r
}

func hundredth(x float64) float64 { return math.Round(x*100) / 100 }

// meeting is all games between two participants, the first with the smaller index.
type meeting struct {
	a, b   int
	games  float64
	points float64 // of a
}

// fit is the model: theta is in log odds, free[i] the row of participant i in the system of equations or -1 if pinned.
type fit struct {
	theta    []float64
	free     []int
	rows     int
	meetings []meeting
	mean     float64 // of the prior, log odds
	weight   float64 // of the prior: one over its variance
}

// newFit takes the names in order.
func newFit(names []string, s sums, pins map[string]float64) *fit {
	f := &fit{theta: make([]float64, len(names)), free: make([]int, len(names)), mean: meanPin(pins) / eloPerLog}
	spread := priorSpread / eloPerLog
	f.weight = 1 / float64(spread*spread)
	index := make(map[string]int, len(names))
	for i, name := range names {
		index[name] = i
		f.theta[i], f.free[i] = f.mean, -1
		if pin, ok := pins[name]; ok {
			f.theta[i] = pin / eloPerLog
		} else {
			f.free[i] = f.rows
			f.rows++
		}
	}
	// Points are counted in halves as integers, so the order of adding cannot matter.
	for p, r := range s {
		if r.games() > 0 {
			f.meetings = append(f.meetings, meeting{index[p.a], index[p.b], float64(r.games()), float64(2*r.wins+r.draws) / 2})
		}
	}
	slices.SortFunc(f.meetings, func(x, y meeting) int {
		if x.a != y.a {
			return x.a - y.a
		}
		return x.b - y.b
	})
	return f
}

func meanPin(pins map[string]float64) float64 {
	if len(pins) == 0 {
		return priorMean
	}
	values := make([]float64, 0, len(pins))
	for _, v := range pins {
		values = append(values, v)
	}
	slices.Sort(values)
	sum := 0.0
	for _, v := range values {
		sum += v
	}
	return sum / float64(len(values))
}

// system builds the gradient of the log posterior and its negated Hessian at the present theta.
func (f *fit) system() (gradient []float64, hessian *matrix) {
	gradient, hessian = make([]float64, f.rows), newMatrix(f.rows)
	for i, row := range f.free {
		if row >= 0 {
			gradient[row] = float64(f.weight * (f.mean - f.theta[i]))
			hessian.diagonal[row] = f.weight
		}
	}
	for _, m := range f.meetings {
		p := 1 / (1 + exp(bound(f.theta[m.b]-f.theta[m.a])))
		slope := m.points - float64(m.games*p)
		curve := float64(m.games * float64(p*(1-p)))
		a, b := f.free[m.a], f.free[m.b]
		if a >= 0 {
			gradient[a] += slope
			hessian.diagonal[a] += curve
		}
		if b >= 0 {
			gradient[b] -= slope
			hessian.diagonal[b] += curve
		}
		if a >= 0 && b >= 0 {
			hessian.set(a, b, -curve)
		}
	}
	return gradient, hessian
}

func bound(x float64) float64 { return min(max(x, -600), 600) }

// solve finds the mode by Newton's method with bounded steps; the log posterior is strictly concave, so there is one.
func (f *fit) solve() {
	for range maxIterations {
		gradient, hessian := f.system()
		step := hessian.factor().solve(gradient)
		largest := 0.0
		for _, s := range step {
			largest = max(largest, math.Abs(s))
		}
		scale := 1.0
		if largest > largestStep {
			scale = largestStep / largest
		}
		for i, row := range f.free {
			if row >= 0 {
				f.theta[i] += float64(scale * step[row])
			}
		}
		if largest < converged {
			return
		}
	}
}

// deviations are the standard deviations of theta from the inverse Hessian at the mode; zero for pinned participants.
func (f *fit) deviations() []float64 {
	_, hessian := f.system()
	variance := hessian.factor().inverseDiagonal()
	out := make([]float64, len(f.theta))
	for i, row := range f.free {
		if row >= 0 {
			out[i] = math.Sqrt(variance[row])
		}
	}
	return out
}
