package connect4

import "math"

// sample is one position to learn from.
type sample struct {
	in     []int32 // inputs that are one
	policy [Columns]float32
	legal  uint8
	value  float32
	weight float32
}

// losses are sums over samples: cross-entropy of the policy and squared error of the value.
type losses struct {
	policy, value float64
	weight        float64
}

func (l losses) mean() losses {
	return losses{policy: l.policy / l.weight, value: l.value / l.weight, weight: 1}
}

// learn runs sample s forward and adds the gradient of its loss to grad, which is laid out like the parameters.
func (n *Network) learn(a *activations, s *sample, grad []float32) losses {
	a.nIn = copy(a.in[:], s.in)
	n.forward(a)

	var probs [Columns]float32
	softmax(a.out[:Columns], s.legal, &probs)
	v := float32(math.Tanh(float64(a.out[valueIndex])))
	l := losses{weight: float64(s.weight)}
	var dOut [outputs]float32
	for c := range Columns {
		if s.legal&(1<<c) == 0 {
			continue
		}
		if s.policy[c] > 0 {
			l.policy -= float64(s.weight*s.policy[c]) * math.Log(math.Max(float64(probs[c]), 1e-12))
		}
		dOut[c] = s.weight * (probs[c] - s.policy[c])
	}
	miss := v - s.value
	l.value = float64(s.weight * miss * miss)
	dOut[valueIndex] = s.weight * 2 * miss * (1 - v*v)

	var d2 [hidden2]float32
	backward(d2[:], dOut[:], n.p[offW3:offB3], grad[offW3:offB3], a.h2[:], a.nz2[:a.n2])
	add(grad[offB3:], dOut[:])
	var d1 [hidden1]float32
	backward(d1[:], d2[:], n.p[offW2:offB2], grad[offW2:offB2], a.h1[:], a.nz1[:a.n1])
	add(grad[offB2:offW3], d2[:])
	for _, i := range s.in {
		add(grad[int(i)*hidden1:(int(i)+1)*hidden1], d1[:])
	}
	add(grad[offB1:offW2], d1[:])
	return l
}

// backward adds the gradient of a layer's weights to gw and sets dx, for the inputs that idx lists, to the gradient of
// the layer's input x. Inputs that the rectifier cut off keep a gradient of zero.
func backward(dx, dy, w, gw, x []float32, idx []int32) {
	width := len(dy)
	for _, i := range idx {
		row, g, v := w[int(i)*width:(int(i)+1)*width], gw[int(i)*width:(int(i)+1)*width], x[i]
		var s0, s1 float32
		for o := 0; o+2 <= width; o += 2 {
			y0, y1 := dy[o], dy[o+1]
			s0 += float32(row[o] * y0)
			s1 += float32(row[o+1] * y1)
			g[o] += float32(v * y0)
			g[o+1] += float32(v * y1)
		}
		dx[i] = s0 + s1
	}
}

func add(dst, src []float32) {
	for i, v := range src {
		dst[i] += v
	}
}

// adam is the optimiser's memory.
type adam struct {
	m, v []float32
	step int
}

func newAdam() *adam {
	return &adam{m: make([]float32, parameters), v: make([]float32, parameters)}
}

const (
	beta1, beta2 = 0.9, 0.999
	adamEpsilon  = 1e-8
	weightDecay  = 1e-4
)

// apply moves the parameters against the mean gradient of a batch of the given weight, and clears the gradient.
func (o *adam) apply(p, grad []float32, weight, rate float64) {
	o.step++
	correct1 := 1 - math.Pow(beta1, float64(o.step))
	correct2 := 1 - math.Pow(beta2, float64(o.step))
	scale := float32(1 / weight)
	lr := float32(rate / correct1)
	root2 := float32(1 / correct2)
	decay := float32(rate * weightDecay)
	for i := range p {
		g := grad[i] * scale
		grad[i] = 0
		m := float32(beta1*o.m[i]) + float32((1-beta1)*g)
		v := float32(beta2*o.v[i]) + float32((1-beta2)*g*g)
		o.m[i], o.v[i] = m, v
		p[i] -= float32(lr*m)/(float32(math.Sqrt(float64(v*root2)))+adamEpsilon) + float32(decay*p[i])
	}
}
