package npz

import (
	"errors"
	"fmt"
	"io"
	"strings"
)

// Summary is what Verify found.
type Summary struct {
	Arrays  int
	Samples int // the common first dimension
	Objects int // arrays whose contents nobody here can judge, because only unpickling shows them
}

// maxSamples bounds the first dimension.
const maxSamples = 100_000_000

// Verify checks a file as a training set: the zip's structure and bounds, the checksum of every member, every array's header
// against its length, the same number of samples in all arrays that are no scalars, at least one sample, the presence of
// features, values and a policy_ array, and that features, values, policy_values and globals hold finite numbers. It
// never unpickles and keeps no array in memory. What is wrong with the file is ErrInvalid.
func Verify(path string) (Summary, error) {
	r, err := Open(path)
	if err != nil {
		return Summary{}, err
	}
	defer r.Close()
	s, err := r.verify()
	if err != nil {
		return Summary{}, fmt.Errorf("verify npz %s: %w", path, err)
	}
	return s, nil
}

func (r *Reader) verify() (Summary, error) {
	s := Summary{Samples: -1}
	policy := false
	for _, name := range r.Names() {
		h, err := r.check(name)
		if err != nil {
			return s, err
		}
		s.Arrays++
		if h.Dtype == objectDtype {
			s.Objects++
		}
		policy = policy || (strings.HasPrefix(name, "policy_") && len(h.Shape) > 0)
		if len(h.Shape) == 0 {
			continue
		}
		if s.Samples < 0 {
			s.Samples = h.Shape[0]
		}
		if h.Shape[0] != s.Samples {
			return s, fmt.Errorf("array %q has %d samples, others %d: %w", name, h.Shape[0], s.Samples, ErrInvalid)
		}
	}
	for _, name := range []string{"features", "values"} {
		if h, err := r.Header(name); err != nil || len(h.Shape) == 0 {
			return s, fmt.Errorf("a training set needs an array %q: %w", name, ErrInvalid)
		}
	}
	if !policy {
		return s, fmt.Errorf("a training set needs a policy: %w", ErrInvalid)
	}
	if s.Samples < 1 || s.Samples > maxSamples {
		return s, fmt.Errorf("%d samples: %w", s.Samples, ErrInvalid)
	}
	return s, nil
}

// finite says which arrays must hold finite numbers: one infinite target spoils a whole training.
func finite(name string) bool {
	switch name {
	case "features", "values", "policy_values", "globals":
		return true
	}
	return false
}

// check reads a member to its end.
func (r *Reader) check(name string) (Header, error) {
	h, body, err := r.open(name)
	if err != nil {
		return Header{}, err
	}
	defer body.Close()
	out := io.Discard
	if finite(name) && h.Dtype == float32Dtype {
		out = &finiteChecker{}
	}
	// One byte more than there may be: a member that goes on is caught, not followed.
	most := int64(r.members[name].UncompressedSize64) + 1
	if n, err := io.CopyBuffer(struct{ io.Writer }{out}, io.LimitReader(body, most), make([]byte, 64<<10)); err != nil {
		if errors.Is(err, ErrInvalid) {
			return h, fmt.Errorf("array %q: %w", name, err)
		}
		return h, fmt.Errorf("read array %q: %w: %w", name, ErrInvalid, err)
	} else if n == most {
		return h, fmt.Errorf("array %q is longer than it says: %w", name, ErrInvalid)
	}
	return h, nil
}

// finiteChecker looks at little-endian float32s that come in pieces of any length.
type finiteChecker struct {
	word [4]byte
	have int
	at   int64
}

func (c *finiteChecker) Write(p []byte) (int, error) {
	for _, b := range p {
		c.word[c.have] = b
		if c.have++; c.have < 4 {
			continue
		}
		c.have = 0
		// All ones in the exponent is an infinity or no number.
		if c.word[3]&0x7f == 0x7f && c.word[2]&0x80 != 0 {
			return 0, fmt.Errorf("element %d is not finite: %w", c.at, ErrInvalid)
		}
		c.at++
	}
	return len(p), nil
}
