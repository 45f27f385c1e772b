package leader

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// aheadBytes is how far beyond its end a segment is filled with zeros. Where a file grows, a sync has to write down where, too,
// which takes it half as long again.
const aheadBytes = 1 << 20

// segment is one file of a journal.
type segment struct {
	number      uint32
	file        *os.File
	end, made   int64  // of what was written to it since it was last begun; of its blocks; for who writes
	seq         uint64 // of its last record that is on disk; for who writes
	first, last uint64 // no entry outside these has data in it that raft.db points to; 0: none has
}

// position is where data lies.
type position struct {
	segment uint32
	length  uint32
	offset  int64
}

func (j *journal) path(number uint32) string {
	return filepath.Join(j.dir, fmt.Sprintf("%08d", number))
}

// add writes a record of these parts, to be synced by settle, and says where the last of them begins.
func (j *journal) add(h head, ext, data []byte) (position, error) {
	size := int64(headBytes + len(ext) + len(data))
	if j.at == nil || j.used() > 0 && j.used()+size > j.size.segment {
		if err := j.turn(); err != nil {
			return position{}, err
		}
	}
	h.journal, h.seq, h.before, h.synced, h.filed = j.id, j.last.seq+1, j.last.sum, j.settled.seq, j.saidFiled
	j.buf, j.last.sum = appendHead(j.buf, &h)
	j.last.seq++
	j.buf = append(j.buf, ext...)
	s := j.at
	p := position{segment: s.number, length: uint32(len(data)), offset: j.used()}
	if len(data) < j.size.from {
		j.buf = append(j.buf, data...)
		return p, nil
	}
	if err := j.flush(); err != nil { // instead of copying so much
		return position{}, err
	}
	_, err := s.file.WriteAt(data, s.end)
	s.end += int64(len(data))
	return p, err
}

// used is how much of the present segment is taken.
func (j *journal) used() int64 { return j.at.end + int64(len(j.buf)) }

// flush writes what is gathered.
func (j *journal) flush() error {
	s := j.at
	_, err := s.file.WriteAt(j.buf, s.end)
	s.end += int64(len(j.buf))
	j.buf = j.buf[:0]
	return err
}

// settle syncs what was written. After a failure nobody knows what is on disk.
func (j *journal) settle() error {
	s := j.at
	if s == nil || j.last == j.settled {
		return nil
	}
	if err := j.flush(); err != nil {
		return err
	}
	j.makeRoom(s)
	if err := j.sync(s.file); err != nil {
		return fmt.Errorf("sync segment %d: %w", s.number, err)
	}
	s.seq, j.settled, j.told = j.last.seq, j.last, j.saidFiled
	return nil
}

// undo gives up what was written since the last sync, or call. Any of it may be on disk all the same, and must not be taken for
// what is written in its place: its numbers are not used again.
func (j *journal) undo() {
	j.void = max(j.void, j.last.seq)
	j.last, j.buf = j.settled, j.buf[:0]
}

// restart begins a new run of records after a failure. The first of them says that raft.db lacks nothing of those before.
func (j *journal) restart() error {
	if j.void == 0 {
		return nil
	}
	if err := j.file(); err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.last = mark{seq: max(j.void, j.last.seq)}
	j.settled, j.filed, j.void, j.at = j.last, j.last.seq, 0, nil
	return nil
}

// makeRoom fills what comes next in a segment that is written to for the first time. Where that fails nothing is lost: what needs
// the room says so.
func (j *journal) makeRoom(s *segment) {
	if s.end <= s.made {
		return
	}
	s.made = s.end
	if to := min(s.end+aheadBytes, j.size.segment); to > s.end {
		if _, err := s.file.WriteAt(make([]byte, to-s.end), s.end); err == nil {
			s.made = to
		}
	}
}

// turn goes on in the next segment.
func (j *journal) turn() error {
	if err := j.settle(); err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	former := j.at
	j.at = nil
	j.sweep()
	if n := len(j.spare); n > 0 {
		j.at, j.spare = j.spare[n-1], j.spare[:n-1]
	} else if err := j.extend(); err != nil {
		j.at = former
		return err
	}
	j.at.end = 0
	return nil
}

// extend makes a new segment. The caller holds writes and mu.
func (j *journal) extend() error {
	number := uint32(1)
	for n := range j.segments {
		number = max(number, n+1)
	}
	f, err := os.OpenFile(j.path(number), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if err := j.syncDir(j.dir); err != nil {
		return errors.Join(err, f.Close(), os.Remove(f.Name()))
	}
	j.at = &segment{number: number, file: f}
	j.segments[number] = j.at
	return nil
}

// sweep keeps or removes the segments that nobody needs: raft.db points to nothing in them and has all that their records say, and
// a record on disk says so. The caller holds mu, and writes if others know j. A file that cannot be removed is in nobody's
// way, and is found empty at the next start.
func (j *journal) sweep() {
	spare := make(map[*segment]bool, len(j.spare))
	for _, s := range j.spare {
		spare[s] = true
	}
	for _, s := range j.segments {
		switch {
		case s == j.at || s.last != 0 || s.seq > j.told || spare[s]:
		case len(j.spare) < j.size.spares:
			j.spare = append(j.spare, s)
		default:
			delete(j.segments, s.number)
			_ = s.file.Close()
			_ = os.Remove(s.file.Name())
		}
	}
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
