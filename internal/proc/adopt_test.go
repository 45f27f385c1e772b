package proc

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"
)

// adopt is a new agent's view of the same directory.
func adopt(t *testing.T, r *Runner, want int) []*Handle {
	t.Helper()
	next := &Runner{Dir: r.Dir, Shim: r.Shim, Log: r.Log, same: r.same}
	handles, err := next.Adopt(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(handles) != want {
		t.Fatalf("adopted %d jobs, want %d", len(handles), want)
	}
	return handles
}

func TestAdoptRunningAndEnded(t *testing.T) {
	t.Parallel()
	r := newRunner(t)
	if hs, err := (&Runner{Dir: filepath.Join(r.Dir, "none")}).Adopt(t.Context()); err != nil || len(hs) != 0 {
		t.Fatalf("no directory: %v, %v", hs, err)
	}
	ended := start(t, r, Job{ID: "a-ended", Argv: []string{"sh", "-c", "exit 3"}, Record: []byte(`{"claim":"c1"}`)})
	wait(t, ended)
	running := start(t, r, Job{ID: "b-running", Argv: []string{"sh", "-c", "echo run >> count; while ! [ -e go ]; do sleep 0.01; done"}})
	// A directory that was not whole when the agent died.
	if err := os.MkdirAll(filepath.Join(r.Dir, newPrefix+"c", outName), 0o700); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the command runs", func() bool {
		_, err := os.Stat(filepath.Join(running.OutDir(), "count"))
		return err == nil
	})

	handles := adopt(t, r, 2)
	if string(handles[0].Record()) != `{"claim":"c1"}` {
		t.Errorf("record: %s", handles[0].Record())
	}
	if st := wait(t, handles[0]); st.ExitCode != 3 {
		t.Errorf("got %+v", st)
	}
	if _, done, err := handles[1].Poll(); done || err != nil {
		t.Errorf("running job: %v, %v", done, err)
	}
	if err := os.WriteFile(filepath.Join(running.OutDir(), "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if st := wait(t, handles[1]); !st.OK() {
		t.Errorf("got %+v", st)
	}
	if b, _ := os.ReadFile(filepath.Join(running.OutDir(), "count")); string(b) != "run\n" {
		t.Errorf("the job ran more than once: %q", b)
	}
	if _, err := os.Stat(filepath.Join(r.Dir, newPrefix+"c")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("half-made directory stays: %v", err)
	}
}

