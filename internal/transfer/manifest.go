package transfer

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"

	"github.com/ringagent/ringagent/internal/id"
)

// manifest is the size of a file and the hash of each of its chunks; all but the last chunk have ChunkSize bytes.
type manifest struct {
	size   int64
	chunks [][hashSize]byte
}

func chunkCount(size int64) int64 { return (size + ChunkSize - 1) / ChunkSize }

// chunkLen is the length of chunk i in bytes.
func (m manifest) chunkLen(i int) int {
	return int(min(ChunkSize, m.size-int64(i)*ChunkSize))
}

func (m manifest) encode() []byte {
	b := make([]byte, 0, 8+hashSize*len(m.chunks))
	b = binary.BigEndian.AppendUint64(b, uint64(m.size))
	for _, c := range m.chunks {
		b = append(b, c[:]...)
	}
	return b
}

// decodeManifest refuses a size outside [0, maxBytes] and a number of hashes that does not fit the size.
func decodeManifest(b []byte, maxBytes int64) (manifest, error) {
	if len(b) < 8 {
		return manifest{}, fmt.Errorf("manifest of %d bytes: %w", len(b), ErrLied)
	}
	size := binary.BigEndian.Uint64(b)
	if size > uint64(maxBytes) {
		return manifest{}, fmt.Errorf("manifest says %d bytes, limit %d: %w", size, maxBytes, ErrLied)
	}
	m := manifest{size: int64(size)}
	if int64(len(b)-8) != chunkCount(m.size)*hashSize {
		return manifest{}, fmt.Errorf("manifest of %d bytes for a file of %d: %w", len(b), size, ErrLied)
	}
	m.chunks = make([][hashSize]byte, chunkCount(m.size))
	for i := range m.chunks {
		copy(m.chunks[i][:], b[8+i*hashSize:])
	}
	return m, nil
}

// maxManifest is the length of the largest manifest that decodeManifest accepts.
func maxManifest(maxBytes int64) int64 { return 8 + chunkCount(maxBytes)*hashSize }

// errDamagedHere says that our own copy does not have its digest.
var errDamagedHere = errors.New("local copy is damaged")

// computeManifest reads the whole file once and checks its digest on the way: wrong bytes are not offered to anybody.
func computeManifest(ctx context.Context, f io.Reader, d id.Digest) (manifest, error) {
	whole := sha256.New()
	var m manifest
	buf := make([]byte, ChunkSize)
	for {
		if err := ctx.Err(); err != nil {
			return manifest{}, err
		}
		n, err := io.ReadFull(f, buf)
		if n > 0 {
			whole.Write(buf[:n])
			m.chunks = append(m.chunks, sha256.Sum256(buf[:n]))
			m.size += int64(n)
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			break
		}
		if err != nil {
			return manifest{}, err
		}
	}
	if got := hex.EncodeToString(whole.Sum(nil)); got != string(d) {
		return manifest{}, fmt.Errorf("it hashes to %.12s: %w", got, errDamagedHere)
	}
	return m, nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// saveManifest caches a manifest. It is derived data: without fsync, checked when it is read.
func saveManifest(path string, m manifest) error {
	b := m.encode()
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}

// loadManifest returns the cached manifest if there is a whole one for a file of that size.
func loadManifest(path string, size, maxBytes int64) (manifest, bool) {
	info, err := os.Stat(path)
	if err != nil || info.Size() > maxManifest(maxBytes)+4 {
		return manifest{}, false
	}
	b, err := os.ReadFile(path)
	if err != nil || len(b) < 4 {
		return manifest{}, false
	}
	body := b[:len(b)-4]
	if crc32.Checksum(body, castagnoli) != binary.BigEndian.Uint32(b[len(b)-4:]) {
		return manifest{}, false
	}
	m, err := decodeManifest(body, maxBytes)
	return m, err == nil && m.size == size
}
