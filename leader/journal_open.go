package leader

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
)

// keyJournal is where raft.db has the id of its journal, and the checksum of it. A raft.db that was made anew takes up nothing of
// what was written for another.
var keyJournal = []byte("ring/journal")

// openJournal opens or creates the folder journal in dir, beside db, and brings db up to date. What is wrong with entries
// that db has is told when they are read.
func openJournal(dir string, db bolt, size journalSizes) (*journal, error) {
	j := newJournal(dir, db, size)
	if err := j.start(); err != nil {
		return nil, errors.Join(err, j.closeFiles())
	}
	return j, nil
}

func (j *journal) start() error {
	if err := j.open(); err != nil {
		return err
	}
	anew, err := j.identify()
	if err != nil {
		return err
	}
	if err := j.redo(anew); err != nil {
		return err
	}
	if err := j.find(); err != nil {
		return err
	}
	if anew {
		if err := j.introduce(); err != nil {
			return err
		}
	}
	j.sweep()
	go j.keepFiling()
	return nil
}

func newJournal(dir string, db bolt, size journalSizes) *journal {
	return &journal{
		bolt: db, dir: filepath.Join(dir, journalFolder), size: size, sync: syncData, syncDir: syncDir,
		segments: map[uint32]*segment{}, byIndex: map[uint64]*raft.Log{},
		kick: make(chan struct{}, 1), full: make(chan struct{}, 1), stop: make(chan struct{}), stopped: make(chan struct{}),
	}
}

