package proc

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestEnds(t *testing.T) {
	t.Parallel()
	bad := filepath.Join(t.TempDir(), "bad")
	if err := os.WriteFile(bad, []byte("\x7fELF but not really"), 0o700); err != nil {
		t.Fatal(err)
	}
	orphan := filepath.Join(t.TempDir(), "orphan")
	if err := os.WriteFile(orphan, []byte("#!/no/such/interpreter\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, []byte("#!/bin/sh\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		job    Job
		reason Reason
		code   int
		signal string
		ran    bool
	}{
		"well":                 {Job{Argv: []string{"true"}}, Exited, 0, "", true},
		"code":                 {Job{Argv: []string{"sh", "-c", "exit 3"}}, Exited, 3, "", true},
		"its own 126":          {Job{Argv: []string{"sh", "-c", "exit 126"}}, Exited, 126, "", true},
		"no program":           {Job{Argv: []string{"no-such-program-anywhere"}}, NotFound, 127, "", false},
		"no file":              {Job{Argv: []string{"/no/such/file"}}, NotFound, 127, "", false},
		"no interpreter":       {Job{Argv: []string{orphan}}, NotFound, 127, "", false},
		"no directory":         {Job{Argv: []string{"true"}, Dir: "/no/such/dir"}, NotFound, 127, "", false},
		"not executable":       {Job{Argv: []string{plain}}, NotExecutable, 126, "", false},
		"a directory":          {Job{Argv: []string{"/tmp"}}, NotExecutable, 126, "", false},
		"wrong architecture":   {Job{Argv: []string{bad}}, NotExecutable, 126, "", false},
		"killed":               {Job{Argv: []string{"sh", "-c", "kill -9 $$"}}, Signaled, -1, "SIGKILL", true},
		"crashed":              {Job{Argv: []string{"sh", "-c", "kill -SEGV $$"}}, Signaled, -1, "SIGSEGV", true},
		"hangs":                {Job{Argv: []string{"sleep", "60"}, Limits: Limits{Timeout: 200 * time.Millisecond}}, TimedOut, -1, "SIGTERM", true},
		"hangs and is deaf":    {Job{Argv: []string{"sh", "-c", `trap "" TERM; sleep 60`}, Limits: Limits{Timeout: 2 * time.Second}}, TimedOut, -1, "SIGKILL", true},
		"well after TERM":      {Job{Argv: []string{"sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.02; done"}, Limits: Limits{Timeout: 2 * time.Second, Grace: 5 * time.Second}}, TimedOut, 0, "", true},
		"stopped by itself":    {Job{Argv: []string{"sh", "-c", "kill -STOP $$"}, Limits: Limits{Timeout: 200 * time.Millisecond}}, TimedOut, -1, "SIGTERM", true},
		"closes its output":    {Job{Argv: []string{"sh", "-c", "exec >&- 2>&-; sleep 0.2; exit 4"}}, Exited, 4, "", true},
		"reads its input":      {Job{Argv: []string{"cat"}}, Exited, 0, "", true},
		"stalls":               {Job{Argv: []string{"sh", "-c", "echo n=1; while :; do echo n=1; sleep 0.02; done"}, Limits: Limits{NoProgress: 300 * time.Millisecond, Progress: `n=(\d+)`, ProgressGroup: 1}}, Stalled, -1, "SIGTERM", true},
		"writes too much":      {Job{Argv: []string{"sh", "-c", "head -c 3000000 /dev/zero > big; sleep 60"}, Limits: Limits{OutBytes: 1 << 20}}, DiskFull, -1, "SIGTERM", true},
		"leaves too little":    {Job{Argv: []string{"sleep", "60"}, Limits: Limits{MinFreeBytes: 1 << 60}}, DiskFull, -1, "SIGTERM", true},
		"shell is never asked": {Job{Argv: []string{"echo", "$(exit 5); `exit 5` && exit 5"}}, Exited, 0, "", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			st := wait(t, start(t, newRunner(t), c.job))
			if st.Reason != c.reason || st.ExitCode != c.code || st.Signal != c.signal || st.Ran() != c.ran {
				t.Errorf("got %+v", st)
			}
			if want := c.reason == Exited && c.code == 0; st.OK() != want {
				t.Errorf("OK is %v", st.OK())
			}
		})
	}
}

