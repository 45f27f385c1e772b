package connect4

import (
	"bytes"
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// busyNetwork is a network whose heads are not zero.
func busyNetwork(seed uint64) *Network {
	n := NewNetwork(seed)
	rng := newRand(seed, streamWeights, 7)
	for i := offB1; i < parameters; i++ {
		n.p[i] += float32(rng.NormFloat64() * 0.1)
	}
	return n
}

func testSample(t *testing.T, moves string) sample {
	t.Helper()
	p, err := ParseMoves(moves)
	if err != nil {
		t.Fatal(err)
	}
	var d dataset
	policy := [Columns]float64{0.1, 0.2, 0.3, 0.1, 0.1, 0.1, 0.1}
	d.add(p, &policy, -1, 0.25, 20, false)
	list, err := d.samples()
	if err != nil {
		t.Fatal(err)
	}
	return list[0]
}

func lossOf(n *Network, s *sample) float64 {
	var a activations
	l := n.learn(&a, s, make([]float32, parameters))
	return l.policy + l.value
}

// worstGradient compares the gradient with differences of the loss over a spread of parameters of every layer.
func worstGradient(n *Network, s *sample, grad []float32) float64 {
	worst := 0.0
	const h = 1e-2
	probe := func(i int) {
		w := n.p[i]
		n.p[i] = w + h
		up := lossOf(n, s)
		n.p[i] = w - h
		down := lossOf(n, s)
		n.p[i] = w
		worst = max(worst, math.Abs((up-down)/(2*h)-float64(grad[i])))
	}
	for u := 0; u < hidden1; u += 5 {
		probe(int(s.in[0])*hidden1 + u)
		probe(offB1 + u)
		probe(offW2 + u*hidden2 + u%hidden2)
	}
	for u := range hidden2 {
		probe(offB2 + u)
		probe(offW3 + u*outputs + u%outputs)
	}
	for o := range outputs {
		probe(offB3 + o)
	}
	return worst
}

func TestGradient(t *testing.T) {
	t.Parallel()
	n, s := busyNetwork(3), testSample(t, "44535")
	grad := make([]float32, parameters)
	var a activations
	n.learn(&a, &s, grad)
	// Differences over float32 losses, with a kink where a unit switches on, are good to about a hundredth.
	if worst := worstGradient(n, &s, grad); worst > 0.02 {
		t.Errorf("gradient is off by up to %v", worst)
	}
	for _, broken := range []int{int(s.in[0]) * hidden1, offB3} {
		g := slices.Clone(grad)
		for i := broken; i < min(broken+hidden1, parameters); i++ {
			g[i] = -g[i]
		}
		if worst := worstGradient(n, &s, g); worst <= 0.02 {
			t.Errorf("a gradient of the wrong sign from parameter %d on passes the check: %v", broken, worst)
		}
	}
}

func TestFitLearns(t *testing.T) {
	t.Parallel()
	list := []sample{testSample(t, ""), testSample(t, "44"), testSample(t, "123")}
	n := NewNetwork(1)
	before := lossOf(n, &list[1])
	if _, err := fit(context.Background(), n, list, fitOptions{epochs: 100, batch: 2, rate: 0.003, seed: 1}); err != nil {
		t.Fatal(err)
	}
	entropy := 0.0
	for _, v := range list[1].policy {
		entropy -= float64(v) * math.Log(float64(v))
	}
	if after := lossOf(n, &list[1]); after > entropy+0.02 {
		t.Errorf("loss went from %v to %v, the least possible is %v", before, after, entropy)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := fit(ctx, n, list, fitOptions{epochs: 1, batch: 2, rate: 0.003}); !errors.Is(err, context.Canceled) {
		t.Errorf("fit with an ended context: %v", err)
	}
}

func TestEvaluatorRemembersRightly(t *testing.T) {
	t.Parallel()
	net := busyNetwork(5)
	warm := NewEvaluator(net)
	rng := newRand(1, streamPlay, 0)
	for range 100 {
		p := Position{}
		for range rng.IntN(20) {
			p = p.Play(playRandom(p, rng))
			if _, over := p.Over(); over {
				p = Position{}
			}
		}
		v1, pol1 := warm.Evaluate(p)
		got := *pol1
		v2, pol2 := NewEvaluator(net).Evaluate(p)
		if v1 != v2 || got != *pol2 {
			t.Fatalf("%+v: %v %v with memory, %v %v without", p, v1, got, v2, *pol2)
		}
		v3, pol3 := warm.Evaluate(p.Mirror())
		slices.Reverse(pol3[:])
		if v3 != v1 || *pol3 != got {
			t.Fatalf("%+v: %v %v, its reflection %v %v", p, v1, got, v3, *pol3)
		}
		slices.Reverse(pol3[:]) // it is the evaluator's own memory
		var sum float32
		for c, v := range got {
			sum += v
			if !p.Playable(c) && v != 0 {
				t.Fatalf("full column %d has probability %v", c, v)
			}
		}
		if math.Abs(float64(sum-1)) > 1e-5 || v1 < -1 || v1 > 1 {
			t.Fatalf("policy sums to %v, value %v", sum, v1)
		}
	}
}

func TestModelFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "m")
	m := &Model{Net: busyNetwork(2), Info: ModelInfo{Seed: 2, Samples: 10, Parent: "abc"}}
	if err := SaveModel(path, m); err != nil {
		t.Fatal(err)
	}
	back, err := LoadModel(path)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(back.Net.p, m.Net.p) || back.Info.Parent != "abc" || back.Digest != m.Digest || len(m.Digest) != 64 {
		t.Errorf("read back %+v, digest %s, wrote digest %s", back.Info, back.Digest, m.Digest)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	step := 37
	for i := 0; i < len(good); i += step {
		if i > 4096 {
			step = 2003
		}
		bad := bytes.Clone(good)
		bad[i] ^= 1 << (i % 8)
		if _, err := decodeModel(bad); !errors.Is(err, ErrModel) {
			t.Fatalf("byte %d flipped: %v", i, err)
		}
	}
	for _, n := range []int{0, 7, 8, 15, 16, 100, len(good) - 1} {
		if _, err := decodeModel(good[:n]); !errors.Is(err, ErrModel) {
			t.Errorf("cut to %d bytes: %v", n, err)
		}
	}
	m.Net.p[17] = float32(math.NaN())
	b, err := m.encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := decodeModel(b); !errors.Is(err, ErrModel) {
		t.Errorf("a parameter that is no number: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
