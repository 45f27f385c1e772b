package proc

import (
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// A command that fills the disk to the last byte: how it ended is written all the same.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
	disk := t.TempDir()
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=2m"); err != nil {
		t.Skipf("cannot mount: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(disk, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	r := newRunner(t)
	r.Dir = filepath.Join(disk, "jobs")
	h := start(t, r, Job{Argv: []string{"sh", "-c", "yes spam > big; yes spam | head -c 3000000; exit 3"}})
	if st := wait(t, h); st.Reason != Exited || st.ExitCode != 3 || st.OutputBytes < 3_000_000 {
		t.Errorf("got %+v", st)
	}
	// The next job finds no room: told at once, and nothing of it is left.
	if _, err := r.Start(t.Context(), Job{ID: "job-2", Argv: []string{"true"}}); err == nil {
		t.Log("the truncated log left room for another job")
	} else if entries, _ := os.ReadDir(r.Dir); len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
}

// What a job leaves in directories that it made read-only is removed, also by an agent that is not root.
func TestReadOnlyRemains(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "job")
	deep := filepath.Join(dir, "tmp", "cache", "module")
	if err := os.MkdirAll(deep, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(deep, "file"), nil, 0o400); err != nil {
		t.Fatal(err)
	}
	const nobody = 65534
	if err := os.Chmod(filepath.Dir(filepath.Dir(dir)), 0o755); err != nil {
		t.Fatal(err)
	}
	for path := deep; ; path = filepath.Dir(path) {
		if os.Getuid() == 0 {
			if err := os.Chown(path, nobody, nobody); err != nil {
				t.Fatal(err)
			}
		}
		if path == filepath.Dir(dir) {
			break
		}
		if path != dir {
			if err := os.Chmod(path, 0o500); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.Chmod(deep, 0); err != nil {
		t.Fatal(err)
	}
	removed := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: this thread is not root any more
		if os.Getuid() == 0 {
			_, _ = unix.SetfsuidRetUid(nobody)
		}
		removed <- RemoveAll(dir)
	}()
	if err := <-removed; err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(dir); !os.IsNotExist(err) {
		t.Errorf("left: %v", err)
	}
}