// open opens what files there are. It syncs the names that it finds: who made them may have ended before that.
func (j *journal) open() error {
	// Builds that kept but the data of large entries had it here.
	if _, err := os.Stat(j.dir); errors.Is(err, fs.ErrNotExist) {
		if err := os.Rename(filepath.Join(filepath.Dir(j.dir), formerFolder), j.dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := os.Mkdir(j.dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	for _, dir := range []string{filepath.Dir(j.dir), j.dir} {
		if err := j.syncDir(dir); err != nil {
			return err
		}
	}
	entries, err := os.ReadDir(j.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		n, err := strconv.ParseUint(e.Name(), 10, 32)
		if err != nil || j.path(uint32(n)) != filepath.Join(j.dir, e.Name()) {
			continue // not ours
		}
		f, err := os.OpenFile(j.path(uint32(n)), os.O_RDWR, 0o600)
		if err != nil {
			return err
		}
		s := &segment{number: uint32(n), file: f}
		j.segments[s.number] = s
		info, err := f.Stat()
		if err != nil {
			return err
		}
		s.made = info.Size()
	}
	return nil
}

// identify reads the journal's id. If raft.db has none, the journal is new.
func (j *journal) identify() (anew bool, err error) {
	b, err := j.bolt.Get(keyJournal)
	switch {
	case errors.Is(err, raftboltdb.ErrKeyNotFound):
		j.id = rand.Uint64()
		return true, nil
	case err != nil:
		return false, fmt.Errorf("read %s: %w", keyJournal, err)
	case len(b) != 12 || binary.LittleEndian.Uint32(b[8:]) != crc32.Checksum(b[:8], castagnoli()):
		return false, fmt.Errorf("read %s: %w", keyJournal, ErrCorrupt)
	}
	j.id = binary.LittleEndian.Uint64(b)
	return false, nil
}

// introduce begins a new journal with a record, and has raft.db know it then: a journal that is known and has no record was lost.
func (j *journal) introduce() error {
	j.writes.Lock()
	defer j.writes.Unlock()
	if err := j.note(head{kind: recordNote, at: noTime}); err != nil {
		return fmt.Errorf("begin a journal: %w", err)
	}
	b := binary.LittleEndian.AppendUint64(nil, j.id)
	if err := j.bolt.Set(keyJournal, binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli()))); err != nil {
		return fmt.Errorf("store %s: %w", keyJournal, err)
	}
	return nil
}

// written is what a segment has: its records from first to last, up to offset end.
type written struct {
	*segment
	first, last uint64
	end         int64
}

// redo does in raft.db what the records say that it does not have, or may not have, and goes on behind the newest record. On a full
// disk what is to be stored waits, as ever, and is brought there before anything else is stored.
func (j *journal) redo(anew bool) error {
	var found []written
	var filed, synced, newest uint64
	for _, s := range j.segments {
		w := written{segment: s}
		end, err := s.walk(j.id, func(h head, _ uint32, _ int64) bool {
			if w.first == 0 {
				w.first = h.seq
			}
			w.last = h.seq
			filed, synced = max(filed, h.filed), max(synced, h.synced)
			return true
		})
		if err != nil {
			return err
		}
		w.end = end
		s.seq = w.last
		newest = max(newest, w.last)
		found = append(found, w)
	}
	known, err := j.known()
	if err != nil {
		return err
	}
	if newest < known || newest == 0 && !anew {
		return fmt.Errorf("the journal ends at record %d, and %s has more: %w", newest, storeFile, ErrCorrupt)
	}
	slices.SortFunc(found, func(a, b written) int { return cmp.Compare(a.first, b.first) })
	r := replay{j: j, next: filed + 1}
	for _, w := range found {
		if w.last < r.next {
			continue
		}
		if w.first > r.next {
			break
		}
		// A process that ended between a write and its sync left records that are read, and that the next power cut takes away.
		if err := j.sync(w.file); err != nil {
			return fmt.Errorf("sync segment %d: %w", w.number, err)
		}
		if err := r.segment(w.segment); err != nil {
			return err
		}
		if r.next <= w.last {
			break
		}
	}
	// What ends the journal was being written when the process ended, unless a record that is there knows better.
	for _, w := range found {
		if w.last+1 != r.next && w.first != 0 {
			continue
		}
		s, n, err := w.beyond(j.id, w.end)
		if err != nil {
			return err
		}
		synced, newest = max(synced, s), max(newest, n)
	}
	if synced >= r.next {
		return fmt.Errorf("record %d of the journal cannot be read, and was on disk: %w", r.next, ErrCorrupt)
	}
	j.last.seq = max(newest, r.next-1)
	j.settled, j.told, j.filed = j.last, filed, filed
	switch err := j.file(); {
	case err == nil:
		j.filed = j.last.seq
	case noRoom(err):
		j.void = j.last.seq
	default:
		return err
	}
	return nil
}

// noRoom says that a disk or a quota is used up.
func noRoom(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }

// known is the number of the last record of which raft.db knows; one that cannot be read is left to who reads the log.
func (j *journal) known() (uint64, error) {
	last, err := j.bolt.LastIndex()
	if err != nil {
		return 0, fmt.Errorf("find last entry: %w", err)
	}
	var l raft.Log
	if last == 0 || j.bolt.GetLog(last, &l) != nil {
		return 0, nil
	}
	return recordOf(&l), nil
}

// walk calls do for the records of journal id that a segment begins with, with the sum of each head and where it is, for as long
// as do says. It tells where the last of them ends. The data behind the heads is not looked at.
func (s *segment) walk(id uint64, do func(h head, sum uint32, at int64) bool) (end int64, err error) {
	var before mark
	var b [headBytes]byte
	for {
		if _, err := s.file.ReadAt(b[:], end); errors.Is(err, io.EOF) {
			return end, nil
		} else if err != nil {
			return end, fmt.Errorf("read segment %d: %w", s.number, err)
		}
		h, sum, ok := readHead(b[:], id)
		if !ok || before.seq != 0 && (h.seq != before.seq+1 || h.before != before.sum) || end+headBytes+int64(h.length) > s.made {
			return end, nil
		}
		if !do(h, sum, end) {
			return end, nil
		}
		before, end = mark{h.seq, sum}, end+headBytes+int64(h.length)
	}
}

// beyond looks from offset on for heads of journal id that stand alone, and says what the newest record is that they have, or know
// to have been on disk.
func (s *segment) beyond(id uint64, offset int64) (synced, newest uint64, err error) {
	if offset >= s.made {
		return 0, 0, nil
	}
	b := make([]byte, s.made-offset)
	if _, err := s.file.ReadAt(b, offset); err != nil && !errors.Is(err, io.EOF) {
		return 0, 0, fmt.Errorf("read segment %d: %w", s.number, err)
	}
	const idAt = 24
	wanted := binary.LittleEndian.AppendUint64(nil, id)
	for from := idAt; from < len(b); {
		i := bytes.Index(b[from:], wanted)
		if i < 0 {
			break
		}
		if h, _, ok := readHead(b[from+i-idAt:], id); ok {
			synced, newest = max(synced, h.synced), max(newest, h.seq)
		}
		from += i + 1
	}
	return synced, newest, nil
}

// replay does in raft.db what records say.
type replay struct {
	j      *journal
	next   uint64 // the record that is to be done next
	before mark   // the one before it, if it was seen
}

// segment does what follows in a segment. It ends at a record that is not whole or not the next.
func (r *replay) segment(s *segment) (err error) {
	_, walked := s.walk(r.j.id, func(h head, sum uint32, at int64) bool {
		if h.seq < r.next {
			return true
		}
		if h.seq != r.next || r.before.seq != 0 && h.before != r.before.sum {
			return false
		}
		body := make([]byte, h.length)
		if _, err = s.file.ReadAt(body, at+headBytes); err != nil {
			err = fmt.Errorf("read segment %d: %w", s.number, err)
			return false
		}
		if crc32.Checksum(body, castagnoli()) != h.body {
			return false
		}
		if err = r.do(&h, body, position{s.number, h.length - uint32(h.ext), at + headBytes + int64(h.ext)}); err != nil {
			return false
		}
		r.before, r.next = mark{h.seq, sum}, h.seq+1
		return true
	})
	return errors.Join(err, walked)
}

func (r *replay) do(h *head, body []byte, p position) error {
	switch h.kind {
	case recordEntry:
		r.j.wait(r.j.rowOf(h.seq, h.entry(body), p))
		return nil
	case recordDeletion:
		if err := r.j.file(); err != nil {
			return err
		}
		// What stands behind a deletion was written once that was done. Of one that was not done nobody was told that it was.
		if err := r.j.bolt.DeleteRange(h.index, h.term); err != nil && !noRoom(err) {
			return fmt.Errorf("delete %d to %d again: %w", h.index, h.term, err)
		}
		return nil
	case recordNote:
		return nil
	}
	return fmt.Errorf("record %d of the journal is of a kind %d that this build does not know", h.seq, h.kind)
}

// find looks through the log for what the segments are needed for. Of a log with a hole or with an entry that cannot be read it
// is not known, and all are kept until that log is cleared; who reads it is told. A wrong index may be very far from the others:
// the look ends at the first fault.
func (j *journal) find() error {
	first, err := j.bolt.FirstIndex()
	if err != nil {
		return fmt.Errorf("find first entry: %w", err)
	}
	last, err := j.bolt.LastIndex()
	if err != nil {
		return fmt.Errorf("find last entry: %w", err)
	}
	for i := first; i != 0 && i <= last; i++ {
		var l raft.Log
		if err := j.bolt.GetLog(i, &l); err != nil {
			for _, s := range j.segments {
				s.cover(first)
				s.cover(last)
			}
			return nil
		}
		j.cover(&l)
	}
	return nil
}
