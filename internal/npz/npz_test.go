package npz

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// dataset writes a small valid training set.
func dataset(t *testing.T, path string, n int) {
	t.Helper()
	w, err := Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Discard()
	err = errors.Join(
		w.Float32("features", []int{n, 2, 3}, make([]float32, n*6)),
		w.Float32("values", []int{n}, make([]float32, n)),
		w.Int32("policy_indices", []int{n, 7}, make([]int32, 7*n)),
		w.Float32("policy_values", []int{n, 7}, make([]float32, 7*n)),
		w.String("board_type", "connect4"),
		w.Close())
	if err != nil {
		t.Fatal(err)
	}
}

// The bytes were laid out by hand from NumPy's description of format version 1.0.
func TestMemberBytesAreNumPys(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a.npz")
	w, err := Create(path)
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(
		w.Float32("m", []int{2, 3}, []float32{0, 1, -2, 0.5, 1e10, -0.25}),
		w.Int32("v", []int{2}, []int32{1, -2}),
		w.Float32("s", nil, []float32{1}),
		w.String("u", "ä1"),
		w.Close())
	if err != nil {
		t.Fatal(err)
	}
	pad := func(dict string, to int) string { return dict + strings.Repeat(" ", to-len(dict)-1) + "\n" }
	want := map[string]string{
		"m.npy": "\x93NUMPY\x01\x00\x76\x00" + pad("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }", 118) +
			"\x00\x00\x00\x00" + "\x00\x00\x80\x3f" + "\x00\x00\x00\xc0" + "\x00\x00\x00\x3f" + "\xf9\x02\x15\x50" + "\x00\x00\x80\xbe",
		"v.npy": "\x93NUMPY\x01\x00\x76\x00" + pad("{'descr': '<i4', 'fortran_order': False, 'shape': (2,), }", 118) +
			"\x01\x00\x00\x00\xfe\xff\xff\xff",
		"s.npy": "\x93NUMPY\x01\x00\x76\x00" + pad("{'descr': '<f4', 'fortran_order': False, 'shape': (), }", 118) +
			"\x00\x00\x80\x3f",
		"u.npy": "\x93NUMPY\x01\x00\x76\x00" + pad("{'descr': '<U2', 'fortran_order': False, 'shape': (), }", 118) +
			"\xe4\x00\x00\x00\x31\x00\x00\x00",
	}
	z, err := zip.OpenReader(path)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	got := map[string]string{}
	for _, f := range z.File {
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		got[f.Name] = string(b)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		shape := rapid.SliceOfN(rapid.IntRange(0, 9), 0, 4).Draw(t, "shape")
		n := 1
		for _, d := range shape {
			n *= d
		}
		floats := rapid.SliceOfN(rapid.Float32(), n, n).Draw(t, "floats")
		ints := rapid.SliceOfN(rapid.Int32(), n, n).Draw(t, "ints")
		text := strings.ReplaceAll(rapid.String().Draw(t, "text"), "\x00", "")
		path := filepath.Join(dir, "a.npz")
		w, err := Create(path)
		if err != nil {
			t.Fatal(err)
		}
		defer w.Discard()
		if err := errors.Join(w.Float32("f", shape, floats), w.Int32("i", shape, ints), w.String("s", text), w.Close()); err != nil {
			t.Fatal(err)
		}
		r, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		fshape, f, err1 := r.Float32("f")
		ishape, i, err2 := r.Int32("i")
		s, err3 := r.String("s")
		if err := errors.Join(err1, err2, err3); err != nil {
			t.Fatal(err)
		}
		same := func(a, b []int) bool { return len(a) == 0 && len(b) == 0 || cmp.Equal(a, b) }
		if !same(shape, fshape) || !same(shape, ishape) || !cmp.Equal(floats, f) || !cmp.Equal(ints, i) || s != text {
			t.Fatalf("shapes %v %v, %v %v %q", fshape, ishape, f, i, s)
		}
	})
}

