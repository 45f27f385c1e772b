package leader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/hashicorp/raft"
)

// deafBolt fails to delete.
type deafBolt struct{ bolt }

func (deafBolt) DeleteRange(uint64, uint64) error { return errPower }

// What raft.db had not got when the process ended it gets when the journal is opened, deletions and all, and once more if that did
// not come to its end.
func TestJournalIsDoneAgain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, j := openSmall(t, dir)
	var logs []*raft.Log
	for i := uint64(1); i <= 6; i++ {
		logs = append(logs, sized(i, 30+20*int(i)))
		storeAll(t, s, logs[i-1])
	}
	if n, err := j.bolt.LastIndex(); n != 0 || err != nil {
		t.Fatalf("raft.db has entry %d already: %v", n, err)
	}
	j.kill(t)

	s, j = openSmall(t, dir)
	holds(t, s, logs)
	j.bolt = deafBolt{j.bolt}
	if err := s.DeleteRange(5, 6); !errors.Is(err, errPower) {
		t.Fatal(err)
	}
	j.kill(t)

	for range 2 {
		s, j = openSmall(t, dir)
		holds(t, s, logs[:4])
		j.kill(t)
	}
	s, j = openSmall(t, dir)
	if err := s.DeleteRange(1, 4); err != nil {
		t.Fatal(err)
	}
	j.kill(t) // nothing stands after the deletion
	s, _ = openSmall(t, dir)
	defer s.Close()
	holds(t, s, nil)
}

// A deletion that raft.db refused is not made up for under what was stored since. The broken variant lets it stand.
func TestJournalForgetsADeletionThatFailed(t *testing.T) {
	t.Parallel()
	for name, broken := range map[string]bool{"as it is": false, "it stands": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			s, j := openSmall(t, dir)
			logs := []*raft.Log{sized(1, 30), sized(2, 30), sized(3, 30)}
			storeAll(t, s, logs...)
			db := j.bolt
			j.bolt = deafBolt{db}
			if err := s.DeleteRange(2, 3); !errors.Is(err, errPower) {
				t.Fatal(err)
			}
			j.bolt = db
			if broken {
				j.void = 0
			}
			logs = append(logs, sized(4, 30))
			storeAll(t, s, logs[3])
			holds(t, s, logs)
			j.kill(t)
			s, _ = openSmall(t, dir)
			defer s.Close()
			if !broken {
				holds(t, s, logs)
			} else if err := s.GetLog(2, new(raft.Log)); !errors.Is(err, raft.ErrLogNotFound) {
				t.Fatalf("got %v", err)
			}
		})
	}
}

// Calls that fail use up nothing, however many they are.
func TestJournalDoesNotGrowByFailing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, j := openSmall(t, dir)
	defer s.Close()
	storeAll(t, s, sized(1, 30))
	j.sync = func(*os.File) error { return errPower }
	for range 100 {
		if err := s.StoreLogs([]*raft.Log{sized(2, 30)}); !errors.Is(err, errPower) {
			t.Fatal(err)
		}
	}
	if n := len(segmentFiles(t, dir)); n > small.spares+2 || n != len(j.segments) {
		t.Fatalf("%d files after calls that failed", n)
	}
	j.sync = syncData
	storeAll(t, s, sized(2, 30))
}

// fullBolt has no room.
type fullBolt struct {
	bolt
	full atomic.Bool
}

func (b *fullBolt) DeleteRange(lo, hi uint64) error {
	if b.full.Load() {
		return syscall.ENOSPC
	}
	return b.bolt.DeleteRange(lo, hi)
}

func (b *fullBolt) StoreLogs(l []*raft.Log) error {
	if b.full.Load() {
		return syscall.ENOSPC
	}
	return b.bolt.StoreLogs(l)
}

