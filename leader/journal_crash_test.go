package leader

import (
	"bytes"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/raft"
)

// cutBolt fails to store, as on a machine whose power goes at that moment.
type cutBolt struct {
	bolt
	off atomic.Bool
}

var errPower = errors.New("power is gone")

func (c *cutBolt) StoreLogs(l []*raft.Log) error {
	if c.off.Load() {
		return errPower
	}
	return c.bolt.StoreLogs(l)
}

// After a power cut at any moment the files have what was synced to them and nothing else. What was stored without an error is
// there whole. The broken variant says that it has synced, and has not.
func TestJournalAfterAPowerCut(t *testing.T) {
	t.Parallel()
	for name, lies := range map[string]bool{"as it is": false, "without its sync": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			lost := 0
			for round := range uint64(20) {
				if n := powerCut(t, rand.New(rand.NewPCG(round, 7)), lies); n > 0 {
					lost++
				}
			}
			if lost > 0 != lies {
				t.Fatalf("%d of 20 power cuts lost entries", lost)
			}
		})
	}
}

// powerCut stores, cuts the log and switches off. It returns how many of the stored entries cannot be read afterwards.
func powerCut(t *testing.T, r *rand.Rand, lies bool) (lost int) {
	dir := t.TempDir()
	db, err := openBolt(filepath.Join(dir, storeFile))
	if err != nil {
		t.Fatal(err)
	}
	power := &cutBolt{bolt: db}
	b, err := openJournal(dir, power, small)
	if err != nil {
		t.Fatal(err)
	}
	onDisk := map[string][]byte{}
	b.sync = func(f *os.File) error {
		if lies {
			return nil
		}
		data, err := os.ReadFile(f.Name())
		onDisk[f.Name()] = data
		return err
	}
	s := newStore(b)
	first, next := uint64(1), uint64(1)
	kept := map[uint64]*raft.Log{}
	calls := 10 + r.IntN(20)
	for i := range calls {
		if i == calls/2 {
			power.off.Store(true) // raft.db gets nothing more
		}
		if r.IntN(5) == 0 && next > first && !power.off.Load() {
			to := first + r.Uint64N(next-first)
			if err := s.DeleteRange(first, to); err != nil {
				t.Fatal(err)
			}
			for ; first <= to; first++ {
				delete(kept, first)
			}
			continue
		}
		var logs []*raft.Log
		for range 1 + r.IntN(4) {
			logs = append(logs, sized(next+uint64(len(logs)), 8+r.IntN(200)))
		}
		if err := s.StoreLogs(logs); errors.Is(err, errPower) {
			break // it lacked too much
		} else if err != nil {
			t.Fatal(err)
		}
		for _, l := range logs {
			kept[l.Index], next = l, l.Index+1
		}
	}
	if err := b.file(); err != nil && !errors.Is(err, errPower) {
		t.Fatal(err)
	}
	b.kill(t)
	for _, f := range segmentFiles(t, dir) {
		if err := os.WriteFile(f, onDisk[f], 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if db, err = openBolt(filepath.Join(dir, storeFile)); err != nil {
		t.Fatal(err)
	}
	again, err := openJournal(dir, db, small)
	if lies && errors.Is(err, ErrCorrupt) {
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		return len(kept)
	} else if err != nil {
		t.Fatal(err)
	}
	s = newStore(again)
	defer s.Close()
	for i, want := range kept {
		var l raft.Log
		if err := s.GetLog(i, &l); err != nil || !bytes.Equal(l.Data, want.Data) {
			lost++
		}
	}
	if last, err := s.LastIndex(); err != nil || last >= next {
		t.Fatalf("it ends at %d, of what was stored the end is %d: %v", last, next-1, err)
	}
	return lost
}

// A process that ended between the making of the folder or of a segment and the syncing of its name left one that the next
// power cut may take away. It is synced before anything is stored in it.
func TestJournalSyncsTheNamesThatItFinds(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	folder := filepath.Join(dir, journalFolder)
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "00000001"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	b := newJournal(dir, nil, small)
	var synced []string
	b.syncDir = func(dir string) error {
		synced = append(synced, dir)
		return nil
	}
	if err := errors.Join(b.open(), b.closeFiles()); err != nil {
		t.Fatal(err)
	}
	if len(b.segments) != 1 || !slices.Equal(synced, []string{dir, folder}) {
		t.Fatalf("%d segments were found, and %q synced", len(b.segments), synced)
	}
}

// A write or a sync that fails stores nothing, and what comes after it is not mixed up with what it may have left.
func TestJournalGoesOnAfterAFullDisk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, b := openSmall(t, dir)
	want := []*raft.Log{sized(1, 100)}
	storeAll(t, s, want...)

	b.sync = func(*os.File) error { return fs.ErrInvalid }
	if err := s.StoreLogs([]*raft.Log{sized(2, 100)}); !errors.Is(err, fs.ErrInvalid) {
		t.Fatalf("a failing sync: %v", err)
	}
	b.sync = syncData
	holds(t, s, want)
	want = append(want, sized(2, 100))
	storeAll(t, s, want[1])

	good := b.at.file
	bad, err := os.Open(good.Name()) // cannot be written to
	if err != nil {
		t.Fatal(err)
	}
	b.at.file = bad
	if err := s.StoreLogs([]*raft.Log{sized(3, 100), sized(4, 20)}); err == nil {
		t.Fatal("a failing write passed")
	}
	b.at.file = good
	if err := bad.Close(); err != nil {
		t.Fatal(err)
	}
	holds(t, s, want)
	for i := uint64(3); i <= 5; i++ {
		want = append(want, sized(i, 100))
		storeAll(t, s, want[i-1])
	}
	holds(t, s, want)
	b.kill(t)
	s, _ = openSmall(t, dir)
	defer s.Close()
	holds(t, s, want)
}
