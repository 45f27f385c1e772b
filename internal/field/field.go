// Package field reads and writes numbers and byte strings that stand one after the other: the form of drafts, records,
// batches and packed rows. It owns the encoding and nothing of what it carries; the event log, the replicated state and the
// coordinator's calls stand on it. A Reader belongs to one goroutine.
package field

import "encoding/binary"

// Append appends the length of s and s.
func Append[T ~string | ~[]byte](b []byte, s T) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// Reader takes bytes apart from their front. What it returns aliases them. Once it has run over the end, or met what cannot
// stand there, everything it returns is empty and Whole says false.
type Reader struct {
	b   []byte
	bad bool
}

// Read is a reader of b.
func Read(b []byte) Reader { return Reader{b: b} }

// Whole says that all bytes were read and all of them were right.
func (r *Reader) Whole() bool { return !r.bad && len(r.b) == 0 }

// Fail makes the bytes wrong, for a caller who has met a value that must not be.
func (r *Reader) Fail() { r.bad, r.b = true, nil }

// Byte is the next byte.
func (r *Reader) Byte() byte {
	if len(r.b) == 0 {
		r.Fail()
		return 0
	}
	c := r.b[0]
	r.b = r.b[1:]
	return c
}

// Uvarint is a number as binary.AppendUvarint writes it, or with needless bytes.
func (r *Reader) Uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.Fail()
		return 0
	}
	r.b = r.b[n:]
	return v
}

// Minimal is a number as binary.AppendUvarint writes it, and in no other way.
func (r *Reader) Minimal() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 || n > 1 && r.b[n-1] == 0 {
		r.Fail()
		return 0
	}
	r.b = r.b[n:]
	return v
}

// Varint is a number as binary.AppendVarint writes it.
func (r *Reader) Varint() int64 {
	v, n := binary.Varint(r.b)
	if n <= 0 {
		r.Fail()
		return 0
	}
	r.b = r.b[n:]
	return v
}

// Count is a number of things of at least one byte each that must still follow, so that a wrong one reserves no memory.
func (r *Reader) Count() int {
	n := r.Uvarint()
	if n > uint64(len(r.b)) {
		r.Fail()
		return 0
	}
	return int(n)
}

// Take is the next n bytes.
func (r *Reader) Take(n uint64) []byte {
	if n > uint64(len(r.b)) {
		r.Fail()
		return nil
	}
	out := r.b[:n:n]
	r.b = r.b[n:]
	return out
}

// Bytes is what Append wrote, its length in whatever form.
func (r *Reader) Bytes() []byte { return r.Take(r.Uvarint()) }

// MinimalBytes is what Append wrote, and nothing else.
func (r *Reader) MinimalBytes() []byte { return r.Take(r.Minimal()) }
