package eventlog

import (
	"encoding/binary"
	"slices"

	bolt "go.etcd.io/bbolt"
)

// Records under consecutive numbers share values of a bucket: what bbolt does for a value costs more than a record's bytes.
//
//	key    number of the first record, 8 bytes, big endian
//	value  checksum of key and index | index: where each record ends, 4 bytes each, after their count | the records
//
// Every record carries a checksum of its own over its number and bytes, so that one that is bad costs no other. A bad index
// costs its block.
const (
	// blockBytes and blockRecords bound a block of more than one record. A leaf of bbolt holds at least two values however large
	// they are, and is written anew with the next one: larger blocks would be written several times. Two of these fill eight
	// pages, beside what a leaf has of its own.
	blockBytes   = 16<<10 - 32
	blockRecords = 256
)

// body is what a record is stored as.
type body interface {
	bodySize() int
	appendBody(b []byte) []byte
}

// block is a stored run of records. Its bytes are bbolt's.
type block struct {
	first uint64
	ends  []byte
	data  []byte
}

func (k block) count() uint64 { return uint64(len(k.ends) / 4) }

func (k block) last() uint64 { return k.first + k.count() - 1 }

func (k block) has(n uint64) bool { return n >= k.first && n-k.first < k.count() }

// sealed is the value of record n, which the block must have.
func (k block) sealed(n uint64) []byte {
	i := n - k.first
	return k.data[k.end(i):k.end(i+1):k.end(i+1)]
}

// end is where the first i records end.
func (k block) end(i uint64) uint32 {
	if i == 0 {
		return 0
	}
	return binary.BigEndian.Uint32(k.ends[4*(i-1):])
}

// readBlock takes a stored block apart. It says false when its index fails the check.
func readBlock(key, v []byte, crc bool) (block, bool) {
	if len(key) != 8 || len(v) < crcSize+4 {
		return block{}, false
	}
	count := uint64(binary.BigEndian.Uint32(v[crcSize:]))
	if count == 0 || count > uint64(len(v)-crcSize-4)/4 {
		return block{}, false
	}
	index := v[crcSize : crcSize+4+4*count]
	if crc && binary.BigEndian.Uint32(v) != checksum(key, index) {
		return block{}, false
	}
	k := block{first: binary.BigEndian.Uint64(key), ends: index[4:], data: v[crcSize+len(index):]}
	before := uint32(0)
	for i := uint64(1); i <= count; i++ {
		if k.end(i) < before {
			return block{}, false
		}
		before = k.end(i)
	}
	if uint64(before) != uint64(len(k.data)) || k.first+count < k.first {
		return block{}, false
	}
	return k, true
}

// reader finds records by their numbers. It is good for one transaction.
type reader struct {
	b   *bolt.Bucket
	crc bool // look at checksums; only a broken variant does not
	at  block
}

func readRecords(b *bolt.Bucket, crc bool) *reader { return &reader{b: b, crc: crc} }

// get is the sealed value of record n, nil when there is none that can be found. It remembers the block.
func (r *reader) get(n uint64) []byte {
	if !r.at.has(n) {
		c := r.b.Cursor()
		key, v := blockOf(c, n)
		var ok bool
		if r.at, ok = readBlock(key, v, r.crc); ok {
			// A wrong key may have brought a block in between. What it hides must be missed from whichever side one comes.
			if next, _ := c.Next(); next != nil && r.at.has(numberOf(next)) {
				r.at.ends = r.at.ends[:4*(numberOf(next)-r.at.first)]
			}
		}
		if !ok || !r.at.has(n) {
			r.at = block{}
			return nil
		}
	}
	return r.at.sealed(n)
}

// blockOf is the stored block with the highest first number that is not above n. It leaves the cursor there.
func blockOf(c *bolt.Cursor, n uint64) (key, v []byte) {
	want := beKey(n)
	key, v = c.Seek(want)
	switch {
	case key == nil:
		if first, _ := c.First(); first == nil {
			return nil, nil // in a bucket that was emptied in the same transaction bbolt never returns from Last
		}
		return c.Last()
	case string(key) == string(want):
		return key, v
	}
	return c.Prev()
}

// blockWriter stores records. It keeps its memory from one transaction to the next, so it must not be used by two at once.
type blockWriter struct{ buf []byte }

const blockWriterKeeps = 512 << 10

// room makes the memory for as many records in a row, none of which may be moved until the transaction has ended.
func (w *blockWriter) room(records, bytes int) {
	need := bytes + records*(crcSize+4)
	blocks := records/blockRecords + 2*need/blockBytes + 1 // of two in a row at least one half is full
	need += blocks * (crcSize + 4)
	if cap(w.buf) < need || cap(w.buf) > max(need, blockWriterKeeps) {
		w.buf = make([]byte, 0, need)
	}
	w.buf = w.buf[:0]
}

// putRecords stores records from number first on; none of them may be stored yet. size is what they count. The writer's
// memory is in use until the transaction has ended.
func putRecords[T body](w *blockWriter, b *bolt.Bucket, first uint64, records []T) (size int64, err error) {
	all := 0
	for _, rec := range records {
		all += rec.bodySize()
	}
	w.room(len(records), all)
	b.FillPercent = 1 // numbers only grow
	for len(records) > 0 {
		n, bytes := 0, 0
		for n < len(records) && n < blockRecords {
			more := crcSize + records[n].bodySize()
			if n > 0 && crcSize+4+4*(n+1)+bytes+more > blockBytes {
				break
			}
			bytes += more
			n++
		}
		start := len(w.buf)
		w.buf = appendBlock(w.buf, first, records[:n])
		if err := b.Put(beKey(first), w.buf[start:len(w.buf):len(w.buf)]); err != nil {
			return size, err
		}
		size += int64(bytes)
		first, records = first+uint64(n), records[n:]
	}
	return size, nil
}

