package disk

import (
	"path/filepath"
	"runtime"
	"testing"
)

func TestFree(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if free, err := Free(dir); err != nil || free <= 0 {
		t.Errorf("%d bytes, %v", free, err)
	}
	if _, err := Free(filepath.Join(dir, "missing")); err == nil {
		t.Error("a folder that is not there has room")
	}
}

// A file system that counts no blocks has not none free: nobody knows.
func TestFreeIsUnknownWhereNobodyCounts(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("needs /proc")
	}
	if free, err := Free("/proc"); err == nil {
		t.Errorf("%d bytes", free)
	}
}
