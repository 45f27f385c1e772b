package proc

import (
	"testing"
	"time"
)

// A clock that is set back while a job runs makes its outputs no older than it.
func TestClockSetBack(t *testing.T) {
	t.Parallel()
	r := newRunner(t)
	r.Shim[1] = "job-shim-late"
	began := time.Now()
	h := start(t, r, Job{Argv: []string{"sh", "-c", "echo x > out.txt"}})
	st := wait(t, h)
	if took := st.Ended.Sub(st.Started); took < 0 || took > time.Since(began) {
		t.Errorf("it took %v: %+v", took, st)
	}
	if _, err := Check(t.Context(), h.OutDir(), st.Started, []Output{{Path: "out.txt", Kind: "file"}}, nil); err != nil {
		t.Error(err)
	}
}
