package connect4

import (
	"math/bits"
	"time"
)

// globalFeatures is the width of the array of whole-board figures.
const globalFeatures = 20

// dataset is what an export writes and a training reads: n samples, each array flat with the sample as its slowest index.
type dataset struct {
	n             int
	features      []float32 // (n, planes, Rows, Columns): zeroes and ones from the side to move, bottom row first
	globals       []float32 // (n, globalFeatures)
	values        []float32 // (n): the game's result for the side to move, -1, 0 or 1
	searchValues  []float32 // (n): the search's opinion at that time, -1 to 1
	policyIndices []int32   // (n, Columns): 0 to 6
	policyValues  []float32 // (n, Columns): sums to 1
	moveNumbers   []int32   // (n): plies before this position
	gameMoves     []int32   // (n): plies of the whole game
	weights       []float32 // (n)

	games  int       // they come from so many games
	newest time.Time // when the last of them ended
}

// add appends one position and, if mirrored, its reflection.
func (d *dataset) add(p Position, policy *[Columns]float64, result, search float64, gameMoves int, mirrored bool) {
	d.addOne(p, policy, result, search, gameMoves)
	if mirrored {
		var m [Columns]float64
		for c := range Columns {
			m[c] = policy[Columns-1-c]
		}
		d.addOne(p.Mirror(), &m, result, search, gameMoves)
	}
}

func (d *dataset) addOne(p Position, policy *[Columns]float64, result, search float64, gameMoves int) {
	at := len(d.features)
	d.features = append(d.features, make([]float32, Inputs)...)
	var buf [Inputs]int32
	for _, i := range active(p, buf[:]) {
		d.features[at+int(i)] = 1
	}
	d.globals = appendGlobals(d.globals, p)
	d.values = append(d.values, float32(result))
	d.searchValues = append(d.searchValues, float32(search))
	for c := range Columns {
		d.policyIndices = append(d.policyIndices, int32(c))
		d.policyValues = append(d.policyValues, float32(policy[c]))
	}
	d.moveNumbers = append(d.moveNumbers, int32(p.Ply()))
	d.gameMoves = append(d.gameMoves, int32(gameMoves))
	d.weights = append(d.weights, 1)
	d.n++
}

// appendGlobals describes the whole board: progress, side, column heights, playable columns, how many there are, wins at
// hand for either side, and the share of the stones that the side to move owns.
func appendGlobals(dst []float32, p Position) []float32 {
	flag := func(b bool) float32 {
		if b {
			return 1
		}
		return 0
	}
	dst = append(dst, float32(p.Ply())/Squares, float32(p.Player()-1))
	for c := range Columns {
		dst = append(dst, float32(bits.OnesCount64(p.all&(column0<<(c*stride))))/Rows)
	}
	for c := range Columns {
		dst = append(dst, flag(p.Playable(c)))
	}
	landing := p.landing()
	dst = append(dst,
		float32(bits.OnesCount8(p.Legal()))/Columns,
		flag(winningSquares(p.own, p.all)&landing != 0),
		flag(winningSquares(p.all^p.own, p.all)&landing != 0))
	return append(dst, float32(bits.OnesCount64(p.own))/max(1, float32(p.Ply())))
}
