package npz

import (
	"archive/zip"
	"bufio"
	"compress/flate"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"unicode/utf8"
)

// arrayName is what an array may be called; it becomes a member's file name and an attribute in Python.
var arrayName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,63}$`)

const maxArrays = 64

// Writer makes one NPZ file. Nothing is seen under the file's name before Close has returned nil. The first error sticks:
// later calls and Close return it, and Close then leaves nothing behind. The same calls make the same bytes.
type Writer struct {
	path  string
	file  *os.File
	buf   *bufio.Writer
	zip   *zip.Writer
	names map[string]bool
	err   error
	done  bool
}

// Create begins a file that will appear at path, replacing what is there. The directory must exist.
func Create(path string) (*Writer, error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".npz-*.tmp")
	if err != nil {
		return nil, fmt.Errorf("create npz: %w", err)
	}
	w := &Writer{path: path, file: f, buf: bufio.NewWriterSize(f, 256<<10), names: make(map[string]bool)}
	w.zip = zip.NewWriter(w.buf)
	w.zip.RegisterCompressor(zip.Deflate, func(out io.Writer) (io.WriteCloser, error) {
		return flate.NewWriter(out, flate.BestSpeed) // planes of zeros and ones shrink well at any level
	})
	return w, nil
}

// Float32 adds an array. The product of shape must be len(data); an empty shape is a scalar.
func (w *Writer) Float32(name string, shape []int, data []float32) error {
	return w.array(name, Header{Dtype: float32Dtype, Shape: shape}, len(data), func(b []byte, i int) {
		binary.LittleEndian.PutUint32(b, math.Float32bits(data[i]))
	})
}

// Int32 adds an array, as Float32 does.
func (w *Writer) Int32(name string, shape []int, data []int32) error {
	return w.array(name, Header{Dtype: int32Dtype, Shape: shape}, len(data), func(b []byte, i int) {
		binary.LittleEndian.PutUint32(b, uint32(data[i]))
	})
}

// String adds a text as a scalar, which NumPy shows as a zero-dimensional array of its Unicode type. At most 64 KiB, without
// NUL characters, which NumPy would cut off at the end.
func (w *Writer) String(name, text string) error {
	if !utf8.ValidString(text) || strings.ContainsRune(text, 0) || len(text) > 64<<10 {
		return w.fail(fmt.Errorf("array %q: text is too long, no UTF-8, or has a NUL", name))
	}
	runes := []rune(text)
	if len(runes) == 0 {
		runes = []rune{0} // NumPy has no strings of no width; one NUL reads back as empty
	}
	dtype := fmt.Sprintf("<U%d", len(runes))
	return w.member(name, Header{Dtype: dtype}, func(out io.Writer) error {
		b := make([]byte, 0, 4*len(runes))
		for _, r := range runes {
			b = binary.LittleEndian.AppendUint32(b, uint32(r))
		}
		_, err := out.Write(b)
		return err
	})
}

// array writes n elements of four bytes.
func (w *Writer) array(name string, h Header, n int, put func(b []byte, i int)) error {
	want, err := h.elements(math.MaxInt32)
	if err == nil && (want != int64(n) || len(h.Shape) > maxDims) {
		err = fmt.Errorf("shape %v with %d elements", h.Shape, n)
	}
	if err != nil {
		return w.fail(fmt.Errorf("array %q: %w", name, err))
	}
	return w.member(name, h, func(out io.Writer) error {
		var block [16 << 10]byte
		for i := 0; i < n; {
			b := block[:0]
			for ; i < n && len(b) < len(block); i++ {
				b = b[:len(b)+4]
				put(b[len(b)-4:], i)
			}
			if _, err := out.Write(b); err != nil {
				return err
			}
		}
		return nil
	})
}

func (w *Writer) member(name string, h Header, write func(io.Writer) error) error {
	if w.err != nil {
		return w.err
	}
	if w.done {
		return w.fail(errors.New("npz writer is closed"))
	}
	folded := strings.ToLower(name)
	if !arrayName.MatchString(name) || w.names[folded] || len(w.names) == maxArrays {
		return w.fail(fmt.Errorf("array %q: the name is odd or taken, or there are %d already", name, maxArrays))
	}
	w.names[folded] = true
	head, err := encodeHeader(h)
	if err != nil {
		return w.fail(fmt.Errorf("array %q: %w", name, err))
	}
	out, err := w.zip.CreateHeader(&zip.FileHeader{Name: name + ".npy", Method: zip.Deflate})
	if err == nil {
		_, err = out.Write(head)
	}
	if err == nil {
		err = write(out)
	}
	if err != nil {
		return w.fail(fmt.Errorf("write array %q: %w", name, err))
	}
	return nil
}

func (w *Writer) fail(err error) error {
	if w.err == nil {
		w.err = err
	}
	return w.err
}

// Discard ends the Writer without a file. After Close it does nothing, so it can be deferred.
func (w *Writer) Discard() {
	if !w.done {
		w.done = true
		_ = w.file.Close()
		_ = os.Remove(w.file.Name())
	}
}

// Close finishes the file, brings it to disk and gives it its name.
func (w *Writer) Close() error {
	if w.done {
		return w.fail(errors.New("npz writer is closed"))
	}
	if w.err != nil {
		w.Discard()
		return w.err
	}
	if err := w.publish(); err != nil {
		w.Discard()
		return w.fail(fmt.Errorf("publish %s: %w", w.path, err))
	}
	return nil
}

func (w *Writer) publish() error {
	if err := w.zip.Close(); err != nil {
		return err
	}
	if err := w.buf.Flush(); err != nil {
		return err
	}
	if err := w.file.Chmod(0o644); err != nil {
		return err
	}
	if err := w.file.Sync(); err != nil {
		return err
	}
	if err := w.file.Close(); err != nil {
		return err
	}
	if err := os.Rename(w.file.Name(), w.path); err != nil {
		return err
	}
	w.done = true
	dir, err := os.Open(filepath.Dir(w.path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
