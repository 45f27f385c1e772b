package wire

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"

	"github.com/ringagent/ringagent/internal/id"
)

// MaxFrame is the largest frame that WriteFrame and ReadFrame carry, in bytes.
const MaxFrame = 1 << 20

// maxGreeting is the largest greeting that is read from somebody who is not yet admitted.
const maxGreeting = 8 << 10

// greeting is the first frame in each direction on an admitted connection. The dialler speaks first.
type greeting struct {
	Boot    id.Boot `json:"boot"`
	Started int64   `json:"started"` // unix nanoseconds of the boot
	// Advertise and Port tell the listener how the dialler can be dialled back.
	Advertise []string `json:"advertise,omitempty"`
	Port      int      `json:"port,omitempty"`
	// Refused is set by a listener that does not admit the dialler; it closes right after.
	Refused *Error `json:"refused,omitempty"`
}

// WriteFrame writes v as one frame: four bytes of length, then JSON.
func WriteFrame(w io.Writer, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode frame: %w", err)
	}
	if len(body) > MaxFrame {
		return fmt.Errorf("encode frame: %d bytes are more than %d", len(body), MaxFrame)
	}
	frame := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(body)), uint32(len(body)))
	if _, err := w.Write(append(frame, body...)); err != nil {
		return fmt.Errorf("write frame: %w", err)
	}
	return nil
}

// ReadFrame reads one frame of at most limit bytes into v. The length is checked before anything is allocated.
func ReadFrame(r io.Reader, limit int, v any) error {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return fmt.Errorf("read frame: %w", err)
	}
	n := binary.BigEndian.Uint32(head[:])
	if uint64(n) > uint64(limit) {
		return Errorf(CodeInvalid, "a frame of %d bytes is more than %d", n, limit)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return fmt.Errorf("read frame: %w", err)
	}
	if err := json.Unmarshal(body, v); err != nil {
		return Errorf(CodeInvalid, "frame: %v", err)
	}
	return nil
}
