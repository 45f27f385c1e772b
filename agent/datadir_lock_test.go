package agent

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/ringagent/ringagent/agent/api"
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

// A folder too deep for the agent's socket is refused in words, with nothing made, and one that just is not is taken.
func TestDataDirTooDeepForItsSocket(t *testing.T) {
	t.Parallel()
	base, err := os.MkdirTemp("/tmp", "d")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(base) })
	fits := filepath.Join(base, strings.Repeat("x", maxSocketPath-len(socketIn(base))-1))
	for root, refused := range map[string]bool{fits: false, fits + "x": true} {
		d, err := openDataDir(root)
		if err == nil {
			d.close()
			l, err := net.Listen("unix", socketIn(root)) //nolint:noctx // a listener of this test's own
			if err != nil {
				t.Fatal(err)
			}
			l.Close()
		}
		if refused && (err == nil || api.AsError(err).Code != api.CodeInvalid || exists(root)) || !refused && err != nil {
			t.Errorf("%d bytes: %v, folder made: %v", len(socketIn(root)), err, exists(root))
		}
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
