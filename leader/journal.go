package leader

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	bbolterrors "go.etcd.io/bbolt/errors"
)

const (
	journalFolder = "journal"
	formerFolder  = "bulk"

	outsideMark   = 2 // first byte of Log.Extensions in raft.db, in place of checksumMark, where Data is a position
	positionBytes = 16
)

// journalSizes are the limits of a journal.
type journalSizes struct {
	// from is the size from which an entry's data stays outside raft.db. A leaf of bbolt holds several values however large they
	// are, and all are written again with the next one.
	from int
	// segment bounds one file, and with it what a single entry that is still needed keeps from being written over. A larger record
	// has a file for itself.
	segment int64
	// spares bounds the files that are kept empty, to be written over: their blocks and pages are there already.
	spares int
	// rows and bytes are how much of entries raft.db may lack before it is brought up to date at once, and every how long it is
	// in any case. Of four times as much the next entries wait for it.
	rows, bytes int
	every       time.Duration
}

// journal is raft-boltdb behind files, numbered segments, to which everything is written first. An entry is stored once it is in
// the journal, which is one sync; raft.db, which needs two and writes whole pages, gets it together with others a moment later. What
// the process did not get to is made up for when the journal is opened again: records are numbered, each says up to which of them
// raft.db had been brought, and those that follow are done again, in order.
//
// The data of large entries never goes to raft.db, which has its position instead. The checksum that the store put into the entry
// covers the data itself, so that a wrong position and wrong bytes are found alike. A segment is written over once raft.db points
// to nothing in it and its records have been done with.
//
// A record that fails its check and that no later call knows to have been on disk was being written when the power went: nobody was
// told that it was stored. Any other one that is bad makes the log ErrCorrupt. (Should bits flip in what the very last call wrote,
// between an end without a Close and the next start, that is not noticed.)
//
// Term and vote are raft.db's alone.
type journal struct {
	bolt
	dir  string
	size journalSizes
	sync func(*os.File) error
	// syncDir puts a folder's names on disk.
	syncDir func(string) error
	id      uint64 // says which records are this log's; raft.db has it, too

	// writes is held while the journal is written to. It guards what is between here and the next lock.
	writes    sync.Mutex
	buf       []byte // of the present segment, to be written at its end
	last      mark   // the newest record
	settled   mark   // the newest that is on disk
	saidFiled uint64 // what the records that are being written say of raft.db
	told      uint64 // what the newest record on disk says of it
	void      uint64 // the highest number that was given to a record of a call that failed; 0: none since the last restart

	filing sync.Mutex // held while raft.db's log changes; after writes

	// mu is held for reading from the look for a position to the end of the reading there: what is there meanwhile is not
	// written over. It comes after the other two.
	mu       sync.RWMutex
	at       *segment // is written to; nil: none yet. It changes with writes held, too.
	segments map[uint32]*segment
	spare    []*segment
	waiting  []row // what raft.db lacks, in order
	byIndex  map[uint64]*raft.Log
	lacking  int    // bytes of data of waiting
	filed    uint64 // up to this record raft.db is up to date

	kick, full    chan struct{} // something, and much, is waiting
	stop, stopped chan struct{}
	once          sync.Once // closes stop
}

// mark is a place in a journal: a record and the sum of its head.
type mark struct {
	seq uint64
	sum uint32
}

// row is an entry as raft.db is to have it.
type row struct {
	seq uint64
	log *raft.Log
}

// StoreLog writes one entry.
func (j *journal) StoreLog(l *raft.Log) error { return j.StoreLogs([]*raft.Log{l}) }

