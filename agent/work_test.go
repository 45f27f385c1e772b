package agent

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/ringagent/ringagent/internal/blob"
	"github.com/ringagent/ringagent/internal/disk"
)

// A job goes on while its agent is replaced, and reads what was gathered for it.
func TestStagedExportOutlivesTheAgent(t *testing.T) {
	t.Parallel()
	d := &dataDir{root: t.TempDir()}
	if err := d.sweepStaging(); err != nil {
		t.Fatal(err)
	}
	stays := map[string]bool{"export-connect4_2p-1.db": true, "export-connect4_2p-2.db": false, "pack-connect4_2p-3.db": false}
	for name, young := range stays {
		path := d.path("staging", name)
		at := time.Now()
		if !young {
			at = at.Add(-2 * exportKept)
		}
		if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Chtimes(path, at, at)); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.sweepStaging(); err != nil {
		t.Fatal(err)
	}
	for name, stay := range stays {
		if _, err := os.Stat(d.path("staging", name)); (err == nil) != stay {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// An export that cannot be gathered leaves nothing behind.
func TestFailedGatherLeavesNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	bad := filepath.Join(dir, "pack")
	if err := os.WriteFile(bad, []byte("no database"), 0o600); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "export.db")
	if out, err := gather(t.Context(), path, []string{bad}, "connect4_2p", disk.Free); err != nil || len(out) != 1 || out[0].Pack != bad {
		t.Errorf("a pack that is none: %+v %v", out, err)
	}
	if _, err := gather(t.Context(), filepath.Join(dir, "export.db"), []string{bad, filepath.Join(dir, "absent")}, "connect4_2p", disk.Free); err == nil {
		t.Error("gathered")
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("left: %v", left)
	}
}

// What would fill the disk is not begun with.
func TestGatherNeedsRoom(t *testing.T) {
	t.Parallel()
	pack, export := filepath.Join(t.TempDir(), "pack"), filepath.Join(t.TempDir(), "export.db")
	if err := os.WriteFile(pack, make([]byte, 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	for free, want := range map[int64]bool{exportSpare + 2999: true, exportSpare + 3000: false} {
		_, err := gather(t.Context(), export, []string{pack, pack}, "connect4_2p", func(dir string) (int64, error) {
			if dir != filepath.Dir(export) {
				t.Errorf("asked for %s", dir)
			}
			return free, nil
		})
		if errors.Is(err, blob.ErrNoSpace) != want {
			t.Errorf("%d bytes free: %v", free, err)
		}
	}
}
