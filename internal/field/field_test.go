package field

import (
	"bytes"
	"encoding/binary"
	"math"
	"testing"
)

func sample() []byte {
	b := Append(nil, "connect4")
	b = binary.AppendUvarint(b, math.MaxUint64)
	b = binary.AppendVarint(b, math.MinInt64)
	b = append(b, 7)
	b = binary.AppendUvarint(b, 2)
	return Append(Append(b, []byte{1, 2}), "")
}

// readSample says what it found and whether the bytes were whole.
func readSample(b []byte) (found [][]byte, numbers []int64, whole bool) {
	r := Read(b)
	found = append(found, r.MinimalBytes())
	numbers = append(numbers, int64(r.Minimal()), r.Varint(), int64(r.Byte()))
	for range r.Count() {
		found = append(found, r.Bytes())
	}
	return found, numbers, r.Whole()
}

func TestWhatWasWrittenIsRead(t *testing.T) {
	t.Parallel()
	found, numbers, whole := readSample(sample())
	if !whole || len(found) != 3 || string(found[0]) != "connect4" || !bytes.Equal(found[1], []byte{1, 2}) || len(found[2]) != 0 ||
		numbers[0] != -1 || numbers[1] != math.MinInt64 || numbers[2] != 7 {
		t.Fatalf("read %q %v, whole %v", found, numbers, whole)
	}
}

func TestCutAndLongerBytesAreNotWhole(t *testing.T) {
	t.Parallel()
	b := sample()
	for n := range b {
		if _, _, whole := readSample(b[:n]); whole {
			t.Errorf("the first %d of %d bytes pass for all", n, len(b))
		}
	}
	if _, _, whole := readSample(append(b, 0)); whole {
		t.Error("a byte too many is not noticed")
	}
}

func TestWrongNumbers(t *testing.T) {
	t.Parallel()
	huge := binary.AppendUvarint(nil, math.MaxUint64)
	for name, c := range map[string]struct {
		b    []byte
		read func(*Reader)
		bad  bool
	}{
		"needless byte, any form":     {[]byte{0x81, 0x00}, func(r *Reader) { r.Uvarint() }, false},
		"needless byte, minimal form": {[]byte{0x81, 0x00}, func(r *Reader) { r.Minimal() }, true},
		"needless length":             {[]byte{0x81, 0x00, 9}, func(r *Reader) { r.MinimalBytes() }, true},
		"zero is minimal":             {[]byte{0}, func(r *Reader) { r.Minimal() }, false},
		"length beyond the end":       {huge, func(r *Reader) { r.Bytes() }, true},
		"count beyond the end":        {huge, func(r *Reader) { r.Count() }, true},
		"number of eleven bytes":      {bytes.Repeat([]byte{0x80}, 11), func(r *Reader) { r.Uvarint() }, true},
		"no byte":                     {nil, func(r *Reader) { r.Byte() }, true},
		"a caller's own objection":    {[]byte{1}, func(r *Reader) { r.Byte(); r.Fail() }, true},
	} {
		r := Read(c.b)
		c.read(&r)
		if r.Whole() == c.bad {
			t.Errorf("%s: whole %v", name, r.Whole())
		}
	}
}

func TestNothingIsReadAfterAFault(t *testing.T) {
	t.Parallel()
	r := Read([]byte{5, 1, 2})
	if got := r.Bytes(); got != nil {
		t.Fatalf("read %v", got)
	}
	if r.Byte() != 0 || r.Uvarint() != 0 || r.Varint() != 0 || r.Count() != 0 || len(r.Take(0)) != 0 || r.Whole() {
		t.Fatal("a reader goes on after a fault")
	}
}
