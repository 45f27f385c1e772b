package proc

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	jobNice        = 10
	jobOOMScore    = 500
	pipeBytes      = 1 << 20
	ioprioWho      = 1         // IOPRIO_WHO_PROCESS
	ioprioBestLast = 2<<13 | 7 // best effort, last of its class: behind the agent, but never starved as idle would be
	// The subreaper gets all orphans, so that the line of parents is complete.
	orphansEscape   = false
	statStartColumn = 19 // starttime, counted from the state that follows the command's name
)

// becomeShim prepares the calling thread and process: orphans of the job come to us, and what this thread forks has a low
// priority and dumps no core. Only the thread is niced, so that the shim itself stays quick.
func becomeShim() error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become subreaper: %w", err)
	}
	if own, err := syscall.Getpriority(syscall.PRIO_PROCESS, 0); err == nil && 20-own < jobNice {
		// The raw call answers 20 − nice. A higher nice value than ours was somebody's wish.
		_ = syscall.Setpriority(syscall.PRIO_PROCESS, 0, jobNice)
	}
	_, _, _ = unix.Syscall(unix.SYS_IOPRIO_SET, ioprioWho, 0, ioprioBestLast)
	_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
	return nil
}

// childAttr makes the command leader of its own session and has it killed when the forking thread dies.
func childAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
}

// sacrifice makes the kernel choose pid before the agent when memory runs out.
func sacrifice(pid int) {
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), strconv.AppendInt(nil, jobOOMScore, 10), 0)
}

const autogroup = "autogroup" // of /proc/PID, as sched(7) has it

// sharesBySession says whether this kernel knows of equal shares of the processors for sessions (sched_autogroup), within which
// alone a process's niceness counts then. Whether it goes by them may change at any time.
func sharesBySession() bool {
	line, err := os.ReadFile("/proc/self/" + autogroup)
	return err == nil && bytes.Contains(line, []byte(" nice "))
}

// stepBack puts the sessions of processes behind the agent's, by the niceness of the calling thread. It says false where a later
// try may do more: a user without privileges may change one session in a tenth of a second, on the whole machine.
func stepBack(all []procStat) bool {
	nice := jobNice
	if own, err := syscall.Getpriority(syscall.PRIO_PROCESS, 0); err == nil {
		nice = max(nice, 20-own)
	}
	whole := true
	for _, p := range all {
		if errors.Is(stepBackOne(p, nice), unix.EAGAIN) {
			whole = false
		}
	}
	return whole
}

// stepBackOne leaves a session alone that is as far behind already: a higher value was somebody's wish.
func stepBackOne(p procStat, nice int) error {
	f, err := os.OpenFile(fmt.Sprintf("/proc/%d/%s", p.pid, autogroup), os.O_RDWR, 0)
	if err != nil {
		return err // it has ended, most likely
	}
	defer func() { _ = f.Close() }()
	if now, err := readStat(p.pid); err != nil || now.start != p.start { // from here on the file is this process's, or nobody's
		return err
	}
	line := make([]byte, 64)
	n, err := f.Read(line)
	if err != nil {
		return err
	}
	_, has, _ := strings.Cut(string(line[:n]), " nice ")
	if v, err := strconv.Atoi(strings.TrimSpace(has)); err != nil || v >= nice {
		return err
	}
	_, err = f.Write(strconv.AppendInt(nil, int64(nice), 10))
	return err
}

// widenPipe lets a command that prints much go on while we are busy.
func widenPipe(f *os.File) {
	if raw, err := f.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _, _ = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, pipeBytes) })
	}
}

// bootID is the kernel's id of this boot.
func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read boot id: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// procStat is what we need of one line of the process table.
type procStat struct {
	pid, parent, group int
	start              uint64
	zombie             bool
}

func readStat(pid int) (procStat, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return procStat{}, err
	}
	// The command's name stands in brackets and may hold anything, brackets too: the last one ends it.
	i := bytes.LastIndexByte(b, ')')
	fields := strings.Fields(string(b[i+1:]))
	if i < 0 || len(fields) <= statStartColumn {
		return procStat{}, errors.New("short stat line")
	}
	parent, err1 := strconv.Atoi(fields[1])
	group, err2 := strconv.Atoi(fields[2])
	start, err3 := strconv.ParseUint(fields[statStartColumn], 10, 64)
	state := fields[0]
	return procStat{pid, parent, group, start, state == "Z" || state == "X"}, errors.Join(err1, err2, err3)
}

func allPIDs() ([]int, error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	names, err := dir.Readdirnames(-1)
	_ = dir.Close()
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var pids []int
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

func processTable() ([]procStat, error) {
	pids, err := allPIDs()
	if err != nil {
		return nil, err
	}
	table := make([]procStat, 0, len(pids))
	for _, pid := range pids {
		if st, err := readStat(pid); err == nil { // it may have ended meanwhile
			table = append(table, st)
		}
	}
	return table, nil
}

// marked lists the live processes that carry the mark in their environment.
func marked(mark string) ([]procStat, error) {
	pids, err := allPIDs()
	if err != nil {
		return nil, err
	}
	want := []byte(markName + "=" + mark)
	var found []procStat
	for _, pid := range pids {
		// The start is read first: if the pid is reused in between, the signal is not sent.
		st, err := readStat(pid)
		if err != nil || st.zombie || pid == os.Getpid() {
			continue
		}
		env, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "environ"))
		if err != nil {
			continue
		}
		for entry := range bytes.SplitSeq(env, []byte{0}) {
			if bytes.Equal(entry, want) {
				found = append(found, st)
				break
			}
		}
	}
	return found, nil
}

// signalProcess sends sig to p and to nobody who got its pid later.
func signalProcess(p procStat, sig syscall.Signal) {
	fd, err := unix.PidfdOpen(p.pid, 0)
	if err != nil {
		if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) {
			if now, err := readStat(p.pid); err == nil && now.start == p.start {
				_ = syscall.Kill(p.pid, sig)
			}
		}
		return
	}
	defer func() { _ = unix.Close(fd) }()
	if now, err := readStat(p.pid); err == nil && now.start == p.start {
		_ = unix.PidfdSendSignal(fd, sig, nil, 0)
	}
}

// oomKills is how often the kernel's out-of-memory killer has struck on this machine.
func oomKills() int64 {
	b, err := os.ReadFile("/proc/vmstat")
	if err != nil {
		return 0
	}
	for line := range strings.SplitSeq(string(b), "\n") {
		if v, ok := strings.CutPrefix(line, "oom_kill "); ok {
			n, _ := strconv.ParseInt(v, 10, 64)
			return n
		}
	}
	return 0
}

// maxRSS converts the unit of getrusage.
func maxRSS(v int64) int64 { return v << 10 }
