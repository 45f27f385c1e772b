package transfer

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/ringagent/ringagent/internal/id"
)

// partial is a file that is still arriving, with a record of the chunks that are in it. The record is a hint: marked chunks
// are hashed again when a fetch goes on, so neither of the two files needs an fsync, and nothing in them is believed.
//
//	record = magic(8) digest(32) length(8) manifest(length) crc32c(4) mark…      one byte per chunk, 1 if it is there
type partial struct {
	digest   id.Digest
	manifest manifest
	have     []bool
	data     *os.File
	record   *os.File
	marks    int64 // offset of the first mark
}

const recordMagic = "RINGPRT1"

func partialPaths(dir string, d id.Digest) (data, record string) {
	base := filepath.Join(dir, string(d))
	return base + ".part", base + ".have"
}

// openPartial begins or goes on with a file. Chunks that an earlier attempt left and that m confirms are kept, whatever
// manifest that attempt had.
func openPartial(dir string, d id.Digest, m manifest, maxBytes int64) (*partial, error) {
	dataPath, recordPath := partialPaths(dir, d)
	p := &partial{digest: d, manifest: m, have: make([]bool, len(m.chunks))}
	// No link is followed, and nothing but a regular file is written to.
	data, err := os.OpenFile(dataPath, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, err
	}
	p.data = data
	old := readRecord(recordPath, d, maxBytes)
	if err := p.begin(old, recordPath); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

func (p *partial) begin(old []bool, recordPath string) error {
	info, err := p.data.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is no regular file", p.data.Name())
	}
	p.recheck(old, info.Size())
	if err := p.data.Truncate(p.manifest.size); err != nil {
		return err
	}
	return p.writeRecord(recordPath)
}

// recheck hashes the chunks that the old record marks.
func (p *partial) recheck(marked []bool, size int64) {
	buf := make([]byte, ChunkSize)
	for i := range min(len(marked), len(p.have)) {
		n := p.manifest.chunkLen(i)
		if !marked[i] || int64(i)*ChunkSize+int64(n) > size {
			continue
		}
		if _, err := p.data.ReadAt(buf[:n], int64(i)*ChunkSize); err != nil {
			continue // a bad spot on the disk: it is written anew, or that fails
		}
		p.have[i] = sha256.Sum256(buf[:n]) == p.manifest.chunks[i]
	}
}

func (p *partial) writeRecord(path string) error {
	raw, err := hex.DecodeString(string(p.digest))
	if err != nil {
		return err
	}
	body := p.manifest.encode()
	b := append([]byte(recordMagic), raw...)
	b = binary.BigEndian.AppendUint64(b, uint64(len(body)))
	b = append(b, body...)
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	p.marks = int64(len(b))
	for _, h := range p.have {
		mark := byte(0)
		if h {
			mark = 1
		}
		b = append(b, mark)
	}
	if p.record, err = os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*"); err != nil {
		return err
	}
	if _, err = p.record.Write(b); err == nil {
		err = os.Rename(p.record.Name(), path)
	}
	if err != nil {
		_ = os.Remove(p.record.Name())
	}
	return err
}

// readRecord returns the marks of an earlier attempt, nothing if the record is damaged or of another artifact.
func readRecord(path string, d id.Digest, maxBytes int64) []bool {
	const head = len(recordMagic) + hashSize + 8
	info, err := os.Lstat(path)
	if err != nil || !info.Mode().IsRegular() || info.Size() > int64(head)+maxManifest(maxBytes)+4+chunkCount(maxBytes) {
		return nil
	}
	b, err := os.ReadFile(path)
	raw, derr := hex.DecodeString(string(d))
	if err != nil || derr != nil || len(b) < head || string(b[:8]) != recordMagic || !bytes.Equal(b[8:8+hashSize], raw) {
		return nil
	}
	length := binary.BigEndian.Uint64(b[8+hashSize:])
	if length > uint64(len(b)-head) || len(b) < head+int(length)+4 {
		return nil
	}
	end := head + int(length)
	if crc32.Checksum(b[:end], castagnoli) != binary.BigEndian.Uint32(b[end:]) {
		return nil
	}
	marks := make([]bool, 0, len(b)-end-4)
	for _, c := range b[end+4:] {
		marks = append(marks, c == 1)
	}
	return marks
}

// put writes a chunk whose hash has been compared.
func (p *partial) put(i int, b []byte) error {
	if _, err := p.data.WriteAt(b, int64(i)*ChunkSize); err != nil {
		return err
	}
	if _, err := p.record.WriteAt([]byte{1}, p.marks+int64(i)); err != nil {
		return err
	}
	p.have[i] = true
	return nil
}

// missing returns the first run of chunks that are not there, at most maxRun of them; count 0 means that all are.
func (p *partial) missing() (first, count int) {
	for first < len(p.have) && p.have[first] {
		first++
	}
	for first+count < len(p.have) && !p.have[first+count] && count < maxRun {
		count++
	}
	return first, count
}

// count is how many chunks are there.
func (p *partial) count() int {
	n := 0
	for _, h := range p.have {
		if h {
			n++
		}
	}
	return n
}

// lacking is how many bytes are not there.
func (p *partial) lacking() int64 {
	n := int64(0)
	for i, h := range p.have {
		if !h {
			n += int64(p.manifest.chunkLen(i))
		}
	}
	return n
}

func (p *partial) Close() {
	_ = p.data.Close() // what is in the files is checked before it is used
	if p.record != nil {
		_ = p.record.Close()
	}
}

// discardPartial removes both files of an artifact's earlier attempt.
func discardPartial(dir string, d id.Digest) error {
	data, record := partialPaths(dir, d)
	var err error
	for _, p := range []string{data, record} {
		if e := os.Remove(p); e != nil && !errors.Is(e, os.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	return err
}

// Sweep removes half-fetched files that nobody has touched for the given time, and anything in the directory that is none. It
// returns how many files went. Call it with an age that no fetch under way can reach.
func Sweep(dir string, older time.Duration, now time.Time) (int, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, fmt.Errorf("sweep half-fetched files: %w", err)
	}
	n := 0
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			continue // gone meanwhile
		}
		name, suffix, _ := strings.Cut(e.Name(), ".")
		_, bad := id.ParseDigest(name)
		// A record has a longer name for a moment before it has its own.
		known := bad == nil && (suffix == "part" || suffix == "have" || strings.HasPrefix(suffix, "have.")) && info.Mode().IsRegular()
		if known && now.Sub(info.ModTime()) < older {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return n, fmt.Errorf("sweep half-fetched files: %w", err)
		}
		n++
	}
	return n, nil
}
