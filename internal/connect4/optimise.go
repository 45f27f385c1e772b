package connect4

import (
	"context"
	"fmt"
)

// searchShare is how much of a position's target value is the search's opinion; the rest is the game's result. The
// opinion is less noisy, the result is not biased by what the network believed.
const searchShare = 0.5

// samples turns the dataset into what the network learns from.
func (d *dataset) samples() ([]sample, error) {
	list := make([]sample, d.n)
	pool := make([]int32, 0, d.n*Squares/2)
	for i := range list {
		s := &list[i]
		start := len(pool)
		taken := uint8(0)
		for j, f := range d.features[i*Inputs : (i+1)*Inputs] {
			switch f {
			case 0:
				continue
			case 1:
			default:
				return nil, fmt.Errorf("sample %d: feature %d is %v, want 0 or 1: %w", i, j, f, ErrDataset)
			}
			pool = append(pool, int32(j))
			if j < 2*Squares && j%Squares >= Squares-Columns {
				taken |= 1 << (j % Columns)
			}
		}
		s.in = pool[start:len(pool):len(pool)]
		s.legal = (1<<Columns - 1) &^ taken
		s.value, s.weight = d.values[i], 1
		if d.searchValues != nil {
			s.value += searchShare * (d.searchValues[i] - s.value)
		}
		if d.weights != nil {
			s.weight = d.weights[i]
		}
		var sum float32
		for k := range Columns {
			c, share := d.policyIndices[i*Columns+k], d.policyValues[i*Columns+k]
			if c < 0 || c >= Columns || !(share >= 0 && share <= 1) || (share > 0 && s.legal&(1<<c) == 0) {
				return nil, fmt.Errorf("sample %d: policy gives %v to column %d: %w", i, share, c+1, ErrDataset)
			}
			s.policy[c] += share
			sum += share
		}
		if !(sum > 0.99 && sum < 1.01) || !(s.value >= -1 && s.value <= 1) || !(s.weight > 0) {
			return nil, fmt.Errorf("sample %d: policy sums to %v, value %v, weight %v: %w", i, sum, s.value, s.weight, ErrDataset)
		}
	}
	return list, nil
}

type fitOptions struct {
	epochs int
	batch  int
	rate   float64 // at the start; falls linearly to a twentieth
	seed   uint64
	// each, if not nil, is told the mean losses of every finished epoch, counted from 1.
	each func(epoch int, l losses)
}

// fit trains net in place and returns the mean losses of the last epoch.
func fit(ctx context.Context, net *Network, list []sample, o fitOptions) (losses, error) {
	rng := newRand(o.seed, streamShuffle, 0)
	order := make([]int, len(list))
	for i := range order {
		order[i] = i
	}
	grad, opt := make([]float32, parameters), newAdam()
	var act activations
	var last losses
	batches := (len(list) + o.batch - 1) / o.batch
	for epoch := range o.epochs {
		rng.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
		var sum losses
		for b := range batches {
			if err := ctx.Err(); err != nil {
				return last, fmt.Errorf("train: %w", err)
			}
			var weight float64
			for _, i := range order[b*o.batch : min((b+1)*o.batch, len(order))] {
				l := net.learn(&act, &list[i], grad)
				weight += l.weight
				sum.policy, sum.value, sum.weight = sum.policy+l.policy, sum.value+l.value, sum.weight+l.weight
			}
			done := float64(epoch*batches+b) / float64(o.epochs*batches)
			opt.apply(net.p, grad, weight, o.rate*(1-0.95*done))
		}
		last = sum.mean()
		if o.each != nil {
			o.each(epoch+1, last)
		}
	}
	return last, nil
}
