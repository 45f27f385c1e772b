package leader

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"

	"github.com/hashicorp/raft"
	bbolterrors "go.etcd.io/bbolt/errors"
)

const (
	bulkFolder = "bulk"

	outsideMark   = 2 // first byte of Log.Extensions in raft.db, in place of checksumMark, where Data is a position
	positionBytes = 16
)

// bulkSizes are the limits of bulk.
type bulkSizes struct {
	// from is the size from which an entry's data is kept outside raft.db. A leaf of bbolt holds several values however large
	// they are, and all are written again with the next one: almost four times their bytes in the end, where one more sync is
	// the price of a file of their own. The entries of publishers who wait for each event are smaller, and spared that sync.
	from int
	// segment bounds one file, and with it what a single entry that is still needed keeps from being written over.
	segment int64
	// spares bounds the files that are kept empty, to be written over: their blocks and pages are there already.
	spares int
}

// bulk is raft-boltdb with the data of large entries in files beside it, numbered segments that are written over once the
// log has no entry in them any more. What raft.db has of such an entry is the position of its data; the checksum that
// the store put into the entry covers the data itself, so that a wrong position and wrong bytes are found alike. Data is synced
// before raft.db speaks of it.
type bulk struct {
	bolt
	dir  string
	size bulkSizes
	sync func(*os.File) error
	// syncDir puts a folder's names on disk.
	syncDir func(string) error

	writes sync.Mutex // held while data is written
	// mu is held for reading from the look for a position to the end of the reading there: what is there meanwhile is not
	// written over.
	mu       sync.RWMutex
	at       *segment // is written to; nil: none yet. It changes with both locks held.
	segments map[uint32]*segment
	spare    []*segment
}

// segment is one file.
type segment struct {
	number      uint32
	file        *os.File
	end, synced int64  // of what was written to it since it was last empty, and synced; for who writes
	first, last uint64 // no entry outside these has data in it; 0: none has
}

// position is where data lies.
type position struct {
	segment uint32
	length  uint32
	offset  int64
}

// openBulk opens or creates the folder bulk in dir, beside db. What is wrong with entries is told when they are read.
func openBulk(dir string, db bolt, size bulkSizes) (*bulk, error) {
	b := newBulk(dir, db, size)
	err := b.open()
	if err == nil {
		err = b.find()
	}
	if err != nil {
		return nil, errors.Join(err, b.closeFiles())
	}
	for _, s := range b.segments {
		b.spareIfEmpty(s)
	}
	return b, nil
}

func newBulk(dir string, db bolt, size bulkSizes) *bulk {
	return &bulk{bolt: db, dir: filepath.Join(dir, bulkFolder), size: size, sync: syncData, syncDir: syncDir, segments: map[uint32]*segment{}}
}

