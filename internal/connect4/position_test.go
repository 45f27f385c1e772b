package connect4

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// countPositions returns how many distinct positions there are after each number of plies, where no game goes on after over
// says that it has ended.
func countPositions(plies int, over func(Position) bool) []int {
	layer := map[Position]bool{{}: true}
	var counts []int
	for range plies {
		next := make(map[Position]bool, 4*len(layer))
		for p := range layer {
			if over(p) {
				continue
			}
			for c := range Columns {
				if p.Playable(c) {
					next[p.Play(c)] = true
				}
			}
		}
		counts = append(counts, len(next))
		layer = next
	}
	return counts
}

func TestNumbersOfPositions(t *testing.T) {
	t.Parallel()
	want := []int{7, 49, 238, 1120, 4263, 16422, 54859, 184275, 558186}
	if underRace {
		want = want[:7] // the rest takes too long there, and is tested without it
	}
	ended := func(p Position) bool { _, over := p.Over(); return over }
	if diff := cmp.Diff(want, countPositions(len(want), ended)); diff != "" {
		t.Errorf("positions after 1, 2, … plies (-want +got):\n%s", diff)
	}
	if underRace {
		return
	}
	// The count notices rules that do not see the end of a game.
	if blind := countPositions(8, func(Position) bool { return false }); blind[7] == want[7] {
		t.Errorf("games that never end have the right number of positions after 8 plies too: %d", blind[7])
	}
}

// grid is the same game, written plainly.
type grid [Columns][Rows]int

func gridOf(p Position) grid {
	var g grid
	mover := p.Player()
	for c := range Columns {
		for r := range Rows {
			bit := uint64(1) << (c*stride + r)
			switch {
			case p.all&bit == 0:
			case p.own&bit != 0:
				g[c][r] = mover
			default:
				g[c][r] = 3 - mover
			}
		}
	}
	return g
}

func (g grid) four(player int) bool {
	for c := range Columns {
		for r := range Rows {
			for _, d := range [4][2]int{{1, 0}, {0, 1}, {1, 1}, {1, -1}} {
				n := 0
				for k := range 4 {
					x, y := c+k*d[0], r+k*d[1]
					if x < Columns && y >= 0 && y < Rows && g[x][y] == player {
						n++
					}
				}
				if n == 4 {
					return true
				}
			}
		}
	}
	return false
}

// randomPosition draws a position that can be reached, finished or not.
func randomPosition(t *rapid.T) Position {
	var p Position
	for range rapid.IntRange(0, Squares).Draw(t, "plies") {
		if _, over := p.Over(); over {
			break
		}
		c := rapid.IntRange(0, Columns-1).Draw(t, "column")
		for !p.Playable(c) {
			c = (c + 1) % Columns
		}
		p = p.Play(c)
	}
	return p
}

func TestBitboardsAgreeWithTheGrid(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := randomPosition(t)
		g, mover := gridOf(p), p.Player()
		if got, want := p.Lost(), g.four(3-mover); got != want {
			t.Fatalf("Lost() = %v, the grid says %v:\n%v", got, want, g)
		}
		squares := winningSquares(p.own, p.all)
		for c := range Columns {
			for r := range Rows {
				if g[c][r] != 0 {
					continue
				}
				tried := g
				tried[c][r] = mover
				if got, want := squares>>(c*stride+r)&1 == 1, tried.four(mover); got != want {
					t.Fatalf("column %d row %d wins: %v, the grid says %v:\n%v", c, r, got, want, g)
				}
			}
			if got, want := p.Playable(c), g[c][Rows-1] == 0; got != want {
				t.Fatalf("Playable(%d) = %v:\n%v", c, got, g)
			}
			if p.Playable(c) && !p.Lost() {
				if got, want := p.Wins(c), p.Play(c).Lost(); got != want {
					t.Fatalf("Wins(%d) = %v, playing it says %v:\n%v", c, got, want, g)
				}
			}
		}
		if p.Mirror().Mirror() != p || p.Mirror().Lost() != p.Lost() {
			t.Fatalf("mirror changes the position %+v", p)
		}
	})
}

func TestParseMoves(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		moves string
		ply   int
		ok    bool
	}{
		{"", 0, true}, {"4453", 4, true}, {"444444", 6, true}, {"1212121", 7, true},
		{"4444444", 0, false}, {"8", 0, false}, {"0", 0, false}, {"4 4", 0, false}, {"12121213", 0, false}, {"４", 0, false},
	} {
		p, err := ParseMoves(tc.moves)
		if (err == nil) != tc.ok || (tc.ok && p.Ply() != tc.ply) {
			t.Errorf("ParseMoves(%q) = ply %d, %v", tc.moves, p.Ply(), err)
		}
	}
}
