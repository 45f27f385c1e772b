package leader

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestCatchUpMark(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if got, err := readMark(dir); got != 0 || err != nil {
		t.Fatalf("without a file: %d, %v", got, err)
	}
	for _, want := range []uint64{7, 1 << 40} {
		if err := writeMark(dir, want); err != nil {
			t.Fatal(err)
		}
		if got, err := readMark(dir); got != want || err != nil {
			t.Fatalf("got %d, %v, want %d", got, err, want)
		}
	}
	path := filepath.Join(dir, catchUpFile)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range len(whole) * 8 {
		bad := append([]byte(nil), whole...)
		bad[i/8] ^= 1 << (i % 8)
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := readMark(dir); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("bit %d is flipped: %v", i, err)
		}
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readMark(dir); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("an empty file: %v", err)
	}
}