func TestEscapedGrandchildIsEnded(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("needs a subreaper")
	}
	h := start(t, newRunner(t), Job{Argv: child("fork-twice")})
	pid := pidFrom(t, filepath.Join(h.OutDir(), "grandchild.pid"))
	st := wait(t, h)
	if !st.OK() || st.Stragglers != 1 {
		t.Errorf("got %+v", st)
	}
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("grandchild %d: %v", pid, err)
	}
	if !strings.Contains(st.Detail, "left 1 processes behind") {
		t.Errorf("detail: %s", st.Detail)
	}
}

func TestGibibyteOfOutput(t *testing.T) {
	t.Parallel()
	mib := 1024
	if testing.Short() || raceEnabled {
		mib = 64 // the shim is the test binary, and slow under the race detector
	}
	h := start(t, newRunner(t), Job{Argv: child("print", strconv.Itoa(mib)), Limits: Limits{Progress: `n=(\d+)`, ProgressGroup: 1}})
	begin := time.Now()
	st := wait(t, h)
	t.Logf("%d MiB in %v", mib, time.Since(begin))
	if !st.OK() || st.Progress != 77 || st.OutputBytes < int64(mib)<<20-int64(mib)*9 {
		t.Errorf("got %+v", st)
	}
	var kept int64
	for _, name := range []string{logName, oldLogName} {
		if info, err := os.Stat(filepath.Join(h.Dir(), name)); err == nil {
			kept += info.Size()
		}
	}
	if kept > 8<<20 || kept < 4<<20 {
		t.Errorf("log keeps %d bytes", kept)
	}
	tail, err := h.LogTail(20)
	if err != nil {
		t.Fatal(err)
	}
	if got := Sanitise(tail); !strings.HasSuffix(got, "\nn=77 the end\n") || strings.ContainsRune(got, 0x1b) {
		t.Errorf("tail %q", got)
	}
}

// A command that writes its own good report is not believed.
func TestForgedStatus(t *testing.T) {
	t.Parallel()
	h := start(t, newRunner(t), Job{
		Argv:   []string{"sh", "-c", `echo '{"reason":"exited","detail":"all is well"}' > ../status.json; touch forged; sleep 60`},
		Limits: Limits{Timeout: time.Second},
	})
	eventually(t, "the report is forged", func() bool {
		_, err := os.Stat(filepath.Join(h.OutDir(), "forged"))
		return err == nil
	})
	if st, done, err := h.Poll(); done || err != nil {
		t.Errorf("believed: %+v, %v", st, err)
	}
	if st := wait(t, h); st.Reason != TimedOut {
		t.Errorf("got %+v", st)
	}
}

func TestPriorityAndEnvironment(t *testing.T) {
	t.Parallel()
	r := newRunner(t)
	r.Environ = []string{"PATH=" + os.Getenv("PATH"), "RINGAGENT_TOKEN=secret", "AWS_SECRET_ACCESS_KEY=secret", "LC_ALL=C"}
	h := start(t, r, Job{
		Argv: []string{"sh", "-c", `env; echo nice=$(nice)
			score=/proc/self/oom_score_adj # raised when the command runs already
			[ -e $score ] && for i in $(seq 400); do [ $(cat $score) = 500 ] && break; sleep 0.05; done
			cat $score
			own="for i in \$(seq 200); do grep -q 'nice 10' /proc/self/autogroup && break; sleep 0.05; done; sed 's/.* nice/session nice/' /proc/self/autogroup"
			[ ! -e /proc/self/autogroup ] || { eval "$own"; setsid sh -c "$own" & wait; }`},
		Env: []string{"MODE=quick", "GOMAXPROCS=64"}, CPUs: 3, GPUs: []int{1, 2},
	})
	if st := wait(t, h); !st.OK() {
		t.Fatalf("got %+v", st)
	}
	out, err := h.LogTail(1 << 20)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(out), "\n")
	for _, want := range []string{"MODE=quick", "GOMAXPROCS=3", "OMP_NUM_THREADS=3", "CUDA_VISIBLE_DEVICES=1,2", "LC_ALL=C"} {
		if !slices.Contains(lines, want) {
			t.Errorf("no %q in %q", want, lines)
		}
	}
	if strings.Contains(string(out), "secret") {
		t.Errorf("a secret was passed on: %q", lines)
	}
	if i := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, "nice=") }); i < 0 {
		t.Error("no niceness")
	} else if n, _ := strconv.Atoi(lines[i][5:]); n < 10 {
		t.Errorf("niceness %d", n)
	}
	if runtime.GOOS == "linux" && !slices.Contains(lines, "500") {
		t.Errorf("oom_score_adj not raised: %q", lines)
	}
	if _, err := os.Stat("/proc/self/autogroup"); err == nil {
		if n := strings.Count(string(out), "session nice 10\n"); n != 2 {
			t.Errorf("of the command's session and one that it began, %d are behind the agent's: %q", n, lines)
		}
	}
	if _, err := os.Stat(filepath.Join(h.Dir(), tmpName)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("temporary directory stays: %v", err)
	}
}

