package transfer

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/ringagent/ringagent/internal/id"
)

// Sweep may be called while a fetch begins: its record has another name for a moment.
func TestSweepLeavesARecordInTheMaking(t *testing.T) {
	t.Parallel()
	dir, now := t.TempDir(), time.Now()
	for name, age := range map[string]time.Duration{".have.1": time.Minute, ".have.2": 48 * time.Hour} {
		path := filepath.Join(dir, string(id.DigestOf(nil))+name)
		if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Chtimes(path, now, now.Add(-age))); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := Sweep(dir, 24*time.Hour, now); n != 1 || err != nil {
		t.Error(n, err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 || filepath.Ext(left[0].Name()) != ".1" {
		t.Error(left)
	}
}
