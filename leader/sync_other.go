//go:build !linux

package leader

import "os"

// syncData puts a file on disk.
func syncData(f *os.File) error { return f.Sync() }
