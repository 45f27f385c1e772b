package proc

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// signalName is the usual name of a signal, such as SIGKILL.
func signalName(s syscall.Signal) string {
	if name := unix.SignalName(s); name != "" {
		return name
	}
	return s.String()
}
