package npz

import (
	"archive/zip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strings"
)

// Reader gives the arrays of one file. It checks the file's structure when it is opened; the bytes of an array are checked
// against their checksum when the array is read.
type Reader struct {
	file    *os.File
	members map[string]*zip.File
}

// Open opens a file for reading. What is wrong with the file is ErrInvalid. The caller must Close the Reader.
func Open(path string) (*Reader, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open npz: %w", err)
	}
	members, err := openMembers(f)
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("open npz %s: %w", path, err)
	}
	return &Reader{file: f, members: members}, nil
}

func openMembers(f *os.File) (map[string]*zip.File, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("no regular file: %w", ErrInvalid)
	}
	dirOffset, err := checkLayout(f, info.Size())
	if err != nil {
		return nil, err
	}
	z, err := zip.NewReader(f, info.Size())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if err := checkMembers(f, info.Size(), dirOffset, z.File); err != nil {
		return nil, err
	}
	members := make(map[string]*zip.File, len(z.File))
	for _, m := range z.File {
		members[strings.TrimSuffix(m.Name, ".npy")] = m
	}
	return members, nil
}

// Close closes the file.
func (r *Reader) Close() error { return r.file.Close() }

// Names lists the arrays, sorted.
func (r *Reader) Names() []string {
	names := make([]string, 0, len(r.members))
	for n := range r.members {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// ErrNoArray says that the file has no array of that name.
var ErrNoArray = errors.New("no such array")

// Header reads an array's type and shape without its data.
func (r *Reader) Header(name string) (Header, error) {
	h, body, err := r.open(name)
	if err != nil {
		return Header{}, err
	}
	return h, body.Close()
}

// open reads the header of an array and stands before its data, whose length it has checked.
func (r *Reader) open(name string) (Header, io.ReadCloser, error) {
	m, ok := r.members[name]
	if !ok {
		return Header{}, nil, fmt.Errorf("array %q: %w", name, ErrNoArray)
	}
	body, err := m.Open()
	if err != nil {
		return Header{}, nil, fmt.Errorf("open array %q: %w: %w", name, ErrInvalid, err)
	}
	h, used, err := readHeader(body)
	if err == nil {
		err = checkLength(h, int64(m.UncompressedSize64)-used)
	}
	if err != nil {
		_ = body.Close()
		return Header{}, nil, fmt.Errorf("array %q: %w", name, err)
	}
	return h, body, nil
}

func checkLength(h Header, have int64) error {
	item, err := itemSize(h.Dtype)
	if err != nil {
		return err
	}
	n, err := h.elements(maxTotal)
	if err != nil {
		return err
	}
	if item == 0 {
		return nil
	}
	if n > maxTotal/item || n*item != have {
		return fmt.Errorf("shape %v of %s in %d bytes: %w", h.Shape, h.Dtype, have, ErrInvalid)
	}
	return nil
}

// Float32 reads a whole array of that type.
func (r *Reader) Float32(name string) (shape []int, data []float32, err error) {
	err = r.words(name, float32Dtype, func(s []int, n int) func(int, uint32) {
		shape, data = s, make([]float32, n)
		return func(i int, v uint32) { data[i] = math.Float32frombits(v) }
	})
	return shape, data, err
}

// Int32 reads a whole array of that type.
func (r *Reader) Int32(name string) (shape []int, data []int32, err error) {
	err = r.words(name, int32Dtype, func(s []int, n int) func(int, uint32) {
		shape, data = s, make([]int32, n)
		return func(i int, v uint32) { data[i] = int32(v) }
	})
	return shape, data, err
}

// String reads a scalar text.
func (r *Reader) String(name string) (string, error) {
	h, body, err := r.open(name)
	if err != nil {
		return "", err
	}
	defer body.Close()
	if !strings.HasPrefix(h.Dtype, "<U") || len(h.Shape) != 0 {
		return "", fmt.Errorf("array %q is %s of shape %v, not a text: %w", name, h.Dtype, h.Shape, ErrInvalid)
	}
	b, err := io.ReadAll(body)
	if err != nil {
		return "", fmt.Errorf("read array %q: %w: %w", name, ErrInvalid, err)
	}
	var out strings.Builder
	for ; len(b) >= 4; b = b[4:] {
		out.WriteRune(rune(binary.LittleEndian.Uint32(b) & 0x1fffff))
	}
	return strings.TrimRight(out.String(), "\x00"), nil
}

// words reads an array of four-byte elements to its end, so that the checksum is compared.
func (r *Reader) words(name, dtype string, begin func(shape []int, n int) func(i int, v uint32)) error {
	h, body, err := r.open(name)
	if err != nil {
		return err
	}
	defer body.Close()
	if h.Dtype != dtype {
		return fmt.Errorf("array %q is %s, not %s: %w", name, h.Dtype, dtype, ErrInvalid)
	}
	n, err := h.elements(maxTotal / 4)
	if err != nil {
		return fmt.Errorf("array %q: %w", name, err)
	}
	put := begin(h.Shape, int(n))
	var block [16 << 10]byte
	for i := 0; i < int(n); {
		b := block[:min(len(block), 4*(int(n)-i))]
		if _, err := io.ReadFull(body, b); err != nil {
			return fmt.Errorf("read array %q: %w: %w", name, ErrInvalid, err)
		}
		for ; len(b) >= 4; b = b[4:] {
			put(i, binary.LittleEndian.Uint32(b))
			i++
		}
	}
	if k, err := body.Read(block[:1]); k != 0 || !errors.Is(err, io.EOF) {
		return fmt.Errorf("read array %q: trailing data or bad checksum (%v): %w", name, err, ErrInvalid)
	}
	return nil
}
