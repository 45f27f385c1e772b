package leader

import (
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"github.com/ringagent/ringagent/internal/pace"
)

// lacks says how much raft.db lacks.
func (j *journal) lacks() (rows, bytes int) {
	j.mu.RLock()
	defer j.mu.RUnlock()
	return len(j.waiting), j.lacking
}

// keepFiling brings raft.db up to date from time to time. What fails is tried again the next time, and by who stores when it
// has become too much; nothing depends on it before.
func (j *journal) keepFiling() {
	defer close(j.stopped)
	for {
		select {
		case <-j.kick:
		case <-j.stop:
			return
		}
		due := time.NewTimer(pace.Until(j.size.every))
		select {
		case <-due.C:
		case <-j.full:
		case <-j.stop:
			due.Stop()
			return
		}
		due.Stop()
		if err := j.file(); err != nil {
			poke(j.kick)
		}
	}
}

// file brings raft.db up to date with what waits for it now.
func (j *journal) file() error {
	j.filing.Lock()
	defer j.filing.Unlock()
	j.mu.RLock()
	rows := j.waiting[:len(j.waiting):len(j.waiting)]
	j.mu.RUnlock()
	if len(rows) == 0 {
		return nil
	}
	logs := make([]*raft.Log, len(rows))
	for i, r := range rows {
		logs[i] = r.log
	}
	if err := j.bolt.StoreLogs(logs); err != nil {
		return fmt.Errorf("bring %s up to date: %w", storeFile, err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, r := range rows {
		j.lacking -= len(r.log.Data)
		if j.byIndex[r.log.Index] == r.log {
			delete(j.byIndex, r.log.Index)
		}
	}
	j.waiting = slices.Clone(j.waiting[len(rows):])
	j.filed = rows[len(rows)-1].seq
	if len(j.waiting) > 0 {
		poke(j.kick)
	}
	return nil
}
