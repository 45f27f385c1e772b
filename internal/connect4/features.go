package connect4

import "math/bits"

const (
	// planes is how many boards of zeroes and ones the network sees, always from the side to move: its stones; the other's;
	// the free squares that would complete a line of its own, and of the other's, where a stone can come to rest now; and
	// the same two where it cannot yet. The last four follow from the first two, but a network this small would need many
	// times the games to find them itself.
	planes = 6
	// Inputs is the width of the network's first layer.
	Inputs = planes * Squares
)

// inputPlanes returns the boards of which the input consists.
func inputPlanes(p Position) [planes]uint64 {
	theirs, now := p.all^p.own, p.landing()
	wins, threats := winningSquares(p.own, p.all), winningSquares(theirs, p.all)
	return [planes]uint64{p.own, theirs, wins & now, threats & now, wins &^ now, threats &^ now}
}

// squareOf maps a bit of a bitboard to its place in a plane, which is laid out row by row from the bottom.
func squareOf(bit int) int { return bit%stride*Columns + bit/stride }

// active writes the indices of the inputs that are one into dst and returns it.
func active(p Position, dst []int32) []int32 {
	dst = dst[:0]
	for i, plane := range inputPlanes(p) {
		for ; plane != 0; plane &= plane - 1 {
			dst = append(dst, int32(i*Squares+squareOf(bits.TrailingZeros64(plane))))
		}
	}
	return dst
}
