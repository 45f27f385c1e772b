package leader

import (
	"os"

	"golang.org/x/sys/unix"
)

// syncData puts a file's data on disk. Its times, which nobody reads, may be lost.
func syncData(f *os.File) error { return unix.Fdatasync(int(f.Fd())) }
