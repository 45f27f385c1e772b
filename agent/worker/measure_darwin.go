package worker

import "golang.org/x/sys/unix"

// memTotal is the machine's RAM in bytes; 0 when it cannot be read.
func memTotal() int64 {
	n, err := unix.SysctlUint64("hw.memsize")
	if err != nil {
		return 0
	}
	return int64(n)
}
