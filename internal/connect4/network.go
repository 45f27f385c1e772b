package connect4

import (
	"math"
	"math/rand/v2"
)

const (
	hidden1 = 128
	hidden2 = 32
	// outputs are a logit for each column and, last, the value before it is squashed.
	outputs    = Columns + 1
	valueIndex = Columns

	// All layers are stored input-major: the weights that leave one input lie side by side, so that an input of zero
	// costs nothing.
	offB1      = Inputs * hidden1
	offW2      = offB1 + hidden1
	offB2      = offW2 + hidden1*hidden2
	offW3      = offB2 + hidden2
	offB3      = offW3 + hidden2*outputs
	parameters = offB3 + outputs
)

// Network is a fully connected network of two hidden layers with a policy and a value head. It is read-only once made.
type Network struct {
	p []float32
}

// NewNetwork returns an untrained network: hidden layers drawn from the seed, heads all zero, so that it calls every
// position even and every move equally good. It is the control that a trained one is compared with.
func NewNetwork(seed uint64) *Network {
	n := &Network{p: make([]float32, parameters)}
	rng := rand.New(rand.NewPCG(seed, streamWeights))
	// Only about a third of the inputs are ever one at a time; the fan-in that counts is that third.
	fill := func(w []float32, fanIn float64) {
		scale := math.Sqrt(2 / fanIn)
		for i := range w {
			w[i] = float32(rng.NormFloat64() * scale)
		}
	}
	fill(n.p[:offB1], Squares/2)
	fill(n.p[offW2:offB2], hidden1)
	return n
}

func (n *Network) clone() *Network {
	return &Network{p: append([]float32(nil), n.p...)}
}

// activations are the layers of one forward pass, kept for the backward one. They belong to one goroutine.
type activations struct {
	in  [Squares * planes]int32 // which inputs are one
	nIn int
	h1  [hidden1]float32
	nz1 [hidden1]int32 // units of h1 that are not below zero
	n1  int
	h2  [hidden2]float32
	nz2 [hidden2]int32
	n2  int
	out [outputs]float32
}

// forward computes the outputs from the inputs listed in a.in.
func (n *Network) forward(a *activations) {
	sumRows(a.h1[:], n.p[offB1:offW2], n.p[:offB1], a.in[:a.nIn])
	a.n1 = rectify(a.h1[:], a.nz1[:])
	mulRows(a.h2[:], n.p[offB2:offW3], n.p[offW2:offB2], a.h1[:], a.nz1[:a.n1])
	a.n2 = rectify(a.h2[:], a.nz2[:])
	mulRows(a.out[:], n.p[offB3:], n.p[offW3:offB3], a.h2[:], a.nz2[:a.n2])
}

// sumRows sets dst to bias plus the rows of w that idx lists. Eight sums at a time stay in registers; len(dst) is a
// multiple of eight.
func sumRows(dst, bias, w []float32, idx []int32) {
	width := len(dst)
	for o := 0; o+8 <= width; o += 8 {
		b := bias[o : o+8 : o+8]
		s0, s1, s2, s3, s4, s5, s6, s7 := b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]
		column := w[o:]
		for _, i := range idx {
			r := (*[8]float32)(column[int(i)*width:])
			s0 += r[0]
			s1 += r[1]
			s2 += r[2]
			s3 += r[3]
			s4 += r[4]
			s5 += r[5]
			s6 += r[6]
			s7 += r[7]
		}
		d := dst[o : o+8 : o+8]
		d[0], d[1], d[2], d[3], d[4], d[5], d[6], d[7] = s0, s1, s2, s3, s4, s5, s6, s7
	}
}

// mulRows sets dst to bias plus the rows of w that idx lists, each times its x. The conversions keep the compiler from
// fusing multiplication and addition on some machines and not on others.
func mulRows(dst, bias, w, x []float32, idx []int32) {
	width := len(dst)
	for o := 0; o+8 <= width; o += 8 {
		b := bias[o : o+8 : o+8]
		s0, s1, s2, s3, s4, s5, s6, s7 := b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]
		column := w[o:]
		for _, i := range idx {
			v := x[i]
			r := (*[8]float32)(column[int(i)*width:])
			s0 += float32(v * r[0])
			s1 += float32(v * r[1])
			s2 += float32(v * r[2])
			s3 += float32(v * r[3])
			s4 += float32(v * r[4])
			s5 += float32(v * r[5])
			s6 += float32(v * r[6])
			s7 += float32(v * r[7])
		}
		d := dst[o : o+8 : o+8]
		d[0], d[1], d[2], d[3], d[4], d[5], d[6], d[7] = s0, s1, s2, s3, s4, s5, s6, s7
	}
}

// rectify lists the units of h that are not below zero; the others count as zero from here on. Which units those are is
// as good as random to the processor, so there is no branch on it.
func rectify(h []float32, nz []int32) int {
	nz = nz[:len(h)]
	n := 0
	for i, v := range h {
		nz[n] = int32(i)
		n += int(1 - math.Float32bits(v)>>31)
	}
	return n
}

// softmax turns logits into probabilities over the legal columns; the others get zero.
func softmax(logits []float32, legal uint8, dst *[Columns]float32) {
	top := float32(math.Inf(-1))
	for c := range Columns {
		if legal&(1<<c) != 0 && logits[c] > top {
			top = logits[c]
		}
	}
	var sum float32
	for c := range Columns {
		dst[c] = 0
		if legal&(1<<c) != 0 {
			dst[c] = float32(math.Exp(float64(logits[c] - top)))
			sum += dst[c]
		}
	}
	for c := range Columns {
		dst[c] /= sum
	}
}
