package leader

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"

	"github.com/ringagent/ringagent/internal/boltfile"
)

// ErrCorrupt is returned when stored bytes are not the bytes that were written. The voter that meets it must stop voting.
var ErrCorrupt = errors.New("stored bytes do not match their checksum")

const (
	storeFile     = "raft.db"
	checksumMark  = 1 // first byte of Log.Extensions: CRC32C follows, little endian
	checksumBytes = 5
)

// The library writes a vote as two keys (hashicorp/raft#661). They are kept under one key of ours instead.
var (
	keyTerm          = []byte("CurrentTerm")
	keyVoteTerm      = []byte("LastVoteTerm")
	keyVoteCandidate = []byte("LastVoteCand")
	keyVote          = []byte("ring/vote")
)

// bolt is the part of raft-boltdb that the store stands on; the tests put faults in between.
type bolt interface {
	raft.LogStore
	raft.StableStore
	Close() error
}

// Store keeps Raft's log, term and vote in a bbolt file and the journal before it. It adds to raft-boltdb what that lacks: a
// checksum over every entry, checked on every read (bbolt's data pages carry none), a vote that is written whole or not at all,
// and the promise of IsMonotonic, which makes the library clear a conflicting log after a snapshot (hashicorp/raft#697).
// Its methods may be called by several goroutines.
type Store struct {
	db    bolt
	table *crc32.Table

	mu      sync.Mutex
	pending uint64 // vote term announced by the first of the library's two writes, not on disk yet

	grown *growth
}

// OpenStore opens or creates raft.db in dir. A new file appears under its name only when it is complete and synced, since
// a crash in bbolt's very first write leaves a file that never opens again (etcd-io/bbolt#567).
func OpenStore(dir string) (*Store, error) {
	path := filepath.Join(dir, storeFile)
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		if err := createStore(dir, path); err != nil {
			return nil, fmt.Errorf("create raft store: %w", err)
		}
	}
	switch _, err := boltfile.Check(path, true); {
	case errors.As(err, new(*boltfile.DamagedError)):
		return nil, fmt.Errorf("open raft store: %w: %w", ErrCorrupt, err)
	case err != nil && !errors.Is(err, boltfile.ErrInUse): // for that bbolt waits a moment
		return nil, fmt.Errorf("open raft store: %w", err)
	}
	db, err := openBolt(path)
	if err != nil {
		return nil, fmt.Errorf("open raft store: %w", err)
	}
	j, err := openJournal(dir, db, journalSizes{
		from: 64 << 10, segment: 16 << 20, spares: 4, rows: 256, bytes: 1 << 20, every: 5 * time.Second,
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open journal: %w", err), db.Close())
	}
	return newStore(j), nil
}

func newStore(db bolt) *Store {
	return &Store{db: db, table: crc32.MakeTable(crc32.Castagnoli), grown: newGrowth()}
}

func openBolt(path string) (*raftboltdb.BoltStore, error) {
	return raftboltdb.New(raftboltdb.Options{
		Path: path,
		BoltOptions: &bbolt.Options{
			Timeout:        time.Second, // another process has the file: say so instead of waiting for ever
			NoFreelistSync: true,
			FreelistType:   bbolt.FreelistMapType,
		},
	})
}

