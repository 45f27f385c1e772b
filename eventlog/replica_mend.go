package eventlog

import (
	"errors"
	"fmt"
	"io/fs"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// fail stops writing until the file can be trusted again.
func (r *Replica) fail(err error) {
	r.mu.Lock()
	r.degraded = err
	r.mu.Unlock()
	r.alarms.raise(AlarmReplicaDegraded, 0, fmt.Sprintf("copy of the log cannot be written: %v", err))
}

// view is a look into the file. One that finds a page that bbolt cannot read has the writer open the file anew: nobody else
// may come that way for long.
func (r *Replica) view(db *bolt.DB, do func(tx *bolt.Tx) error) error {
	err := guard(r.opt.Path, func() error { return db.View(do) })
	if errors.Is(err, bolterrors.ErrDatabaseNotOpen) {
		return r.away()
	}
	if !damaged(err) {
		return err
	}
	r.mu.Lock()
	known := r.degraded != nil || r.db != db
	r.mu.Unlock()
	if !known {
		r.fail(err)
		r.nudge()
	}
	return err
}

// mend opens the file anew after a failure; one whose fsync failed is copied first, and one that cannot be read begun again.
func (r *Replica) mend() error {
	r.mu.Lock()
	db, why, before := r.db, r.degraded, r.head.Last
	r.db = nil
	r.mu.Unlock()
	if db != nil {
		_ = guard(r.opt.Path, db.Close)
	}
	var known error
	if !outOfSpace(why) {
		err := r.kept.rewrite(r.opt.Path, r.opt.Quarantine, r.opt.Now(), replicaBuckets...)
		if damaged(err) {
			known = err
		} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("copy the log to a new file: %w", err)
		}
	}
	f, err := r.openOrBegin(known)
	if err != nil {
		return err
	}
	r.mu.Lock()
	r.begin(f)
	r.degraded = nil
	after := r.head.Last
	close(r.changed)
	r.changed = make(chan struct{})
	r.mu.Unlock()
	r.announce(before, after) // what failed may have reached the disk after all
	if after < before {
		r.alarms.raise(AlarmReplicaCorrupt, after+1, fmt.Sprintf("copy of the log ends at %d, not at %d as before; pulling the rest", after, before))
		r.Expect(before)
	}
	r.mended = true
	return nil
}

// announce tells of the records after seq after, up to last, that are stored already.
func (r *Replica) announce(after, last uint64) {
	for r.opt.OnAppend != nil && after < last {
		records, err := r.Read(after, int(min(last-after, readMost)))
		if err != nil || len(records) == 0 {
			return
		}
		r.opt.OnAppend(records)
		after = records[len(records)-1].Seq
	}
}

// written ends the alarm of a file that was mended, once something has been written or nothing is left to be.
func (r *Replica) written() {
	if r.mended {
		r.mended = false
		r.alarms.clear(AlarmReplicaDegraded, "copy of the log is written again")
	}
}
