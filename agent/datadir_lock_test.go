package agent

import (
	"path/filepath"
	"syscall"
	"testing"
)

// A job's command is given absolute paths, whatever the operator called the folder.
func TestDataDirIsAbsolute(t *testing.T) {
	t.Chdir(t.TempDir())
	d, err := openDataDir("n1")
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	if !filepath.IsAbs(d.path("jobs")) {
		t.Errorf("jobs are in %s", d.path("jobs"))
	}
}

// A child that was just forked has all files open until it has begun its own program.
func TestLockIsFreeWhileAChildBegins(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	d, err := openDataDir(root)
	if err != nil {
		t.Fatal(err)
	}
	child, err := syscall.Dup(int(d.lock.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(child) //nolint:errcheck // a descriptor of this test's own
	d.close()
	again, err := openDataDir(root)
	if err != nil {
		t.Fatal(err)
	}
	again.close()
}