// A whole agent process is killed, with everything in its process group; the job goes on, is adopted, and runs once.
func TestAgentKilled(t *testing.T) {
	t.Parallel()
	r := newRunner(t)
	agent := exec.Command(r.Shim[0], "job-agent", r.Dir)
	agent.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	count := filepath.Join(r.OutDir("job-1"), "count")
	eventually(t, "the command runs", func() bool {
		_, err := os.Stat(count)
		return err == nil
	})
	if err := syscall.Kill(-agent.Process.Pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = agent.Wait()
	h := adopt(t, r, 1)[0]
	if _, done, err := h.Poll(); done || err != nil || !h.Ran() {
		t.Errorf("done %v, %v", done, err)
	}
	if _, err := r.Start(t.Context(), Job{ID: "job-1", Argv: []string{"true"}}); !errors.Is(err, ErrExists) {
		t.Errorf("doubled: %v", err)
	}
	if err := os.WriteFile(filepath.Join(r.OutDir("job-1"), "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if st := wait(t, h); !st.OK() {
		t.Errorf("got %+v", st)
	}
	if b, _ := os.ReadFile(count); string(b) != "run\n" {
		t.Errorf("the job ran more than once: %q", b)
	}
}

func TestStopAdopted(t *testing.T) {
	t.Parallel()
	r := newRunner(t)
	start(t, r, Job{Argv: []string{"sleep", "60"}})
	h := adopt(t, r, 1)[0]
	if err := h.Stop(time.Second, "node leaves"); err != nil {
		t.Fatal(err)
	}
	if st := wait(t, h); st.Reason != Stopped || st.Detail != "node leaves" {
		t.Errorf("got %+v", st)
	}
}

// When the shim is killed, nothing of the job survives, not even what left its session.
func TestShimKilled(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("needs the parent-death signal")
	}
	r := newRunner(t)
	h := start(t, r, Job{Argv: []string{"sh", "-c", "setsid setsid sh -c 'trap \"\" TERM; echo $$ > p.tmp; mv p.tmp pid; while :; do sleep 1; done' & sleep 60"}})
	eventually(t, "the escaped process runs", func() bool {
		_, err := os.Stat(filepath.Join(h.OutDir(), "pid"))
		return err == nil
	})
	file, err := h.shimFile()
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(file.Shim.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the kernel kills the command", func() bool { return !sameProcess(file.Child) })
	for _, view := range []*Handle{h, adopt(t, r, 1)[0]} {
		if st := wait(t, view); st.Reason != Lost || !st.Ran() {
			t.Errorf("got %+v", st)
		}
	}
}

// stage lays a job directory as a former agent left it, with these processes written down.
func stage(t *testing.T, r *Runner, id string, file *shimFile) {
	t.Helper()
	boot, err := bootID()
	if err != nil {
		t.Fatal(err)
	}
	job := Job{ID: id, Argv: []string{"sleep", "60"}, Dir: "/"}
	lock, err := r.lay(spec{Job: job, Boot: boot, Mark: mark(id), Created: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	// Held, so that the decision rests on the process's identity alone.
	t.Cleanup(func() { _ = lock.Close() })
	if file != nil {
		if err := writeJSON(filepath.Join(r.jobDir(id), shimName), file, false); err != nil {
			t.Fatal(err)
		}
	} else if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestReusedPIDIsNeitherAdoptedNorKilled(t *testing.T) {
	t.Parallel()
	innocent := exec.Command("sleep", "60")
	if err := innocent.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = innocent.Process.Kill()
		_ = innocent.Wait()
	})
	real, err := identify(innocent.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	other := real
	other.Start--
	rebooted := real
	rebooted.Boot = "00000000-0000-0000-0000-000000000000"
	pidOnly := func(p process) bool { return syscall.Kill(p.PID, 0) == nil }

	for name, c := range map[string]struct {
		written process
		same    func(process) bool
		adopted bool
	}{
		"same process":                     {real, nil, true},
		"other start time":                 {other, nil, false},
		"other boot":                       {rebooted, nil, false},
		"broken: start time is not looked": {other, pidOnly, true},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRunner(t)
			r.same = c.same
			stage(t, r, "job-1", &shimFile{Shim: c.written, Child: c.written, Started: time.Now()})
			st, done, err := adopt(t, r, 1)[0].Poll()
			if err != nil || done == c.adopted {
				t.Errorf("done %v, status %+v, %v", done, st, err)
			}
			if done && st.Reason != Lost {
				t.Errorf("got %+v", st)
			}
			if !sameProcess(real) {
				t.Error("the innocent process is gone")
			}
		})
	}
}

// The number of the dead job's command is that of another process now, which burying the job would kill if nobody looked at the
// time of its start.
func TestReusedPIDIsNotBuried(t *testing.T) {
	t.Parallel()
	for name, broken := range map[string]bool{"as built": false, "broken: start time is not looked at": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			innocent := exec.Command("cat")
			in, err1 := innocent.StdinPipe()
			out, err2 := innocent.StdoutPipe()
			if err := errors.Join(err1, err2, innocent.Start()); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				_ = innocent.Process.Kill()
				_ = innocent.Wait()
			})
			real, err := identify(innocent.Process.Pid)
			if err != nil {
				t.Fatal(err)
			}
			shim, child := real, real
			shim.Boot = "00000000-0000-0000-0000-000000000000" // the shim has ended, whoever looks
			r := newRunner(t)
			if broken {
				r.same = func(p process) bool { return p.Boot == real.Boot && sameProcess(real) }
			} else {
				child.Start--
			}
			stage(t, r, "job-1", &shimFile{Shim: shim, Child: child, Started: time.Now()})
			if st, done, err := adopt(t, r, 1)[0].Poll(); err != nil || !done || st.Reason != Lost {
				t.Fatalf("done %v, %+v, %v", done, st, err)
			}
			// Who has been killed answers no more.
			_, err1 = in.Write([]byte("x"))
			_, err2 = io.ReadFull(out, make([]byte, 1))
			if err := errors.Join(err1, err2); (err != nil) != broken {
				t.Errorf("the innocent process: %v", err)
			}
		})
	}
}

func TestNeverStarted(t *testing.T) {
	t.Parallel()
	r := newRunner(t)
	stage(t, r, "job-1", nil) // the agent died between the directory and the shim
	st := wait(t, adopt(t, r, 1)[0])
	if st.Reason != NotStarted || st.Ran() {
		t.Errorf("got %+v", st)
	}
}
