package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A disk with a write-back cache answers a fsync in a sixth of a millisecond, others take one to five. slowly shows what a
// ring does on such: every fsync and fdatasync of this program, and of all that it starts, is held back by the kernel
// (seccomp_unotify(2)) until this process lets it go on. It then does its work as always, so nothing is less safe.

// slowly runs this program again with args, each of its syncs held back by the given time, and waits for it.
func slowly(ctx context.Context, self string, by time.Duration, args []string) error {
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("make socket pair: %w", err)
	}
	theirs := os.NewFile(uintptr(ends[1]), "filter")
	defer unix.Close(ends[0])
	cmd := exec.CommandContext(ctx, self, append([]string{"-sync-socket", "3"}, args...)...)
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = os.Stdout, os.Stderr, []*os.File{theirs}
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) }
	err = cmd.Start()
	if err := errors.Join(err, theirs.Close()); err != nil {
		return fmt.Errorf("start under a filter: %w", err)
	}
	listener, err := receiveFile(ends[0])
	if err != nil {
		return errors.Join(err, cmd.Process.Kill(), cmd.Wait())
	}
	held := make(chan error, 1)
	go func() { held <- holdBack(listener, by) }()
	err = cmd.Wait()
	// What is still under the filter now nobody waits for; closing lets its syncs fail.
	select {
	case failed := <-held:
		err = errors.Join(err, failed)
	default:
	}
	return errors.Join(err, unix.Close(listener))
}

// runSlowed is slowly's other end: it puts this thread under the filter, hands the filter's file to socket, and becomes
// the program with args. Only errors return.
func runSlowed(self string, socket int, args []string) error {
	runtime.LockOSThread()
	const nr = 0 // offset of the system call's number in struct seccomp_data
	program := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: nr},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_FSYNC, Jt: 2},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_FDATASYNC, Jt: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_USER_NOTIF},
	}
	filter := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("give up new privileges: %w", err)
	}
	// Held back, a call is not begun anew by a signal, of which Go's scheduler sends many.
	const flags = unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
	fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&filter)))
	if errno != 0 {
		return fmt.Errorf("install filter (needs Linux 5.19): %w", errno)
	}
	if err := unix.Sendmsg(socket, []byte{0}, unix.UnixRights(int(fd)), nil, 0); err != nil {
		return fmt.Errorf("hand over the filter: %w", err)
	}
	unix.CloseOnExec(int(fd))
	unix.CloseOnExec(socket)
	return unix.Exec(self, append([]string{self, "-sync-socket", strconv.Itoa(slowed)}, args...), os.Environ())
}

func receiveFile(socket int) (int, error) {
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(socket, make([]byte, 1), oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return 0, fmt.Errorf("receive the filter: %w", err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) == 0 {
		return 0, errors.Join(errors.New("receive the filter: none came"), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return 0, fmt.Errorf("receive the filter: %w", err)
	}
	return fds[0], nil
}

// The kernel's struct seccomp_notif and seccomp_notif_resp.
type (
	syncCall struct {
		id         uint64
		pid, flags uint32
		nr         int32
		arch       uint32
		ip         uint64
		args       [6]uint64
	}
	syncAnswer struct {
		id    uint64
		value int64
		errno int32
		flags uint32
	}
)

// holdBack lets each call that the filter reports go on once its time is over, until nobody is under the filter any more.
func holdBack(listener int, by time.Duration) error {
	for {
		ready := []unix.PollFd{{Fd: int32(listener), Events: unix.POLLIN}}
		if _, err := unix.Poll(ready, -1); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for a sync: %w", err)
		}
		if ready[0].Revents&unix.POLLIN == 0 {
			if ready[0].Revents != 0 {
				return nil
			}
			continue
		}
		var call syncCall
		if err := seccompIoctl(listener, unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(&call)); err != nil {
			if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINTR) {
				continue // who called was killed meanwhile
			}
			return fmt.Errorf("take a sync: %w", err)
		}
		time.AfterFunc(by, func() {
			answer := syncAnswer{id: call.id, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
			// Fails only where the caller was killed.
			_ = seccompIoctl(listener, unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&answer))
		})
	}
}

func seccompIoctl(fd int, request uint, arg unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(request), uintptr(arg)); errno != 0 {
		return errno
	}
	return nil
}
