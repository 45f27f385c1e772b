package connect4

import "math"

// cacheBits sets the size of an evaluator's memory: 2^16 positions, 3 MiB.
const cacheBits = 16

type cached struct {
	pos    Position
	value  float32
	policy [Columns]float32
}

// Evaluator asks a network about positions and remembers the answers. The answers are the same with and without its
// memory, and the same for a position and its reflection. It belongs to one goroutine.
type Evaluator struct {
	net   *Network
	cache []cached
	act   activations
}

// NewEvaluator returns an evaluator of net.
func NewEvaluator(net *Network) *Evaluator {
	return &Evaluator{net: net, cache: make([]cached, 1<<cacheBits)}
}

// Evaluate returns the value of an unfinished position for the side to move, from -1 to 1, and a probability for each
// column; full columns have 0. What it returns is overwritten by a later call.
func (e *Evaluator) Evaluate(p Position) (float32, *[Columns]float32) {
	slot := &e.cache[(p.all*0x9E3779B97F4A7C15^p.own*0xC2B2AE3D27D4EB4F)>>(64-cacheBits)]
	// The empty board equals an unused slot; it is told apart by its policy, which then sums to one.
	if slot.pos == p && (p.all != 0 || slot.policy[0] != 0) {
		return slot.value, &slot.policy
	}
	// The board is symmetrical, the network only nearly so: asking it about both sides evens its errors out.
	value, policy := e.ask(p)
	mirrored, reversed := e.ask(p.Mirror())
	slot.pos, slot.value = p, (value+mirrored)/2
	for c := range Columns {
		slot.policy[c] = (policy[c] + reversed[Columns-1-c]) / 2
	}
	return slot.value, &slot.policy
}

// ask runs the network once.
func (e *Evaluator) ask(p Position) (value float32, policy [Columns]float32) {
	a := &e.act
	a.nIn = len(active(p, a.in[:]))
	e.net.forward(a)
	softmax(a.out[:Columns], p.Legal(), &policy)
	return float32(math.Tanh(float64(a.out[valueIndex]))), policy
}
