package rating

import "math"

// exp is e to the power x for |x| < 700. The standard library's has its own assembly on some processors and may differ there
// in the last bit; this one uses only exactly rounded operations in a fixed order. Every product is converted before it is
// added, which forbids the compiler to fuse the two.
func exp(x float64) float64 {
	n := math.Round(x / math.Ln2)
	r := x - float64(n*math.Ln2) // |r| ≤ 0.35
	sum := 1.0
	for k := 17; k >= 1; k-- {
		sum = 1 + float64(sum*r)/float64(k)
	}
	return math.Ldexp(sum, int(n))
}
