package rating

import (
	"maps"
	"slices"
)

// matrix is symmetric, positive definite and mostly zero: participants who never met have no entry. A rejected candidate
// met one champion and the baselines, so the matrix stays nearly a tree over thousands of generations.
type matrix struct {
	diagonal []float64
	rows     []map[int]float64 // off the diagonal, in both triangles
}

func newMatrix(n int) *matrix {
	m := &matrix{diagonal: make([]float64, n), rows: make([]map[int]float64, n)}
	for i := range m.rows {
		m.rows[i] = make(map[int]float64)
	}
	return m
}

func (m *matrix) set(i, j int, v float64) { m.rows[i][j], m.rows[j][i] = v, v }

// pivot is one eliminated row: the unknown, its diagonal, and its factors in the rows that remained.
type pivot struct {
	row     int
	d       float64
	columns []int
	factors []float64
}

// factored is the matrix as L·D·Lᵀ in the order of elimination.
type factored []pivot

// factor eliminates the unknowns, always the one with the fewest neighbours left (of those the first), which keeps the rest
// sparse. It consumes the matrix. The order depends on the pattern only, so equal systems are solved by equal operations.
func (m *matrix) factor() factored {
	n := len(m.diagonal)
	var waiting queue
	for i := range n {
		waiting.push(len(m.rows[i]), i)
	}
	out, gone := make(factored, 0, n), make([]bool, n)
	for len(out) < n {
		neighbours, k := waiting.pop()
		if gone[k] || neighbours != len(m.rows[k]) {
			continue // another entry tells of its present number
		}
		gone[k] = true
		p := m.eliminate(k)
		for _, i := range p.columns {
			waiting.push(len(m.rows[i]), i)
		}
		out = append(out, p)
	}
	return out
}

// eliminate takes unknown k out of the rest; the numbers of neighbours may change in its columns, and nowhere else.
func (m *matrix) eliminate(k int) pivot {
	p := pivot{row: k, d: m.diagonal[k], columns: slices.Sorted(maps.Keys(m.rows[k]))}
	p.factors = make([]float64, len(p.columns))
	for x, i := range p.columns {
		p.factors[x] = m.rows[k][i] / p.d
		delete(m.rows[i], k)
	}
	for x, i := range p.columns {
		v := m.rows[k][i]
		m.diagonal[i] -= float64(p.factors[x] * v)
		for y := x + 1; y < len(p.columns); y++ {
			j := p.columns[y]
			m.set(i, j, m.rows[i][j]-float64(p.factors[y]*v))
		}
	}
	return p
}

// queue is a heap of unknowns by their number of neighbours, and of those with as many by their own. A number that has
// changed is pushed again; the old entry stays.
type queue [][2]int

func (q queue) less(x, y int) bool {
	return q[x][0] < q[y][0] || q[x][0] == q[y][0] && q[x][1] < q[y][1]
}

func (q *queue) push(neighbours, unknown int) {
	*q = append(*q, [2]int{neighbours, unknown})
	h := *q
	for i := len(h) - 1; i > 0 && h.less(i, (i-1)/2); i = (i - 1) / 2 {
		h[i], h[(i-1)/2] = h[(i-1)/2], h[i]
	}
}

// pop panics when nothing is left.
func (q *queue) pop() (neighbours, unknown int) {
	h := *q
	top, last := h[0], len(h)-1
	h[0] = h[last]
	h = h[:last]
	*q = h
	for i := 0; ; {
		least := i
		for _, child := range []int{2*i + 1, 2*i + 2} {
			if child < last && h.less(child, least) {
				least = child
			}
		}
		if least == i {
			return top[0], top[1]
		}
		h[i], h[least] = h[least], h[i]
		i = least
	}
}

// solve returns x of the system with right-hand side b, which stays as it is.
func (f factored) solve(b []float64) []float64 {
	x := slices.Clone(b)
	f.solveIn(x)
	return x
}

// solveIn puts the solution where the right-hand side is.
func (f factored) solveIn(x []float64) {
	for _, p := range f {
		for c, i := range p.columns {
			x[i] -= float64(p.factors[c] * x[p.row])
		}
	}
	for k := len(f) - 1; k >= 0; k-- {
		p := f[k]
		v := x[p.row] / p.d
		for c, i := range p.columns {
			v -= float64(p.factors[c] * x[i])
		}
		x[p.row] = v
	}
}

// inverseDiagonal is the diagonal of the inverse, by unknown. Each is what solve returns for its unit vector, to the bit. What
// is not zero on the way lies on one path: from the unknown to the first eliminated of its columns, and so on from there.
func (f factored) inverseDiagonal() []float64 {
	n := len(f)
	at, out, x := make([]int, n), make([]float64, n), make([]float64, n)
	for k, p := range f {
		at[p.row] = k
	}
	above := make([]int, n)
	for k, p := range f {
		above[k] = n // the end of the path
		for _, i := range p.columns {
			above[k] = min(above[k], at[i])
		}
	}
	var path factored
	for k := range f {
		path = path[:0]
		for at := k; at < n; at = above[at] {
			path = append(path, f[at])
		}
		x[f[k].row] = 1
		path.solveIn(x)
		out[f[k].row] = x[f[k].row]
		for _, p := range path {
			x[p.row] = 0
		}
	}
	return out
}
