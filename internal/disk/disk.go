// Package disk says how large a disk is, and how much can still be written. Whoever is about to write much asks before, since a disk that is full harms
// all who write to it.
//
// It is a leaf: everybody may import it, and it imports nothing of ours. Its functions may be called from any goroutine.
package disk

import (
	"fmt"
	"syscall"
)

// Free is how many bytes an ordinary user can still write on the disk of dir, which must exist. An error means that nobody knows.
func Free(dir string) (int64, error) {
	st, err := statfs(dir)
	if err != nil {
		return 0, fmt.Errorf("read free space: %w", err)
	}
	return int64(st.Bavail) * int64(st.Bsize), nil //nolint:unconvert // the types differ between systems
}

// Size is how many bytes the disk of dir has, written or not. An error means that nobody knows.
func Size(dir string) (int64, error) {
	st, err := statfs(dir)
	if err != nil {
		return 0, fmt.Errorf("read size of disk: %w", err)
	}
	return int64(st.Blocks) * int64(st.Bsize), nil //nolint:unconvert // the types differ between systems
}

func statfs(dir string) (st syscall.Statfs_t, err error) {
	if err := syscall.Statfs(dir, &st); err != nil {
		return st, fmt.Errorf("%s: %w", dir, err)
	}
	if st.Blocks == 0 {
		return st, fmt.Errorf("%s: its file system does not say", dir)
	}
	return st, nil
}
