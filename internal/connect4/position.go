package connect4

import (
	"fmt"
	"math/bits"
)

const (
	// Columns and Rows are the size of the board.
	Columns = 7
	Rows    = 6
	// Squares is the number of squares, and the longest game in plies.
	Squares = Columns * Rows

	// stride is the bits that a column takes in a bitboard: its rows and one spare bit above them, which keeps lines from
	// running over from the top of a column to the bottom of the next.
	stride = Rows + 1

	bottomRow uint64 = 1 | 1<<stride | 1<<(2*stride) | 1<<(3*stride) | 1<<(4*stride) | 1<<(5*stride) | 1<<(6*stride)
	fullBoard uint64 = bottomRow * (1<<Rows - 1)
	column0   uint64 = 1<<Rows - 1
)

// Position is a position seen by the side to move. The zero value is the empty board. It is a value: comparable, and
// usable as a map key.
type Position struct {
	own uint64 // stones of the side to move
	all uint64 // stones of both sides
}

// Ply returns how many moves have been played.
func (p Position) Ply() int { return bits.OnesCount64(p.all) }

// Player returns who is to move: 1 (who began) or 2.
func (p Position) Player() int { return p.Ply()&1 + 1 }

// Full reports whether no square is left.
func (p Position) Full() bool { return p.all == fullBoard }

// Playable reports whether column c (from 0) is on the board and has room.
func (p Position) Playable(c int) bool {
	return c >= 0 && c < Columns && p.all&(1<<(c*stride+Rows-1)) == 0
}

// Legal returns the columns with room as a bit set, bit 0 for the leftmost.
func (p Position) Legal() uint8 {
	var set uint8
	for c := range Columns {
		if p.Playable(c) {
			set |= 1 << c
		}
	}
	return set
}

// Play drops a stone of the side to move into column c, which must be playable, and turns the board to the other side.
func (p Position) Play(c int) Position {
	all := p.all | (p.all + 1<<(c*stride))
	return Position{own: p.all ^ p.own, all: all}
}

// landing returns the squares on which a stone can come to rest now.
func (p Position) landing() uint64 { return (p.all + bottomRow) & fullBoard }

// Lost reports whether the side that has just moved has four in a line.
func (p Position) Lost() bool { return fourInLine(p.all ^ p.own) }

// Over reports whether the game has ended, and its winner: 0 for a draw, else player 1 or 2.
func (p Position) Over() (winner int, over bool) {
	if p.Lost() {
		return 3 - p.Player(), true
	}
	return 0, p.Full()
}

// Wins reports whether dropping a stone into column c, which must be playable, makes four in a line.
func (p Position) Wins(c int) bool {
	return winningSquares(p.own, p.all)&p.landing()&(column0<<(c*stride)) != 0
}

// Mirror returns the position reflected left to right.
func (p Position) Mirror() Position { return Position{own: mirror(p.own), all: mirror(p.all)} }

func mirror(b uint64) uint64 {
	var m uint64
	for c := range Columns {
		m |= (b >> (c * stride) & column0) << ((Columns - 1 - c) * stride)
	}
	return m
}

func fourInLine(b uint64) bool {
	for _, d := range [4]uint{1, stride, stride - 1, stride + 1} {
		pairs := b & (b >> d)
		if pairs&(pairs>>(2*d)) != 0 {
			return true
		}
	}
	return false
}

// winningSquares returns the free squares, reachable now or not, that would complete four in a line of the stones in own.
func winningSquares(own, all uint64) uint64 {
	// Straight up there is only one way: three below.
	squares := own << 1 & (own << 2) & (own << 3)
	for _, d := range [3]uint{stride, stride - 1, stride + 1} {
		pair := own << d & (own << (2 * d))
		squares |= pair & (own << (3 * d)) // xxx_
		squares |= pair & (own >> d)       // xx_x
		pair = own >> d & (own >> (2 * d))
		squares |= pair & (own >> (3 * d)) // _xxx
		squares |= pair & (own << d)       // x_xx
	}
	return squares & (fullBoard &^ all)
}

// ParseMoves plays the columns in s, digits 1 to 7, from the empty board. It refuses other characters, full columns and
// moves after the end of the game; the position it returns may itself be a finished one.
func ParseMoves(s string) (Position, error) {
	var p Position
	for i, r := range s {
		if _, over := p.Over(); over {
			return Position{}, fmt.Errorf("move %d: the game was over before it", i+1)
		}
		c := int(r) - '1'
		if c < 0 || c >= Columns {
			return Position{}, fmt.Errorf("move %d: column %q: want a digit from 1 to %d", i+1, r, Columns)
		}
		if !p.Playable(c) {
			return Position{}, fmt.Errorf("move %d: column %d is full", i+1, c+1)
		}
		p = p.Play(c)
	}
	return p, nil
}
