package npz

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
)

// ErrInvalid says that a file is no plain NPZ file, or no training set where one was asked for.
var ErrInvalid = errors.New("invalid npz file")

// Header is what the first bytes of a .npy member say about an array.
type Header struct {
	Dtype string // NumPy's description: "<f4", "<i4", "<U12", "|O"
	Shape []int  // empty for a scalar
}

const (
	magic         = "\x93NUMPY"
	maxHeader     = 64 << 10
	maxDims       = 8
	maxDim        = 1_000_000_000
	objectDtype   = "|O"
	float32Dtype  = "<f4"
	int32Dtype    = "<i4"
	headerAlign   = 64
	preambleBytes = len(magic) + 2 + 2 // version 1.0
)

var (
	numberDtype = regexp.MustCompile(`^(\|[biu]1|<i[248]|<u[248]|<f[248])$`)
	stringDtype = regexp.MustCompile(`^(<U|\|S)([1-9][0-9]{0,5})$`)
)

// itemSize is 0 for object arrays, whose length in bytes the header does not tell.
func itemSize(dtype string) (int64, error) {
	if dtype == objectDtype {
		return 0, nil
	}
	if numberDtype.MatchString(dtype) {
		return int64(dtype[2] - '0'), nil
	}
	if m := stringDtype.FindStringSubmatch(dtype); m != nil {
		n, _ := strconv.ParseInt(m[2], 10, 64) // the pattern bounds it
		if m[1] == "<U" {
			n *= 4
		}
		return n, nil
	}
	return 0, fmt.Errorf("array type %.20q is not accepted: %w", dtype, ErrInvalid)
}

// elements is the product of the dimensions, refused where it passes limit.
func (h Header) elements(limit int64) (int64, error) {
	n := int64(1)
	for _, d := range h.Shape {
		if d < 0 || d > maxDim {
			return 0, fmt.Errorf("dimension %d: %w", d, ErrInvalid)
		}
		if d > 0 && n > limit/int64(d) {
			return 0, fmt.Errorf("shape %v is too large: %w", h.Shape, ErrInvalid)
		}
		n *= int64(d)
	}
	return n, nil
}

// encodeHeader makes the preamble and header of format version 1.0: padded with spaces so that the data begin at a multiple
// of 64 bytes, and closed by a newline.
func encodeHeader(h Header) ([]byte, error) {
	dims := make([]string, len(h.Shape))
	for i, d := range h.Shape {
		dims[i] = strconv.Itoa(d)
	}
	shape := "(" + strings.Join(dims, ", ") + ")"
	if len(dims) == 1 {
		shape = "(" + dims[0] + ",)"
	}
	dict := fmt.Sprintf("{'descr': '%s', 'fortran_order': False, 'shape': %s, }", h.Dtype, shape)
	total := preambleBytes + len(dict) + 1
	pad := (headerAlign - total%headerAlign) % headerAlign
	if total+pad-preambleBytes > 1<<16-1 {
		return nil, fmt.Errorf("header of %d bytes is too long", total)
	}
	b := make([]byte, 0, total+pad)
	b = append(b, magic...)
	b = append(b, 1, 0)
	b = binary.LittleEndian.AppendUint16(b, uint16(total+pad-preambleBytes))
	b = append(b, dict...)
	b = append(b, strings.Repeat(" ", pad)...)
	return append(b, '\n'), nil
}

