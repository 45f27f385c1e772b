// Package disk says how much can still be written. Whoever is about to write much asks before, since a disk that is full harms
// all who write to it.
//
// It is a leaf: everybody may import it, and it imports nothing of ours. Its function may be called from any goroutine.
package disk

import (
	"fmt"
	"syscall"
)

// Free is how many bytes an ordinary user can still write on the disk of dir, which must exist. An error means that nobody knows.
func Free(dir string) (int64, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("read free space of %s: %w", dir, err)
	}
	if st.Blocks == 0 {
		return 0, fmt.Errorf("read free space of %s: its file system does not say", dir)
	}
	return int64(st.Bavail) * int64(st.Bsize), nil //nolint:unconvert // the types differ between systems
}