// openFull opens a journal whose raft.db has no room.
func openFull(t *testing.T, dir string) (*Store, *journal, *fullBolt) {
	t.Helper()
	opened, err := openBolt(filepath.Join(dir, storeFile))
	if err != nil {
		t.Fatal(err)
	}
	db := &fullBolt{bolt: opened}
	db.full.Store(true)
	j, err := openJournal(dir, db, small)
	if err != nil {
		t.Fatal(err)
	}
	return newStore(j), j, db
}

// With a full disk under raft.db a journal is closed and opened all the same, and has everything. What is stored next waits for room.
func TestJournalOpensOnAFullDisk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, j := openSmall(t, dir)
	logs := []*raft.Log{sized(1, 30), sized(2, 200)}
	storeAll(t, s, logs...)
	db := &fullBolt{bolt: j.bolt}
	db.full.Store(true)
	j.bolt = db
	for range 3 {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s, j, db = openFull(t, dir)
		holds(t, s, logs)
		if err := s.StoreLogs([]*raft.Log{sized(3, 30)}); !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("got %v", err)
		}
	}
	db.full.Store(false)
	logs = append(logs, sized(3, 30))
	storeAll(t, s, logs[2])
	db.full.Store(true)
	if err := s.DeleteRange(1, 1); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("got %v", err)
	}
	j.kill(t)
	s, j, db = openFull(t, dir) // a deletion that was not done is not needed to start
	holds(t, s, logs)
	db.full.Store(false)
	logs = append(logs, sized(4, 30))
	storeAll(t, s, logs[3])
	j.kill(t)
	s, _ = openSmall(t, dir)
	defer s.Close()
	holds(t, s, logs)
}

// A process ends between the write of a record and its sync. The next start takes the record up, and Raft may answer for it. Then the
// power goes, and with it what nobody synced. The broken variant does not sync what it takes up.
func TestJournalSyncsWhatItTakesUp(t *testing.T) {
	t.Parallel()
	for _, size := range []int{30, 200} {
		for name, broken := range map[string]bool{"as it is": false, "without a sync": true} {
			t.Run(fmt.Sprint(name, size), func(t *testing.T) {
				t.Parallel()
				dir := t.TempDir()
				s, j := openSmall(t, dir)
				logs := []*raft.Log{sized(1, 30), sized(2, size)}
				storeAll(t, s, logs[0])
				onDisk := map[string][]byte{}
				keep := func(f *os.File) (err error) {
					onDisk[f.Name()], err = os.ReadFile(f.Name())
					return err
				}
				if err := keep(j.at.file); err != nil {
					t.Fatal(err)
				}
				j.sync = func(*os.File) error { return errPower } // the process ends here
				if err := s.StoreLogs(logs[1:]); !errors.Is(err, errPower) {
					t.Fatal(err)
				}
				j.kill(t)

				db, err := openBolt(filepath.Join(dir, storeFile))
				if err != nil {
					t.Fatal(err)
				}
				j = newJournal(dir, db, small)
				if j.sync = keep; broken {
					j.sync = func(*os.File) error { return nil }
				}
				if err := j.start(); err != nil {
					t.Fatal(err)
				}
				holds(t, newStore(j), logs)
				j.kill(t)
				for f, b := range onDisk {
					if err := os.WriteFile(f, b, 0o600); err != nil {
						t.Fatal(err)
					}
				}

				if db, err = openBolt(filepath.Join(dir, storeFile)); err != nil {
					t.Fatal(err)
				}
				defer db.Close()
				switch j, err = openJournal(dir, db, small); {
				case broken && errors.Is(err, ErrCorrupt):
				case err != nil || broken:
					t.Fatalf("got %v", err)
				default:
					holds(t, newStore(j), logs)
					j.kill(t)
				}
			})
		}
	}
}

// A raft.db that was made anew takes up nothing of the journal of another one.
func TestJournalOfAnotherLogIsLeft(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, j := openSmall(t, dir)
	storeAll(t, s, sized(1, 20), sized(2, 100), sized(3, 300), sized(4, 20))
	j.kill(t)
	if err := os.Remove(filepath.Join(dir, storeFile)); err != nil {
		t.Fatal(err)
	}
	s, j = openSmall(t, dir)
	holds(t, s, nil)
	logs := []*raft.Log{sized(1, 20), sized(2, 300), sized(3, 300)}
	storeAll(t, s, logs...)
	j.kill(t)
	s, _ = openSmall(t, dir)
	defer s.Close()
	holds(t, s, logs)
}

