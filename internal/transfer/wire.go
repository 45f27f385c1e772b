package transfer

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"github.com/ringagent/ringagent/internal/id"
)

// ChunkSize is the unit of verification and resumption in bytes.
const ChunkSize = 4 << 20

// DefaultMaxBytes bounds one artifact unless Options say otherwise.
const DefaultMaxBytes = 64 << 30

// The protocol: the client sends requests of a fixed size, the server answers each in turn on the same connection.
//
//	request  = op(1) digest(32) first(4) count(4)        first and count are chunks, both 0 for a manifest
//	answer   = status(1) length(8) body(length)          the body of a failure is a text
//	manifest = size(8) hash(32)…                         as many hashes as the size has chunks
//
// Numbers are big-endian.
const (
	requestSize = 1 + hashSize + 4 + 4
	answerSize  = 1 + 8
	hashSize    = 32
	maxReason   = 512

	opManifest = 1
	opChunks   = 2

	statusOK       = 0
	statusNotFound = 1
	statusBusy     = 2
	statusRefused  = 3
	statusBroken   = 4
)

// maxRun is how many chunks one request may ask for.
const maxRun = 64

var (
	// ErrNotHeld is a holder's answer that it does not have the artifact.
	ErrNotHeld = errors.New("holder does not have the artifact")
	// ErrBusy is a holder's answer that it serves enough already.
	ErrBusy = errors.New("holder is busy")
	// ErrLied says that a holder sent what cannot be right: a manifest that contradicts itself or what is known, or a chunk
	// with another hash. Its own disk may be to blame.
	ErrLied = errors.New("holder sent wrong bytes")
	// ErrSlow says that a holder did not send within the time for progress.
	ErrSlow = errors.New("holder is too slow")
)

type request struct {
	op           byte
	digest       id.Digest
	first, count uint32
}

func (q request) encode() ([]byte, error) {
	raw, err := hex.DecodeString(string(q.digest))
	if err != nil || len(raw) != hashSize {
		return nil, fmt.Errorf("encode digest %.80q", q.digest)
	}
	b := make([]byte, 0, requestSize)
	b = append(b, q.op)
	b = append(b, raw...)
	b = binary.BigEndian.AppendUint32(b, q.first)
	return binary.BigEndian.AppendUint32(b, q.count), nil
}

func decodeRequest(b [requestSize]byte) request {
	return request{op: b[0], digest: id.Digest(hex.EncodeToString(b[1 : 1+hashSize])),
		first: binary.BigEndian.Uint32(b[1+hashSize:]), count: binary.BigEndian.Uint32(b[5+hashSize:])}
}

func answerHeader(status byte, length int64) []byte {
	return binary.BigEndian.AppendUint64([]byte{status}, uint64(length))
}

// readAnswer reads the header of an answer that must have exactly want bytes, or at most want if atMost is set. Failures
// come back as the errors above.
func readAnswer(r io.Reader, want int64, atMost bool) (int64, error) {
	var head [answerSize]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, err
	}
	length := binary.BigEndian.Uint64(head[1:])
	if head[0] != statusOK {
		if length > maxReason {
			return 0, fmt.Errorf("reason of %d bytes: %w", length, ErrLied)
		}
		text := make([]byte, length)
		if _, err := io.ReadFull(r, text); err != nil {
			return 0, err
		}
		return 0, failure(head[0], string(text))
	}
	if length > uint64(want) || (!atMost && length != uint64(want)) {
		return 0, fmt.Errorf("answer of %d bytes, expected %d: %w", length, want, ErrLied)
	}
	return int64(length), nil
}

func failure(status byte, reason string) error {
	switch status {
	case statusNotFound:
		return fmt.Errorf("%q: %w", reason, ErrNotHeld)
	case statusBusy:
		return fmt.Errorf("%q: %w", reason, ErrBusy)
	case statusRefused, statusBroken:
		return fmt.Errorf("holder answered %q", reason)
	}
	return fmt.Errorf("unknown status %d: %w", status, ErrLied)
}