// StoreLogs writes entries, which the store has sealed, with one sync.
func (j *journal) StoreLogs(logs []*raft.Log) error {
	j.writes.Lock()
	defer j.writes.Unlock()
	if err := j.restart(); err != nil {
		return err
	}
	if rows, bytes := j.lacks(); rows >= 4*j.size.rows || bytes >= 4*j.size.bytes {
		if err := j.file(); err != nil {
			return err
		}
	}
	rows, err := j.put(logs)
	if err != nil {
		j.undo()
		return err
	}
	j.mu.Lock()
	first := len(j.waiting) == 0
	for _, r := range rows {
		j.wait(r)
	}
	full := len(j.waiting) >= j.size.rows || j.lacking >= j.size.bytes
	j.mu.Unlock()
	if first {
		poke(j.kick)
	}
	if full {
		poke(j.full)
	}
	return nil
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// put writes and syncs records of entries, and returns the entries as raft.db is to have them.
func (j *journal) put(logs []*raft.Log) ([]row, error) {
	j.mu.RLock()
	j.saidFiled = j.filed
	j.mu.RUnlock()
	rows := make([]row, 0, len(logs))
	for _, l := range logs {
		p, err := j.add(headOf(l), l.Extensions, l.Data)
		if err != nil {
			return nil, fmt.Errorf("write entry %d: %w", l.Index, err)
		}
		rows = append(rows, j.rowOf(j.last.seq, l, p))
	}
	return rows, j.settle()
}

// rowOf is an entry as raft.db is to have it: with the number of its record behind its checksum, and where it is large with the
// position of its data.
func (j *journal) rowOf(seq uint64, l *raft.Log, p position) row {
	out := *l
	out.Extensions = binary.LittleEndian.AppendUint64(slices.Clone(l.Extensions), seq)
	if len(l.Data) >= j.size.from && len(l.Extensions) == checksumBytes {
		out.Data = p.bytes()
		out.Extensions[0] = outsideMark
	}
	return row{seq, &out}
}

func outside(l *raft.Log) bool { return len(l.Extensions) > 0 && l.Extensions[0] == outsideMark }

// recordOf is the number of the record of an entry, as raft.db has it; 0: it was there before there was a journal.
func recordOf(l *raft.Log) uint64 {
	if len(l.Extensions) != checksumBytes+8 {
		return 0
	}
	return binary.LittleEndian.Uint64(l.Extensions[checksumBytes:])
}

// wait enters an entry that raft.db lacks. The caller holds mu, if others know j.
func (j *journal) wait(r row) {
	j.waiting = append(j.waiting, r)
	j.byIndex[r.log.Index] = r.log
	j.lacking += len(r.log.Data)
	j.cover(r.log)
}

// cover notes which segment an entry needs, as raft.db has it. The caller holds mu, if others know j.
func (j *journal) cover(l *raft.Log) {
	if !outside(l) {
		return
	}
	if p, ok := readPosition(l.Data); ok && j.segments[p.segment] != nil {
		j.segments[p.segment].cover(l.Index)
	} // else the reading of the entry will say so
}

// FirstIndex is the first index in the log, 0 for none.
func (j *journal) FirstIndex() (uint64, error) {
	j.mu.RLock()
	defer j.mu.RUnlock()
	n, err := j.bolt.FirstIndex()
	if err == nil && n == 0 && len(j.waiting) > 0 {
		n = j.waiting[0].log.Index
	}
	return n, err
}

// LastIndex is the last index in the log, 0 for none.
func (j *journal) LastIndex() (uint64, error) {
	j.mu.RLock()
	defer j.mu.RUnlock()
	n, err := j.bolt.LastIndex()
	if last := len(j.waiting) - 1; err == nil && last >= 0 {
		n = max(n, j.waiting[last].log.Index)
	}
	return n, err
}

// GetLog reads an entry.
func (j *journal) GetLog(index uint64, l *raft.Log) error {
	j.mu.RLock()
	defer j.mu.RUnlock()
	if kept := j.byIndex[index]; kept != nil {
		*l = *kept
	} else if err := j.bolt.GetLog(index, l); err != nil {
		return err
	}
	var err error
	if outside(l) {
		l.Data, err = j.read(l.Data)
	}
	if recordOf(l) != 0 || outside(l) {
		l.Extensions = slices.Clone(l.Extensions[:min(checksumBytes, len(l.Extensions))])
		l.Extensions[0] = checksumMark
	}
	return err
}

// read reads what is at a position. The caller holds mu.
func (j *journal) read(at []byte) ([]byte, error) {
	p, ok := readPosition(at)
	s := j.segments[p.segment]
	if !ok || s == nil {
		return nil, fmt.Errorf("no data at position %x", at)
	}
	info, err := s.file.Stat()
	if err == nil && p.offset+int64(p.length) > info.Size() {
		return nil, fmt.Errorf("position %x is beyond the end of the file", at)
	}
	var data []byte
	if err == nil {
		data = make([]byte, p.length)
		_, err = s.file.ReadAt(data, p.offset)
	}
	if errors.Is(err, fs.ErrClosed) {
		return nil, bbolterrors.ErrDatabaseNotOpen
	} else if err != nil {
		return nil, fmt.Errorf("read data: %w", err)
	}
	return data, nil
}

// DeleteRange removes the entries from lo to hi, both included. raft.db has all entries then.
func (j *journal) DeleteRange(lo, hi uint64) error {
	j.writes.Lock()
	defer j.writes.Unlock()
	if err := errors.Join(j.restart(), j.file()); err != nil {
		return err
	}
	if err := j.note(head{kind: recordDeletion, index: lo, term: hi, at: noTime}); err != nil {
		j.undo()
		return fmt.Errorf("note the deletion of %d to %d: %w", lo, hi, err)
	}
	j.filing.Lock()
	defer j.filing.Unlock()
	if err := j.bolt.DeleteRange(lo, hi); err != nil {
		j.undo() // or it would be done after all, under what is stored next
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.filed = j.last.seq
	for _, s := range j.segments {
		s.drop(lo, hi)
	}
	j.sweep()
	return nil
}

// note writes a record that is no entry's. It says that raft.db has what stands before it: a deletion without it would have that
// done once more, after it, if the process ended now.
func (j *journal) note(h head) error {
	j.mu.RLock()
	j.saidFiled = j.filed
	j.mu.RUnlock()
	if _, err := j.add(h, nil, nil); err != nil {
		return err
	}
	return j.settle()
}

// Close brings raft.db up to date, if that can be done, and closes all files.
func (j *journal) Close() error {
	j.once.Do(func() { close(j.stop) })
	<-j.stopped
	_ = j.sign() // nothing depends on it
	return errors.Join(j.bolt.Close(), j.closeFiles())
}

// sign brings raft.db up to date and says so in the journal.
func (j *journal) sign() error {
	j.writes.Lock()
	defer j.writes.Unlock()
	failed := j.void != 0
	if err := errors.Join(j.restart(), j.file()); err != nil {
		return err
	}
	if j.at == nil && !failed {
		return nil // nothing was stored since it was opened
	}
	return j.note(head{kind: recordNote, at: noTime})
}

func (j *journal) closeFiles() (err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, s := range j.segments {
		err = errors.Join(err, s.file.Close())
	}
	return err
}
