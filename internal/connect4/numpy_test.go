package connect4

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ringagent/ringagent/internal/npz"
)

// readNumPy opens a dataset as a trainer does, without pickle, and tells shape, type and checksum of every array. Texts are
// told whole.
const readNumPy = `
import json, sys, zlib
import numpy as np
out = {}
with np.load(sys.argv[1], allow_pickle=False) as z:
    for name in z.files:
        a = z[name]
        if a.dtype.kind == 'U':
            out[name] = str(a[()])
        else:
            out[name] = '%s %s %08x' % (a.dtype.str, list(a.shape), zlib.crc32(np.ascontiguousarray(a).tobytes()))
json.dump(out, sys.stdout)
`

// TestNumPyReadsADataset opens an exported file with NumPy itself. It needs a python3 with NumPy, which .ci/run installs.
func TestNumPyReadsADataset(t *testing.T) {
	t.Parallel()
	python := ""
	for _, p := range []string{"python3", "/usr/bin/python3"} {
		if exec.Command(p, "-c", "import numpy").Run() == nil {
			python = p
			break
		}
	}
	if python == "" {
		t.Skip("there is no python3 with NumPy here")
	}
	dir := t.TempDir()
	games, path := filepath.Join(dir, "games.db"), filepath.Join(dir, "dataset.npz")
	playInto(t, games, 6, 1)
	r := exportFrom(t, path, games)
	said, err := exec.Command(python, "-c", readNumPy, path).Output()
	if err != nil {
		t.Fatalf("NumPy cannot read it: %v: %s", err, stderr(err))
	}
	got := map[string]string{}
	if err := json.Unmarshal(said, &got); err != nil {
		t.Fatal(err)
	}
	f, err := npz.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	want := map[string]string{}
	for _, name := range f.Names() {
		if shape, data, err := f.Float32(name); err == nil {
			want[name] = array("<f4", shape, data, math.Float32bits)
		} else if shape, data, err := f.Int32(name); err == nil {
			want[name] = array("<i4", shape, data, func(v int32) uint32 { return uint32(v) })
		} else if want[name], err = f.String(name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, shape := range map[string]string{
		"features": "6, 6, 7", "policy_indices": "7", "policy_values": "7", "globals": "20",
	} {
		if begin := fmt.Sprintf("[%d, %s] ", r.Samples, shape); r.Samples == 0 || !strings.Contains(got[name], begin) {
			t.Errorf("%s is %q, want %s", name, got[name], begin)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("arrays (-ours +NumPy's):\n%s", diff)
	}
}

// array tells of an array what readNumPy tells.
func array[T any](dtype string, shape []int, data []T, bits func(T) uint32) string {
	var b []byte
	for _, v := range data {
		b = binary.LittleEndian.AppendUint32(b, bits(v))
	}
	sides := make([]string, len(shape))
	for i, n := range shape {
		sides[i] = strconv.Itoa(n)
	}
	return fmt.Sprintf("%s [%s] %08x", dtype, strings.Join(sides, ", "), crc32.ChecksumIEEE(b))
}

func stderr(err error) []byte {
	var e *exec.ExitError
	if errors.As(err, &e) {
		return e.Stderr
	}
	return nil
}