// A bad record was being written when the power went, or was on disk before. Of the newest only the first can be said.
func TestJournalKnowsTheBadFromTheUnfinished(t *testing.T) {
	t.Parallel()
	const entries = 9
	parts := map[string]int64{"sum": 0, "before": 4, "body sum": 9, "kind": 16, "id": 25, "seq": 32, "synced": 48, "index": 56, "extensions": headBytes + 2, "data": headBytes + checksumBytes + 3}
	for part, at := range parts {
		for n := uint64(1); n <= entries; n++ {
			t.Run(fmt.Sprintf("%s of %d", part, n), func(t *testing.T) {
				t.Parallel()
				dir := t.TempDir()
				s, j := openSmall(t, dir)
				j.size.rows = 100
				var logs []*raft.Log
				for i := uint64(1); i <= entries; i++ {
					logs = append(logs, sized(i, 90))
					storeAll(t, s, logs[i-1])
				}
				j.kill(t)
				flipRecord(t, j, n, at)
				db, err := openBolt(filepath.Join(dir, storeFile))
				if err != nil {
					t.Fatal(err)
				}
				j, err = openJournal(dir, db, small)
				if n < entries {
					if !errors.Is(err, ErrCorrupt) {
						t.Fatalf("record %d was on disk, and is not missed: %v", n, err)
					}
					if err := db.Close(); err != nil {
						t.Fatal(err)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				s = newStore(j)
				holds(t, s, logs[:entries-1])
				logs[entries-1] = sized(entries, 90)
				storeAll(t, s, logs[entries-1])
				j.kill(t)
				s, _ = openSmall(t, dir)
				defer s.Close()
				holds(t, s, logs)
			})
		}
	}
}

// flipRecord flips a bit of an entry's record in a journal that is closed.
func flipRecord(t *testing.T, j *journal, index uint64, offset int64) {
	t.Helper()
	for _, s := range j.segments {
		f, err := os.OpenFile(s.file.Name(), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		open := segment{file: f, made: s.made}
		if _, err := open.walk(j.id, func(h head, _ uint32, at int64) bool {
			if h.kind != recordEntry || h.index != index {
				return true
			}
			var b [1]byte
			if _, err := f.ReadAt(b[:], at+offset); err != nil {
				t.Fatal(err)
			}
			b[0] ^= 4
			if _, err := f.WriteAt(b[:], at+offset); err != nil {
				t.Fatal(err)
			}
			return false
		}); err != nil {
			t.Fatal(err)
		}
	}
}

// What a failed call left on disk is not taken for what was stored in its place, be it in another segment: its numbers are not used
// again. The broken variant uses them.
func TestJournalPassesOverWhatFailed(t *testing.T) {
	t.Parallel()
	for name, broken := range map[string]bool{"as it is": false, "numbers used again": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			s, j := openSmall(t, dir)
			logs := []*raft.Log{sized(1, 300)}
			storeAll(t, s, logs...)
			j.sync = func(*os.File) error { return errPower }
			if err := s.StoreLogs([]*raft.Log{sized(2, 20)}); !errors.Is(err, errPower) {
				t.Fatal(err)
			}
			j.sync = syncData
			if broken {
				j.void = 0
			}
			logs = append(logs, sized(2, 200)) // does not fit into the first segment
			storeAll(t, s, logs[1])
			j.kill(t)
			s, _ = openSmall(t, dir)
			defer s.Close()
			var l raft.Log
			if err := s.GetLog(2, &l); err != nil || (len(l.Data) == len(logs[1].Data)) == broken {
				t.Fatalf("entry 2 has %d bytes: %v", len(l.Data), err)
			}
		})
	}
}