func createStore(dir, path string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	temp := path + ".new"
	if err := os.Remove(temp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	db, err := openBolt(temp)
	if err != nil {
		return err
	}
	if err := errors.Join(db.Sync(), db.Close()); err != nil {
		return err
	}
	if err := os.Rename(temp, path); err != nil {
		return err
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Close closes the file.
func (s *Store) Close() error { return s.db.Close() }

// IsMonotonic tells the library to clear the whole log after it has installed a snapshot.
func (s *Store) IsMonotonic() bool { return true }

// FirstIndex is the first index in the log, 0 for none.
func (s *Store) FirstIndex() (uint64, error) { return s.db.FirstIndex() }

// LastIndex is the last index in the log, 0 for none.
func (s *Store) LastIndex() (uint64, error) { return s.db.LastIndex() }

// GetLog reads an entry. It returns an error that is ErrCorrupt when the bytes are not those that were stored. A store that
// is closed says nothing of its bytes.
func (s *Store) GetLog(index uint64, l *raft.Log) error {
	if err := s.db.GetLog(index, l); err != nil {
		switch {
		case errors.Is(err, raft.ErrLogNotFound):
			return err
		case errors.Is(err, bbolterrors.ErrDatabaseNotOpen):
			return fmt.Errorf("read entry %d: %w", index, err)
		}
		return fmt.Errorf("read entry %d: %w: %w", index, ErrCorrupt, err)
	}
	if l.Index != index || len(l.Extensions) != checksumBytes || !s.sealed(l) {
		return fmt.Errorf("read entry %d: %w", index, ErrCorrupt)
	}
	return nil
}

// StoreLog writes one entry.
func (s *Store) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

// StoreLogs writes entries with one fsync. Entries that came from a coordinator carry its checksum,
// which must still be right.
func (s *Store) StoreLogs(logs []*raft.Log) error {
	var n int64
	for _, l := range logs {
		if len(l.Extensions) == 0 {
			l.Extensions = s.seal(l)
		} else if !s.sealed(l) {
			return fmt.Errorf("store entry %d as received: %w", l.Index, ErrCorrupt)
		}
		n += int64(len(l.Data))
	}
	if err := s.db.StoreLogs(logs); err != nil {
		return fmt.Errorf("store %d entries: %w", len(logs), err)
	}
	s.grown.add(int64(len(logs)), n)
	return nil
}

// DeleteRange removes the entries from lo to hi, both included.
func (s *Store) DeleteRange(lo, hi uint64) error { return s.db.DeleteRange(lo, hi) }

func (s *Store) sum(l *raft.Log) uint32 {
	var head [17]byte
	binary.LittleEndian.PutUint64(head[0:], l.Index)
	binary.LittleEndian.PutUint64(head[8:], l.Term)
	head[16] = byte(l.Type)
	return crc32.Update(crc32.Checksum(head[:], s.table), s.table, l.Data)
}

func (s *Store) seal(l *raft.Log) []byte {
	return binary.LittleEndian.AppendUint32([]byte{checksumMark}, s.sum(l))
}

func (s *Store) sealed(l *raft.Log) bool {
	e := l.Extensions
	return len(e) == checksumBytes && e[0] == checksumMark && binary.LittleEndian.Uint32(e[1:]) == s.sum(l)
}

// Verify reads the whole log, which counts as grown by all that it holds, and returns the first fault: a bad entry, or a hole.
func (s *Store) Verify() error {
	first, err := s.FirstIndex()
	if err != nil {
		return fmt.Errorf("find first entry: %w", err)
	}
	last, err := s.LastIndex()
	if err != nil {
		return fmt.Errorf("find last entry: %w", err)
	}
	for i := first; i != 0 && i <= last; i++ {
		var l raft.Log
		if err := s.GetLog(i, &l); errors.Is(err, raft.ErrLogNotFound) {
			return fmt.Errorf("entry %d is missing between %d and %d: %w", i, first, last, ErrCorrupt)
		} else if err != nil {
			return err
		}
		s.grown.add(1, int64(len(l.Data)))
	}
	if _, err := s.GetUint64([]byte("CurrentTerm")); errors.Is(err, ErrCorrupt) {
		return err
	}
	_, _, err = s.vote()
	return err
}

// Set writes a value. The second half of a vote writes the whole vote.
func (s *Store) Set(key, value []byte) error {
	if string(key) != string(keyVoteCandidate) {
		return s.put(key, value)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.put(keyVote, append(binary.BigEndian.AppendUint64(nil, s.pending), value...))
}

// Get reads a value; the error for a missing one is raft-boltdb's, whose text the library compares.
func (s *Store) Get(key []byte) ([]byte, error) {
	if string(key) != string(keyVoteCandidate) {
		return s.get(key)
	}
	_, candidate, err := s.vote()
	if err == nil && candidate == nil {
		err = raftboltdb.ErrKeyNotFound
	}
	return candidate, err
}

// SetUint64 writes a number. The first half of a vote is only remembered until the second comes.
func (s *Store) SetUint64(key []byte, v uint64) error {
	if string(key) == string(keyVoteTerm) {
		s.mu.Lock()
		s.pending = v
		s.mu.Unlock()
		return nil
	}
	return s.Set(key, binary.BigEndian.AppendUint64(nil, v))
}

// GetUint64 reads a number.
func (s *Store) GetUint64(key []byte) (uint64, error) {
	if string(key) == string(keyVoteTerm) {
		term, candidate, err := s.vote()
		if err == nil && candidate == nil {
			err = raftboltdb.ErrKeyNotFound
		}
		return term, err
	}
	b, err := s.get(key)
	if err != nil {
		return 0, err
	}
	if len(b) != 8 {
		return 0, fmt.Errorf("read %s: %w", key, ErrCorrupt)
	}
	return binary.BigEndian.Uint64(b), nil
}

// vote is the whole vote as it stands on disk, or a nil candidate.
func (s *Store) vote() (term uint64, candidate []byte, err error) {
	b, err := s.get(keyVote)
	if errors.Is(err, raftboltdb.ErrKeyNotFound) {
		return 0, nil, nil
	}
	if err != nil {
		return 0, nil, err
	}
	if len(b) < 8 {
		return 0, nil, fmt.Errorf("read vote: %w", ErrCorrupt)
	}
	return binary.BigEndian.Uint64(b), b[8:], nil
}

func (s *Store) put(key, value []byte) error {
	sum := crc32.Update(crc32.Checksum(key, s.table), s.table, value)
	if err := s.db.Set(key, binary.LittleEndian.AppendUint32(append([]byte(nil), value...), sum)); err != nil {
		return fmt.Errorf("store %s: %w", key, err)
	}
	return nil
}

func (s *Store) get(key []byte) ([]byte, error) {
	b, err := s.db.Get(key)
	if err != nil {
		return nil, err
	}
	if len(b) < 4 {
		return nil, fmt.Errorf("read %s: %w", key, ErrCorrupt)
	}
	value, tail := b[:len(b)-4], b[len(b)-4:]
	if binary.LittleEndian.Uint32(tail) != crc32.Update(crc32.Checksum(key, s.table), s.table, value) {
		return nil, fmt.Errorf("read %s: %w", key, ErrCorrupt)
	}
	return value, nil
}
