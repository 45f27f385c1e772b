package transfer

import (
	"fmt"
	"syscall"
)

// spareBytes is what a fetch leaves free on the disk, or as much as it fetches if that is less: the log, the state and the jobs
// of this node write to the same disk, and small artifacts are taken for as long as there is any room.
const spareBytes = 512 << 20

// book enters the bytes that a fetch has yet to write, unless there is no room for them beside what the others have yet to write.
func (f *fetch) book(n int64) error {
	c := f.client
	free, err := c.o.Free(c.store.PartialDir())
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil && n > 0 && n+min(n, spareBytes) > free-c.owed {
		return noRoom(n, free-c.owed)
	}
	f.owed += n
	c.owed += n
	return nil
}

// written strikes out bytes that are on the disk, or will not be.
func (f *fetch) written(n int64) {
	f.client.mu.Lock()
	defer f.client.mu.Unlock()
	f.owed -= n
	f.client.owed -= n
}

// room says that there is still room for what is booked: others write to the disk meanwhile.
func (f *fetch) room() error {
	c := f.client
	free, err := c.o.Free(c.store.PartialDir())
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil && free < c.owed {
		return noRoom(f.owed, free-c.owed+f.owed)
	}
	return nil
}

func noRoom(need, free int64) error {
	return fmt.Errorf("%d KiB are to come, and there is room for %d: %w", need>>10, max(0, free)>>10, syscall.ENOSPC)
}