// open opens what files there are. It syncs the names that it finds: who made them may have ended before that.
func (b *bulk) open() error {
	if err := os.Mkdir(b.dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	for _, dir := range []string{filepath.Dir(b.dir), b.dir} {
		if err := b.syncDir(dir); err != nil {
			return err
		}
	}
	entries, err := os.ReadDir(b.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		n, err := strconv.ParseUint(e.Name(), 10, 32)
		if err != nil || b.path(uint32(n)) != filepath.Join(b.dir, e.Name()) {
			continue // not ours
		}
		f, err := os.OpenFile(b.path(uint32(n)), os.O_RDWR, 0o600)
		if err != nil {
			return err
		}
		b.segments[uint32(n)] = &segment{number: uint32(n), file: f}
	}
	return nil
}

// find looks through the log for what the segments are needed for. Of a log with a hole or with an entry that cannot be read it
// is not known, and all are kept until that log is cleared; who reads it is told. A wrong index may be very far from the others:
// the look ends at the first fault.
func (b *bulk) find() error {
	first, err := b.FirstIndex()
	if err != nil {
		return fmt.Errorf("find first entry: %w", err)
	}
	last, err := b.LastIndex()
	if err != nil {
		return fmt.Errorf("find last entry: %w", err)
	}
	for i := first; i != 0 && i <= last; i++ {
		var l raft.Log
		if err := b.bolt.GetLog(i, &l); err != nil {
			for _, s := range b.segments {
				s.cover(first)
				s.cover(last)
			}
			return nil
		}
		if outside(&l) {
			if p, ok := readPosition(l.Data); ok && b.segments[p.segment] != nil {
				b.segments[p.segment].cover(i)
			} // else the reading of the entry will say so
		}
	}
	return nil
}

func (b *bulk) path(number uint32) string { return filepath.Join(b.dir, fmt.Sprintf("%08d", number)) }

// StoreLog writes one entry.
func (b *bulk) StoreLog(l *raft.Log) error { return b.StoreLogs([]*raft.Log{l}) }

// StoreLogs writes entries, which the store has sealed.
func (b *bulk) StoreLogs(logs []*raft.Log) error {
	if slices.ContainsFunc(logs, b.large) {
		var err error
		if logs, err = b.put(logs); err != nil {
			return err
		}
	}
	return b.bolt.StoreLogs(logs)
}

func (b *bulk) large(l *raft.Log) bool {
	return len(l.Data) >= b.size.from && int64(len(l.Data)) <= b.size.segment
}

func outside(l *raft.Log) bool { return len(l.Extensions) > 0 && l.Extensions[0] == outsideMark }

// put writes and syncs the data of the large ones, and returns the entries as raft.db is to have them.
func (b *bulk) put(logs []*raft.Log) ([]*raft.Log, error) {
	b.writes.Lock()
	defer b.writes.Unlock()
	out := slices.Clone(logs)
	for i, l := range logs {
		if !b.large(l) {
			continue
		}
		p, err := b.write(l)
		if err != nil {
			return nil, fmt.Errorf("write data of entry %d: %w", l.Index, err)
		}
		row := *l
		row.Data = p.bytes()
		row.Extensions = slices.Clone(l.Extensions)
		row.Extensions[0] = outsideMark
		out[i] = &row
	}
	if err := b.settle(); err != nil {
		return nil, err
	}
	return out, nil
}

func (b *bulk) write(l *raft.Log) (position, error) {
	if b.at == nil || b.at.end+int64(len(l.Data)) > b.size.segment {
		if err := b.turn(); err != nil {
			return position{}, err
		}
	}
	s := b.at
	b.mu.Lock()
	s.cover(l.Index) // before it is there: who cuts the log meanwhile must not take the segment for empty
	b.mu.Unlock()
	if _, err := s.file.WriteAt(l.Data, s.end); err != nil {
		s.end = s.synced
		return position{}, err
	}
	p := position{segment: s.number, offset: s.end, length: uint32(len(l.Data))}
	s.end += int64(len(l.Data))
	return p, nil
}

// settle syncs what was written. After a failure nobody knows what is on disk, and all since the last sync is written anew.
func (b *bulk) settle() error {
	s := b.at
	if s == nil || s.end == s.synced {
		return nil
	}
	if err := b.sync(s.file); err != nil {
		s.end = s.synced
		return fmt.Errorf("sync segment %d: %w", s.number, err)
	}
	s.synced = s.end
	return nil
}

// turn goes on in the next segment.
func (b *bulk) turn() error {
	if err := b.settle(); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	former := b.at
	if n := len(b.spare); n > 0 {
		b.at, b.spare = b.spare[n-1], b.spare[:n-1]
	} else if err := b.extend(); err != nil {
		return err
	}
	b.at.end, b.at.synced = 0, 0
	if former != nil {
		b.spareIfEmpty(former)
	}
	return nil
}

// extend makes a new segment. The caller holds both locks.
func (b *bulk) extend() error {
	number := uint32(1)
	for n := range b.segments {
		number = max(number, n+1)
	}
	f, err := os.OpenFile(b.path(number), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if err := b.syncDir(b.dir); err != nil {
		return errors.Join(err, f.Close(), os.Remove(f.Name()))
	}
	b.at = &segment{number: number, file: f}
	b.segments[number] = b.at
	return nil
}

// GetLog reads an entry.
func (b *bulk) GetLog(index uint64, l *raft.Log) error {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if err := b.bolt.GetLog(index, l); err != nil || !outside(l) {
		return err
	}
	p, ok := readPosition(l.Data)
	s := b.segments[p.segment]
	if !ok || s == nil || int64(p.length) > b.size.segment {
		return fmt.Errorf("no data at position %x", l.Data)
	}
	data := make([]byte, p.length)
	if _, err := s.file.ReadAt(data, p.offset); errors.Is(err, fs.ErrClosed) {
		return bbolterrors.ErrDatabaseNotOpen
	} else if err != nil {
		return fmt.Errorf("read data: %w", err)
	}
	l.Data, l.Extensions = data, slices.Clone(l.Extensions)
	l.Extensions[0] = checksumMark
	return nil
}

// DeleteRange removes the entries from lo to hi, both included.
func (b *bulk) DeleteRange(lo, hi uint64) error {
	if err := b.bolt.DeleteRange(lo, hi); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.segments {
		s.drop(lo, hi)
		b.spareIfEmpty(s)
	}
	return nil
}

// spareIfEmpty keeps or removes a segment that no entry needs. The caller holds mu, if others know b. A file that cannot be
// removed is in nobody's way, and is found empty at the next start.
func (b *bulk) spareIfEmpty(s *segment) {
	if s.last != 0 || s == b.at || slices.Contains(b.spare, s) {
		return
	}
	if len(b.spare) < b.size.spares {
		b.spare = append(b.spare, s)
		return
	}
	delete(b.segments, s.number)
	_ = s.file.Close()
	_ = os.Remove(s.file.Name())
}

// Close closes all files.
func (b *bulk) Close() error { return errors.Join(b.bolt.Close(), b.closeFiles()) }

func (b *bulk) closeFiles() (err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.segments {
		err = errors.Join(err, s.file.Close())
	}
	return err
}

func (s *segment) cover(index uint64) {
	if s.last == 0 {
		s.first, s.last = index, index
	}
	s.first, s.last = min(s.first, index), max(s.last, index)
}

func (s *segment) drop(lo, hi uint64) {
	switch {
	case s.last == 0:
	case lo <= s.first && hi >= s.last:
		s.first, s.last = 0, 0
	case lo <= s.first:
		s.first = max(s.first, hi+1)
	case hi >= s.last:
		s.last = min(s.last, lo-1)
	}
}

func (p position) bytes() []byte {
	b := binary.LittleEndian.AppendUint32(make([]byte, 0, positionBytes), p.segment)
	b = binary.LittleEndian.AppendUint32(b, p.length)
	return binary.LittleEndian.AppendUint64(b, uint64(p.offset))
}

func readPosition(b []byte) (position, bool) {
	if len(b) != positionBytes {
		return position{}, false
	}
	p := position{segment: binary.LittleEndian.Uint32(b), length: binary.LittleEndian.Uint32(b[4:])}
	p.offset = int64(binary.LittleEndian.Uint64(b[8:]))
	return p, p.offset >= 0
}
