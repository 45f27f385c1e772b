package leader

import (
	"encoding/binary"
	"errors"
	"path/filepath"
	"testing"

	"github.com/hashicorp/raft"
	"go.etcd.io/bbolt"
)

// A log whose last key was altered seems endless, and one with a hole or an entry that cannot be read does not say what it needs:
// it is opened at once, none of its data is written over, and Verify finds the fault. Cleared, it needs nothing any more.
func TestJournalOfALogWithAFault(t *testing.T) {
	t.Parallel()
	key := func(index uint64) []byte { return binary.BigEndian.AppendUint64(nil, index) }
	for name, harm := range map[string]func(log *bbolt.Bucket) error{
		"far index":  func(log *bbolt.Bucket) error { return log.Put(key(1<<62), log.Get(key(2))) },
		"hole":       func(log *bbolt.Bucket) error { return log.Delete(key(2)) },
		"unreadable": func(log *bbolt.Bucket) error { return log.Put(key(2), []byte{0xc1}) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			s, _ := openSmall(t, dir)
			want := []*raft.Log{sized(1, 100), sized(2, 20), sized(3, 350)}
			storeAll(t, s, want...)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			db, err := bbolt.Open(filepath.Join(dir, storeFile), 0o600, nil)
			if err != nil {
				t.Fatal(err)
			}
			err = db.Update(func(tx *bbolt.Tx) error { return harm(tx.Bucket([]byte("logs"))) })
			if err := errors.Join(err, db.Close()); err != nil {
				t.Fatal(err)
			}
			s, b := openSmall(t, dir)
			defer s.Close()
			if err := s.Verify(); !errors.Is(err, ErrCorrupt) {
				t.Fatalf("verify: %v", err)
			}
			storeAll(t, s, sized(10, 350), sized(11, 350), sized(12, 350), sized(13, 350))
			for _, w := range []*raft.Log{want[0], want[2]} {
				if err := s.GetLog(w.Index, new(raft.Log)); err != nil {
					t.Fatal(err)
				}
			}
			if err := clearLog(s); err != nil {
				t.Fatal(err)
			}
			if n := len(segmentFiles(t, dir)); n > small.spares+1 || n != len(b.segments) {
				t.Fatalf("%d files are kept for an empty log", n)
			}
		})
	}
}