func TestVerifyAcceptsATrainingSet(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a.npz")
	dataset(t, path, 5000)
	s, err := Verify(path)
	if diff := cmp.Diff(Summary{Arrays: 5, Samples: 5000}, s); diff != "" || err != nil {
		t.Error(diff, err)
	}
}

func TestWriterLeavesNothingUnfinished(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "a.npz")
	for name, spoil := range map[string]func(*Writer) error{
		"shape":    func(w *Writer) error { return w.Float32("x", []int{2, 2}, make([]float32, 3)) },
		"overflow": func(w *Writer) error { return w.Float32("x", []int{1 << 30, 1 << 30, 1 << 30}, nil) },
		"negative": func(w *Writer) error { return w.Int32("x", []int{-1}, nil) },
		"name":     func(w *Writer) error { return w.Int32("../x", []int{1}, []int32{1}) },
		"name twice": func(w *Writer) error {
			return errors.Join(w.Int32("x", []int{1}, []int32{1}), w.Int32("X", []int{1}, []int32{1}))
		},
		"text": func(w *Writer) error { return w.String("x", "\xff") },
	} {
		w, err := Create(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := spoil(w); err == nil {
			t.Errorf("%s: accepted", name)
		}
		if err := w.Close(); err == nil {
			t.Errorf("%s: closed", name)
		}
	}
	w, err := Create(path)
	if err != nil {
		t.Fatal(err)
	}
	w.Discard()
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// member is one entry of a hand-made zip.
type member struct {
	name   string
	data   string
	method uint16
	flags  uint16
}

func npy(dtype, shape, data string) string {
	dict := "{'descr': '" + dtype + "', 'fortran_order': False, 'shape': " + shape + ", }"
	return "\x93NUMPY\x01\x00" + string([]byte{byte(len(dict)), 0}) + dict + data
}

func makeZip(t *testing.T, members ...member) []byte {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for _, m := range members {
		w, err := z.CreateHeader(&zip.FileHeader{Name: m.name, Method: m.method, Flags: m.flags})
		if err == nil {
			_, err = io.WriteString(w, m.data)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func good() []member {
	return []member{
		{name: "features.npy", data: npy("<f4", "(2, 1)", "\x00\x00\x80\x3f\x00\x00\x80\x3f")},
		{name: "values.npy", data: npy("<f4", "(2,)", "\x00\x00\x80\x3f\x00\x00\x80\x3f")},
		{name: "policy_indices.npy", data: npy("|O", "(2,)", "\x80\x04pickled")},
	}
}

func with(m ...member) []member { return append(good(), m...) }

func TestVerifyAgainstHandMadeFiles(t *testing.T) {
	t.Parallel()
	valid := makeZip(t, good()...)
	flip := func(i int) []byte {
		b := bytes.Clone(valid)
		b[i] ^= 1
		return b
	}
	missing := func(i int) []member { return append(good()[:i:i], good()[i+1:]...) }
	withValues := func(data string) []member { m := good(); m[1].data = data; return m }
	cases := map[string]struct {
		data []byte
		ok   bool
	}{
		"valid":            {valid, true},
		"extra scalar":     {makeZip(t, with(member{name: "n.npy", data: npy("<i8", "()", "12345678")})...), true},
		"empty":            {nil, false},
		"no zip":           {bytes.Repeat([]byte("x"), 100), false},
		"trailing data":    {append(bytes.Clone(valid), 'x'), false},
		"leading data":     {append([]byte("MZ"), valid...), false},
		"cut":              {valid[:len(valid)-30], false},
		"two directories":  {append(bytes.Clone(valid), valid...), false},
		"flipped data":     {flip(bytes.Index(valid, []byte("pickled"))), false},
		"name with dots":   {makeZip(t, with(member{name: "../x.npy", data: npy("<i8", "()", "12345678")})...), false},
		"absolute":         {makeZip(t, with(member{name: "/x.npy", data: npy("<i8", "()", "12345678")})...), false},
		"backslash":        {makeZip(t, with(member{name: `a\x.npy`, data: npy("<i8", "()", "12345678")})...), false},
		"no npy":           {makeZip(t, with(member{name: "x.txt", data: "x"})...), false},
		"twice":            {makeZip(t, with(member{name: "values.npy", data: good()[1].data})...), false},
		"twice by case":    {makeZip(t, with(member{name: "Values.npy", data: good()[1].data})...), false},
		"encrypted":        {makeZip(t, with(member{name: "x.npy", data: npy("<i8", "()", "12345678"), flags: 1})...), false},
		"no features":      {makeZip(t, missing(0)...), false},
		"no values":        {makeZip(t, missing(1)...), false},
		"no policy":        {makeZip(t, missing(2)...), false},
		"samples differ":   {makeZip(t, with(member{name: "x.npy", data: npy("|i1", "(3,)", "123")})...), false},
		"too few bytes":    {makeZip(t, withValues(npy("<f4", "(2,)", "\x00\x00\x80\x3f\x00\x00\x80"))...), false},
		"too many bytes":   {makeZip(t, withValues(npy("<f4", "(2,)", "123456789"))...), false},
		"overflow":         {makeZip(t, withValues(npy("<f4", "(999999999, 999999999, 999999999)", ""))...), false},
		"wraps to right":   {makeZip(t, withValues(npy("<f4", "(2, 536870912, 8589934592)", "12345678"))...), false},
		"negative":         {makeZip(t, withValues(npy("<f4", "(-2,)", "12345678"))...), false},
		"not a number":     {makeZip(t, withValues(npy("<f4", "(2,)", "\x00\x00\x80\x3f\x00\x00\xc0\x7f"))...), false},
		"infinite":         {makeZip(t, withValues(npy("<f4", "(2,)", "\x00\x00\x80\xff\x00\x00\x80\x3f"))...), false},
		"evaluated":        {makeZip(t, withValues(npy("<f4", "(__import__('os').getpid(),)", "12345678"))...), false},
		"record type":      {makeZip(t, withValues(npy("[('a', '<f4')]", "(2,)", "12345678"))...), false},
		"big-endian":       {makeZip(t, withValues(npy(">f4", "(2,)", "12345678"))...), false},
		"column-major":     {makeZip(t, withValues(strings.Replace(good()[1].data, "False", " True", 1))...), false},
		"unknown version":  {makeZip(t, withValues(strings.Replace(good()[1].data, "\x01\x00", "\x07\x00", 1))...), false},
		"key twice":        {makeZip(t, withValues(strings.Replace(good()[1].data, "fortran_order", "descr", 1))...), false},
		"huge header":      {makeZip(t, withValues("\x93NUMPY\x02\x00\xff\xff\xff\xff{")...), false},
		"no samples":       {makeZip(t, member{name: "features.npy", data: npy("<f4", "(0,)", "")}, member{name: "values.npy", data: npy("<f4", "(0,)", "")}, member{name: "policy_x.npy", data: npy("<f4", "(0,)", "")}), false},
		"too many members": {makeZip(t, manyMembers(65)...), false},
	}
	dir := t.TempDir()
	for name, c := range cases {
		path := filepath.Join(dir, "case.npz")
		if err := os.WriteFile(path, c.data, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Verify(path)
		if (err == nil) != c.ok || (err != nil && !errors.Is(err, ErrInvalid)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func manyMembers(n int) []member {
	out := good()
	for i := len(out); i < n; i++ {
		out = append(out, member{name: "x" + strings.Repeat("y", i-2) + ".npy", data: npy("<i8", "()", "12345678")})
	}
	return out
}

func TestEveryFlippedByteIsCaughtOrHarmless(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "a.npz")
	dataset(t, path, 3)
	valid, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want, err := Verify(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for i := range valid {
		if i > 0 {
			_, err = f.WriteAt(valid[i-1:i], int64(i-1))
		}
		if _, e := f.WriteAt([]byte{valid[i] ^ 0x10}, int64(i)); e != nil || err != nil {
			t.Fatal(err, e)
		}
		// Bytes that nobody reads (times, versions, descriptors) may change; what is accepted must be the same arrays.
		if got, err := Verify(path); err == nil && got != want {
			t.Fatalf("byte %d: accepted as %+v", i, got)
		}
	}
}

func TestBombIsRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "a.npz")
	zeros := strings.Repeat("\x00", 32<<20)
	m := good()
	m[0] = member{name: "features.npy", method: zip.Deflate, data: npy("<f4", "(2, 4194304)", zeros)}
	// Hollow, but a training set may be: the packed file is 1/1000 of it only where nothing else is in there.
	if err := os.WriteFile(path, makeZip(t, m...), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(path); !errors.Is(err, ErrInvalid) {
		t.Error("bomb:", err)
	}
	m = append(m, member{name: "noise.npy", data: npy("|S4096", "(2,)", strings.Repeat("ab", 4096))})
	if err := os.WriteFile(path, makeZip(t, m...), 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err := Verify(path); err != nil || s.Samples != 2 {
		t.Error("with other contents:", err)
	}
}

func TestHeaderParserRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		h := Header{Dtype: rapid.SampledFrom([]string{"<f4", "<i4", "|O", "<U12", "|b1"}).Draw(t, "dtype"),
			Shape: rapid.SliceOfN(rapid.IntRange(0, math.MaxInt32/4), 0, maxDims).Draw(t, "shape")}
		b, err := encodeHeader(h)
		if err != nil {
			t.Fatal(err)
		}
		got, n, err := readHeader(bytes.NewReader(b))
		if err != nil || n != int64(len(b)) || n%64 != 0 || got.Dtype != h.Dtype || len(got.Shape) != len(h.Shape) {
			t.Fatalf("%+v %d %v", got, n, err)
		}
		for i := range got.Shape {
			if got.Shape[i] != h.Shape[i] {
				t.Fatalf("%v became %v", h.Shape, got.Shape)
			}
		}
	})
}

// Two directory entries over one member: the packed bytes count once, the unpacked ones twice.
func TestOverlappingMembersAreRefused(t *testing.T) {
	t.Parallel()
	data := makeZip(t, with(
		member{name: "xa.npy", data: npy("|i1", "(2,)", "12")},
		member{name: "xb.npy", data: npy("|i1", "(2,)", "12")})...)
	le := binary.LittleEndian
	entry := func(name string) []byte { // in the directory, which comes last
		return data[bytes.LastIndex(data, []byte(name))-46:]
	}
	if at := le.Uint32(entry("xb.npy")[42:]); string(data[at+30:at+36]) != "xb.npy" {
		t.Fatalf("the directory was not understood: %d", at)
	}
	path := filepath.Join(t.TempDir(), "a.npz")
	write := func() {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write()
	if _, err := Verify(path); err != nil {
		t.Fatal("before the change:", err)
	}
	le.PutUint32(entry("xb.npy")[42:], le.Uint32(entry("xa.npy")[42:]))
	write()
	if _, err := Verify(path); !errors.Is(err, ErrInvalid) {
		t.Errorf("one member under two names: %v", err)
	}
	// The same with the local header's name made right, so that only the overlap is left to notice.
	copy(entry("xb.npy")[46:], "xa.npy")
	write()
	if _, err := Verify(path); !errors.Is(err, ErrInvalid) {
		t.Errorf("one member twice: %v", err)
	}
}

func FuzzVerify(f *testing.F) {
	f.Add([]byte("PK\x05\x06"))
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "a.npz")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		_, _ = Verify(path) // must return, whatever the bytes
	})
}
