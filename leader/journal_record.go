package leader

import (
	"encoding/binary"
	"hash/crc32"
	"math"
	"time"

	"github.com/hashicorp/raft"
)

// headBytes is the size of a head.
const headBytes = 80

const (
	recordEntry    = 1
	recordDeletion = 2
	recordNote     = 3 // nothing but its head
)

// head stands before what a journal has for an entry, or alone for a deletion.
//
//	sum     4  CRC32C of the rest of the head
//	before  4  sum of the record before this one, so that what is left of an earlier writing is not taken for what follows
//	body    4  CRC32C of what follows the head
//	length  4  of what follows: Extensions, then Data
//	kind, type, ext  1, 1, 2  a record… constant, raft's type of the entry, how much of length is Extensions; then 4 unused
//	journal, seq, filed, synced, index, term, at  8 each
//
// All little endian. No record but the last few of a journal can be bad without a later one whose synced says so.
type head struct {
	before, body, length uint32
	kind, typ            byte
	ext                  uint16
	journal              uint64 // whose record it is
	seq                  uint64 // of the record, without a gap
	filed                uint64 // up to this record raft.db was up to date when it was written
	synced               uint64 // up to this record all were on disk
	index, term          uint64 // of a deletion: its first and its last index
	at                   int64  // the entry's AppendedAt, unix nanoseconds; noTime: none
}

const noTime = math.MinInt64

// appendHead appends a head and returns its sum.
func appendHead(b []byte, h *head) ([]byte, uint32) {
	start := len(b)
	b = binary.LittleEndian.AppendUint32(b, 0)
	for _, v := range []uint32{h.before, h.body, h.length} {
		b = binary.LittleEndian.AppendUint32(b, v)
	}
	b = append(b, h.kind, h.typ)
	b = binary.LittleEndian.AppendUint16(b, h.ext)
	b = binary.LittleEndian.AppendUint32(b, 0)
	for _, v := range []uint64{h.journal, h.seq, h.filed, h.synced, h.index, h.term, uint64(h.at)} {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	sum := crc32.Checksum(b[start+4:], castagnoli())
	binary.LittleEndian.PutUint32(b[start:], sum)
	return b, sum
}

// readHead reads a head of the journal with this id, and its sum.
func readHead(b []byte, journal uint64) (h head, sum uint32, ok bool) {
	if len(b) < headBytes {
		return head{}, 0, false
	}
	b = b[:headBytes]
	u32 := func(i int) uint32 { return binary.LittleEndian.Uint32(b[i:]) }
	u64 := func(i int) uint64 { return binary.LittleEndian.Uint64(b[i:]) }
	h = head{
		before: u32(4), body: u32(8), length: u32(12), kind: b[16], typ: b[17], ext: binary.LittleEndian.Uint16(b[18:]),
		journal: u64(24), seq: u64(32), filed: u64(40), synced: u64(48), index: u64(56), term: u64(64), at: int64(u64(72)),
	}
	sum = u32(0)
	ok = h.journal == journal && uint32(h.ext) <= h.length && sum == crc32.Checksum(b[4:], castagnoli())
	return h, sum, ok
}

// entry is what a record says of an entry with these bytes behind its head.
func (h *head) entry(body []byte) *raft.Log {
	l := &raft.Log{
		Index: h.index, Term: h.term, Type: raft.LogType(h.typ), Extensions: body[:h.ext:h.ext], Data: body[h.ext:],
	}
	if h.at != noTime {
		l.AppendedAt = time.Unix(0, h.at)
	}
	return l
}

// headOf is the head for an entry, as far as the entry says it.
func headOf(l *raft.Log) head {
	h := head{
		kind: recordEntry, typ: byte(l.Type), index: l.Index, term: l.Term, at: noTime,
		ext: uint16(len(l.Extensions)), length: uint32(len(l.Extensions) + len(l.Data)),
		body: crc32.Update(crc32.Checksum(l.Extensions, castagnoli()), castagnoli(), l.Data),
	}
	if !l.AppendedAt.IsZero() {
		h.at = l.AppendedAt.UnixNano()
	}
	return h
}

// castagnoli is the table of CRC32C, which the standard library makes once.
func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }
