package proc

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"
)

// The test binary is also the shim and the commands that lie.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 {
		switch os.Args[1] {
		case "job-shim":
			os.Exit(ShimMain(os.Args[2:]))
		case "job-shim-late": // its wall clock is an hour fast when the command is started, and right afterwards
			fast := time.Hour
			os.Exit(shimMain(os.Args[2:], func() time.Time {
				now := time.Now().Round(0).Add(fast)
				fast = 0
				return now
			}))
		case "job-agent":
			os.Exit(agentMain(os.Args[2]))
		case "job-child":
			os.Exit(childMain(os.Args[2:]))
		}
	}
	os.Exit(m.Run())
}

// agentMain is an agent that starts one job and stays until it is killed.
func agentMain(dir string) int {
	r := &Runner{Dir: dir, Shim: []string{os.Args[0], "job-shim"}}
	_, err := r.Start(context.Background(), Job{
		ID: "job-1", Argv: []string{"sh", "-c", "echo run >> count; while ! [ -e go ]; do sleep 0.01; done"},
		Limits: Limits{Timeout: time.Minute},
	})
	if err != nil {
		return 1
	}
	select {}
}

func childMain(args []string) int {
	switch args[0] {
	case "fork-twice": // leaves a grandchild in a session of its own that ignores TERM, and says that all is well
		if len(args) > 1 {
			return hangDeaf(args[1])
		}
		cmd := exec.Command(os.Args[0], "job-child", "fork-again", "grandchild.pid")
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := cmd.Run(); err != nil {
			return 9
		}
		return 0
	case "fork-again":
		cmd := exec.Command(os.Args[0], "job-child", "fork-twice", args[1])
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := cmd.Start(); err != nil {
			return 9
		}
		for {
			if _, err := os.Stat(args[1]); err == nil {
				return 0
			}
			<-time.After(time.Millisecond)
		}
	case "hang-deaf":
		return hangDeaf(args[1])
	case "print": // N MiB without a newline
		mib, _ := strconv.Atoi(args[1])
		block := bytes.Repeat([]byte("\x1b[31mspam"), 1<<20/9)
		for range mib {
			if _, err := os.Stdout.Write(block); err != nil {
				return 8
			}
		}
		fmt.Println("\nn=77 the end")
		return 0
	}
	return 7
}

// hangDeaf ignores TERM, writes its pid, and stays.
func hangDeaf(pidFile string) int {
	signal.Ignore(syscall.SIGTERM)
	if err := os.WriteFile(pidFile+".tmp", []byte(strconv.Itoa(os.Getpid())), 0o600); err != nil {
		return 9
	}
	if err := os.Rename(pidFile+".tmp", pidFile); err != nil {
		return 9
	}
	select {}
}

func newRunner(t *testing.T) *Runner {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return &Runner{Dir: t.TempDir(), Shim: []string{self, "job-shim"}, Log: zerolog.New(zerolog.NewTestWriter(t))}
}

func child(args ...string) []string {
	self, _ := os.Executable()
	return append([]string{self, "job-child"}, args...)
}

func start(t *testing.T, r *Runner, job Job) *Handle {
	t.Helper()
	if job.ID == "" {
		job.ID = "job-1"
	}
	if job.Limits.Grace == 0 {
		job.Limits.Grace = 150 * time.Millisecond
	}
	if job.Limits.Timeout == 0 {
		job.Limits.Timeout = time.Minute
	}
	h, err := r.Start(t.Context(), job)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = h.Stop(0, "test is over")
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		_, _ = h.Wait(ctx)
		if h.reaped != nil {
			<-h.reaped
		}
	})
	return h
}

// wait returns the job's status and proves that nothing of it is left.
func wait(t *testing.T, h *Handle) Status {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	st, err := h.Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	left, err := marked(h.spec.Mark)
	if err != nil || len(left) > 0 {
		t.Errorf("processes left behind: %+v, %v", left, err)
	}
	if file, err := h.shimFile(); err == nil && sameProcess(file.Child) {
		t.Errorf("the command is still alive: %+v", file.Child)
	}
	if st.Reason == "" || st.Detail == "" || st.Ended.IsZero() {
		t.Errorf("status lacks its reason: %+v", st)
	}
	return st
}

// eventually polls until ok, or fails.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

func pidFrom(t *testing.T, path string) int {
	t.Helper()
	var pid int
	eventually(t, "pid file "+path, func() bool {
		b, err := os.ReadFile(path)
		if err != nil {
			return false
		}
		pid, err = strconv.Atoi(string(b))
		return err == nil
	})
	return pid
}