// readHeader reads the preamble and header of format versions 1 to 3 and returns how many bytes they took.
func readHeader(r io.Reader) (Header, int64, error) {
	var pre [12]byte
	if _, err := io.ReadFull(r, pre[:10]); err != nil {
		return Header{}, 0, fmt.Errorf("read npy preamble: %w", shortIsInvalid(err))
	}
	if string(pre[:6]) != magic {
		return Header{}, 0, fmt.Errorf("member does not begin as npy: %w", ErrInvalid)
	}
	used, length := int64(10), int64(binary.LittleEndian.Uint16(pre[8:10]))
	switch {
	case pre[6] == 1 && pre[7] == 0:
	case (pre[6] == 2 || pre[6] == 3) && pre[7] == 0:
		if _, err := io.ReadFull(r, pre[10:12]); err != nil {
			return Header{}, 0, fmt.Errorf("read npy preamble: %w", shortIsInvalid(err))
		}
		used, length = 12, int64(binary.LittleEndian.Uint32(pre[8:12]))
	default:
		return Header{}, 0, fmt.Errorf("npy version %d.%d: %w", pre[6], pre[7], ErrInvalid)
	}
	if length > maxHeader {
		return Header{}, 0, fmt.Errorf("npy header of %d bytes: %w", length, ErrInvalid)
	}
	text := make([]byte, length)
	if _, err := io.ReadFull(r, text); err != nil {
		return Header{}, 0, fmt.Errorf("read npy header: %w", shortIsInvalid(err))
	}
	h, err := parseHeader(string(text))
	return h, used + length, err
}

func shortIsInvalid(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("ends early: %w", ErrInvalid)
	}
	return err
}

// The header is a Python dictionary that NumPy evaluates as a literal. We take exactly the form that NumPy writes: three
// keys in any order, single or double quotes, no nesting.
var (
	headerEntry = regexp.MustCompile(`^\s*(?:'([a-z_]+)'|"([a-z_]+)")\s*:\s*(?:'([^'"\\]*)'|"([^'"\\]*)"|(True|False)|\(([0-9, ]*)\))\s*(,|$)`)
	shapeText   = regexp.MustCompile(`^(|[0-9]{1,10},|[0-9]{1,10}(, ?[0-9]{1,10})+,?)$`)
)

func parseHeader(text string) (Header, error) {
	bad := func(why string) (Header, error) {
		return Header{}, fmt.Errorf("npy header %.120q: %s: %w", text, why, ErrInvalid)
	}
	body := strings.TrimSpace(text)
	if !strings.HasPrefix(body, "{") || !strings.HasSuffix(body, "}") {
		return bad("no dictionary")
	}
	body = strings.TrimSpace(body[1 : len(body)-1])
	var h Header
	seen := make(map[string]bool, 3)
	for body != "" {
		m := headerEntry.FindStringSubmatch(body)
		if m == nil {
			return bad("no plain entry")
		}
		body = strings.TrimSpace(body[len(m[0]):])
		key, str, boolean := m[1]+m[2], m[3]+m[4], m[5]
		if seen[key] {
			return bad("key twice")
		}
		seen[key] = true
		switch {
		case key == "descr" && str != "":
			h.Dtype = str
		case key == "fortran_order" && boolean == "False":
		case key == "fortran_order" && boolean == "True":
			return bad("column-major arrays are not accepted")
		case key == "shape" && str == "" && boolean == "":
			shape, err := parseShape(m[6])
			if err != nil {
				return bad(err.Error())
			}
			h.Shape = shape
		default:
			return bad("unexpected entry " + key)
		}
	}
	if len(seen) != 3 {
		return bad("want descr, fortran_order and shape")
	}
	if _, err := itemSize(h.Dtype); err != nil {
		return Header{}, err
	}
	return h, nil
}

func parseShape(s string) ([]int, error) {
	if !shapeText.MatchString(s) {
		return nil, errors.New("odd shape")
	}
	var shape []int
	for _, part := range strings.Split(strings.TrimSuffix(s, ","), ",") {
		if part == "" {
			continue
		}
		d, err := strconv.Atoi(strings.TrimSpace(part))
		if err != nil || d > maxDim {
			return nil, errors.New("dimension out of range")
		}
		shape = append(shape, d)
	}
	if len(shape) > maxDims {
		return nil, errors.New("too many dimensions")
	}
	return shape, nil
}