func TestStopTwice(t *testing.T) {
	t.Parallel()
	h := start(t, newRunner(t), Job{Argv: child("hang-deaf", "pid")})
	pidFrom(t, filepath.Join(h.OutDir(), "pid"))
	if err := h.Stop(time.Hour, "claim lost"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "TERM was sent", func() bool {
		p, err := h.Progress()
		return err == nil && p.Phase == Terminating
	})
	if err := h.Stop(0, "now"); err != nil {
		t.Fatal(err)
	}
	if st := wait(t, h); st.Reason != Stopped || st.Detail != "claim lost" || st.Signal != "SIGKILL" {
		t.Errorf("got %+v", st)
	}
}

func TestProgressAndRemove(t *testing.T) {
	t.Parallel()
	r := newRunner(t)
	h := start(t, r, Job{
		Argv:   []string{"sh", "-c", `printf 'games=1\rgames=7\rgames=5\r'; while ! [ -e go ]; do sleep 0.01; done`},
		Limits: Limits{Progress: `games=(?P<games>\d+)`, ProgressGroup: 1},
	})
	eventually(t, "progress is 7", func() bool {
		p, err := h.Progress()
		return err == nil && p.Value == 7 && p.Phase == Running && time.Since(p.At) < time.Minute
	})
	if err := r.Remove(h.ID()); !errors.Is(err, ErrRunning) {
		t.Errorf("remove while running: %v", err)
	}
	if err := os.WriteFile(filepath.Join(h.OutDir(), "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if st := wait(t, h); !st.OK() || st.Progress != 7 {
		t.Errorf("got %+v", st)
	}
	if _, err := r.Start(t.Context(), Job{ID: h.ID(), Argv: []string{"true"}}); !errors.Is(err, ErrExists) {
		t.Errorf("second start of an id: %v", err)
	}
	failing := errors.New("deliberate")
	r.synced = func(dir string) error {
		if _, err := os.Stat(filepath.Join(dir, h.ID())); dir != r.Dir || !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s brought to disk while the job is in it: %v", dir, err)
		}
		return failing
	}
	if err := r.Remove(h.ID()); !errors.Is(err, failing) {
		t.Errorf("removed before it is on disk: %v", err)
	}
	r.synced = nil
	if err := r.Remove(h.ID()); err != nil {
		t.Error(err)
	}
	if err := r.Remove(h.ID()); !errors.Is(err, ErrUnknown) {
		t.Errorf("second removal: %v", err)
	}
	if err := r.Remove("../x"); !errors.Is(err, ErrUnknown) {
		t.Errorf("removal outside: %v", err)
	}
}

func TestStartRefuses(t *testing.T) {
	t.Parallel()
	for name, job := range map[string]Job{
		"no id":        {Argv: []string{"true"}},
		"path id":      {ID: "../x", Argv: []string{"true"}},
		"hidden id":    {ID: ".new-x", Argv: []string{"true"}},
		"no program":   {ID: "a"},
		"relative dir": {ID: "a", Argv: []string{"true"}, Dir: "x"},
		"bad pattern":  {ID: "a", Argv: []string{"true"}, Limits: Limits{Progress: "("}},
		"no group":     {ID: "a", Argv: []string{"true"}, Limits: Limits{Progress: "x", ProgressGroup: 1}},
		"unwatchable":  {ID: "a", Argv: []string{"true"}, Limits: Limits{NoProgress: time.Second}},
		"negative":     {ID: "a", Argv: []string{"true"}, Limits: Limits{Timeout: -1}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRunner(t)
			if _, err := r.Start(t.Context(), job); err == nil {
				t.Error("started")
			}
			if entries, _ := os.ReadDir(r.Dir); len(entries) > 0 {
				t.Errorf("left behind: %v", entries)
			}
		})
	}
	r := newRunner(t)
	r.Shim = []string{"/no/such/shim"}
	if _, err := r.Start(t.Context(), Job{ID: "a", Argv: []string{"true"}}); err == nil {
		t.Error("started without a shim")
	}
	if entries, _ := os.ReadDir(r.Dir); len(entries) > 0 {
		t.Errorf("left behind: %v", entries)
	}
}
