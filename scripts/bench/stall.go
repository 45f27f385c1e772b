package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// stalls are the longest times for which the machine itself stood still while something was measured: without them nobody
// could tell a fault of the ring from one of the host.
type stalls struct {
	wake  time.Duration // how late a process was woken that had asked for 5 ms
	fsync time.Duration // of a page written over, asked for every 20 ms
}

// columns are for a row of a table.
func (s stalls) columns() []string {
	return []string{"not woken", millis(s.wake), "a fsync", millis(s.fsync)}
}

// watchStalls measures until the returned function is called, which says what was seen.
func watchStalls(dir string) (stop func() (stalls, error), err error) {
	path := filepath.Join(dir, "stalls")
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	var s stalls
	var failed error
	var group sync.WaitGroup
	group.Go(func() {
		const nap = 5 * time.Millisecond
		for ctx.Err() == nil {
			began := time.Now()
			time.Sleep(nap)
			s.wake = max(s.wake, time.Since(began)-nap)
		}
	})
	group.Go(func() {
		page := make([]byte, 4096)
		for ctx.Err() == nil {
			began := time.Now()
			if _, failed = f.WriteAt(page, 0); failed != nil {
				return
			}
			if failed = f.Sync(); failed != nil {
				return
			}
			s.fsync = max(s.fsync, time.Since(began))
			time.Sleep(20 * time.Millisecond)
		}
	})
	return func() (stalls, error) {
		cancel()
		group.Wait()
		return s, errors.Join(failed, f.Close(), os.Remove(path))
	}, nil
}
