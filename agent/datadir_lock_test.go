package agent

import (
	"syscall"
	"testing"
)

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
