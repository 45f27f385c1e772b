package proc

import (
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	jobNice = 10
	// Orphans go to launchd and are found by their process group only.
	orphansEscape = true
)

// becomeShim prepares the process. macOS knows no subreaper: orphans of the job go to launchd and are found by their
// process group only.
func becomeShim() error {
	_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
	if own, err := syscall.Getpriority(syscall.PRIO_PROCESS, 0); err == nil && own < jobNice {
		_ = syscall.Setpriority(syscall.PRIO_PROCESS, 0, jobNice)
	}
	return nil
}

// childAttr makes the command leader of its own session. There is no parent-death signal here.
func childAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setsid: true} }

func sacrifice(int) {}

// sharesBySession: here niceness counts among all processes.
func sharesBySession() bool { return false }

func stepBack([]procStat) bool { return true }

func widenPipe(*os.File) {}

// bootID is the kernel's id of this boot.
func bootID() (string, error) {
	s, err := unix.Sysctl("kern.bootsessionuuid")
	if err != nil {
		return "", fmt.Errorf("read boot id: %w", err)
	}
	return s, nil
}

// procStat is what we need of one line of the process table.
type procStat struct {
	pid, parent, group int
	start              uint64
	zombie             bool
}

const stateZombie = 5 // SZOMB

func fromKinfo(k *unix.KinfoProc) procStat {
	start := k.Proc.P_starttime
	return procStat{
		pid: int(k.Proc.P_pid), parent: int(k.Eproc.Ppid), group: int(k.Eproc.Pgid),
		start: uint64(start.Sec)*1_000_000 + uint64(start.Usec), zombie: k.Proc.P_stat == stateZombie,
	}
}

func readStat(pid int) (procStat, error) {
	k, err := unix.SysctlKinfoProc("kern.proc.pid", pid)
	if err != nil {
		return procStat{}, err
	}
	return fromKinfo(k), nil
}

func processTable() ([]procStat, error) {
	list, err := unix.SysctlKinfoProcSlice("kern.proc.all")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	table := make([]procStat, len(list))
	for i := range list {
		table[i] = fromKinfo(&list[i])
	}
	return table, nil
}

// marked finds nothing: other processes' environments cannot be relied on here.
func marked(string) ([]procStat, error) { return nil, nil }

// signalProcess sends sig to p, unless its pid has another start time by now.
func signalProcess(p procStat, sig syscall.Signal) {
	if now, err := readStat(p.pid); err == nil && now.start == p.start {
		_ = syscall.Kill(p.pid, sig)
	}
}

func oomKills() int64 { return 0 }

// maxRSS converts the unit of getrusage.
func maxRSS(v int64) int64 { return v }