// appendBlock appends the value of one block of records.
func appendBlock[T body](b []byte, first uint64, records []T) []byte {
	start := len(b)
	b = append(b, make([]byte, crcSize+4+4*len(records))...)
	data := len(b)
	var key [8]byte
	for i, rec := range records {
		from := len(b)
		b = append(b, make([]byte, crcSize)...)
		b = rec.appendBody(b)
		binary.BigEndian.PutUint64(key[:], first+uint64(i))
		binary.BigEndian.PutUint32(b[from:], checksum(key[:], b[from+crcSize:]))
		binary.BigEndian.PutUint32(b[start+crcSize+4+4*i:], uint32(len(b)-data))
	}
	binary.BigEndian.PutUint32(b[start+crcSize:], uint32(len(records)))
	binary.BigEndian.PutUint64(key[:], first)
	binary.BigEndian.PutUint32(b[start:], checksum(key[:], b[start+crcSize:data]))
	return b
}

// sealedRun are records of a block as they stand, good or bad.
type sealedRun struct {
	block
	from, to uint64
}

// value is a block of them alone. Their own checksums are kept as they are.
func (s sealedRun) value() []byte {
	begin, end := s.end(s.from-s.first), s.end(s.to-s.first+1)
	count := int(s.to - s.from + 1)
	b := make([]byte, crcSize+4, crcSize+4+4*count+int(end-begin))
	binary.BigEndian.PutUint32(b[crcSize:], uint32(count))
	for n := s.from; n <= s.to; n++ {
		b = binary.BigEndian.AppendUint32(b, s.end(n-s.first+1)-begin)
	}
	binary.BigEndian.PutUint32(b, checksum(beKey(s.from), b[crcSize:]))
	return append(b, s.data[begin:end]...)
}

// dropBefore removes all records below number n, of which n−1 must be readable. The block in which n lies keeps the rest.
// Blocks that fail the check go whole: they are none that a record from n on could be found by.
func dropBefore(b *bolt.Bucket, n uint64) error {
	return dropBlocks(b, func(key []byte) bool { return string(key) < string(beKey(n)) }, func(k block) (sealedRun, bool) {
		return sealedRun{k, n, k.last()}, k.has(n)
	})
}

// dropAfter removes all records above number n, which must be readable unless none up to n is kept. Blocks that fail the check
// and lie between the one with n and the rest go, too: a bad key has brought them there.
func dropAfter(b *bolt.Bucket, n uint64) error {
	var stray [][]byte
	c := b.Cursor()
	for key, v := blockOf(c, n); key != nil; key, v = c.Prev() {
		k, ok := readBlock(key, v, true)
		if !ok {
			stray = append(stray, slices.Clone(key))
			continue
		}
		if k.has(n) && n < k.last() {
			if err := b.Put(key, sealedRun{k, k.first, n}.value()); err != nil {
				return err
			}
		}
		break
	}
	for _, key := range stray {
		if err := b.Delete(key); err != nil {
			return err
		}
	}
	return dropBlocks(b, func(key []byte) bool { return string(key) > string(beKey(n)) }, nil)
}

// replaceRecords stores good records in the place of whatever stands from number first on to the last of them.
func replaceRecords[T body](w *blockWriter, b *bolt.Bucket, first uint64, records []T) error {
	end := beKey(first + uint64(len(records)))
	var old [][]byte
	c := b.Cursor()
	for key, _ := c.Seek(beKey(first)); key != nil && string(key) < string(end); key, _ = c.Next() {
		old = append(old, slices.Clone(key))
	}
	for _, key := range old {
		if err := b.Delete(key); err != nil {
			return err
		}
	}
	_, err := putRecords(w, b, first, records)
	return err
}

// storedBytes is what the records of a block count.
func storedBytes(key, v []byte) int64 {
	if k, ok := readBlock(key, v, true); ok {
		return int64(len(k.data))
	}
	return int64(len(v))
}

// dropBlocks deletes the blocks whose keys are meant; rest says what of one is to be stored again.
func dropBlocks(b *bolt.Bucket, meant func(key []byte) bool, rest func(k block) (sealedRun, bool)) error {
	// First look, then delete: bbolt's cursor never returns from Last on a bucket that was emptied in the same transaction.
	var keys [][]byte
	var again *sealedRun
	c := b.Cursor()
	step := c.Next
	key, v := c.First()
	if key != nil && !meant(key) {
		step = c.Prev
		key, v = c.Last()
	}
	for ; key != nil && meant(key); key, v = step() {
		keys = append(keys, slices.Clone(key))
		if rest == nil {
			continue
		}
		if k, ok := readBlock(key, v, true); ok {
			if s, some := rest(k); some {
				again = &s
			}
		}
	}
	var kept []byte
	if again != nil {
		kept = again.value()
	}
	for _, key := range keys {
		if err := b.Delete(key); err != nil {
			return err
		}
	}
	if again == nil {
		return nil
	}
	return b.Put(beKey(again.from), kept)
}
