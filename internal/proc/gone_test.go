package proc

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// takeAway removes a job's directory, whatever its shim writes there meanwhile.
func takeAway(t *testing.T, h *Handle) {
	t.Helper()
	eventually(t, "the job's directory is gone", func() bool { return os.RemoveAll(h.Dir()) == nil && h.vanished() })
}

// An operator who clears the folder of jobs ends those that run: their slots come back.
func TestDirectoryTakenAway(t *testing.T) {
	t.Parallel()
	r := newRunner(t)
	h := start(t, r, Job{Argv: child("hang-deaf", "pid")})
	eventually(t, "the command runs", func() bool {
		_, err := os.Stat(filepath.Join(h.OutDir(), "pid"))
		return err == nil
	})
	takeAway(t, h)
	if st := wait(t, h); st.Reason != Lost || !st.Ran() {
		t.Errorf("got %+v", st)
	}
	if err := r.Remove(h.ID()); !errors.Is(err, ErrUnknown) {
		t.Errorf("removal: %v", err)
	}
}

// The next agent would not know of such a job: its shim ends it.
func TestDirectoryTakenAwayWithoutAgent(t *testing.T) {
	t.Parallel()
	r := newRunner(t)
	h := start(t, r, Job{Argv: child("hang-deaf", "pid")})
	eventually(t, "the command runs", func() bool {
		_, err := os.Stat(filepath.Join(h.OutDir(), "pid"))
		return err == nil
	})
	takeAway(t, h)
	eventually(t, "the shim ends the command", func() bool {
		left, err := marked(h.spec.Mark)
		return err == nil && len(left) == 0
	})
	<-h.reaped
}

// A status that a bad disk made unreadable is waited for no longer than one that was never written.
func TestDamagedStatus(t *testing.T) {
	t.Parallel()
	r := newRunner(t)
	h := start(t, r, Job{Argv: []string{"true"}})
	wait(t, h)
	if err := os.WriteFile(filepath.Join(h.Dir(), statusName), make([]byte, 512), 0o600); err != nil {
		t.Fatal(err)
	}
	if st := wait(t, adopt(t, r, 1)[0]); st.Reason != Lost {
		t.Errorf("got %+v", st)
	}
	if err := r.Remove(h.ID()); err != nil {
		t.Error(err)
	}
}
