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
	byDegree := make([]map[int]bool, n+1)
	put := func(i int) {
		d := len(m.rows[i])
		if byDegree[d] == nil {
			byDegree[d] = make(map[int]bool)
		}
		byDegree[d][i] = true
	}
	for i := range n {
		put(i)
	}
	out := make(factored, 0, n)
	for low := 0; len(out) < n; {
		for len(byDegree[low]) == 0 {
			low++
		}
		k := n
		for i := range byDegree[low] {
			k = min(k, i)
		}
		delete(byDegree[low], k)
		p := m.eliminate(k, func(i int) { delete(byDegree[len(m.rows[i])], i) }, put)
		for _, c := range p.columns {
			low = min(low, len(m.rows[c]))
		}
		out = append(out, p)
	}
	return out
}

// eliminate takes unknown k out of the rest; leave and enter are told of every row whose number of neighbours may change.
func (m *matrix) eliminate(k int, leave, enter func(int)) pivot {
	p := pivot{row: k, d: m.diagonal[k], columns: slices.Sorted(maps.Keys(m.rows[k]))}
	p.factors = make([]float64, len(p.columns))
	for x, i := range p.columns {
		leave(i)
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
	for _, i := range p.columns {
		enter(i)
	}
	return p
}

// solve returns x of the system with right-hand side b, which stays as it is.
func (f factored) solve(b []float64) []float64 {
	x := slices.Clone(b)
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
	return x
}
