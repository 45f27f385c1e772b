package proc

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
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
