package rpc

import (
	"context"
	"net/http"
	"time"
)

const (
	// A peer decides by HTTP/2's windows when it takes an answer, and may never do so. One that does not take a piece within
	// writeTime has its call ended. Hundreds of answers at once over the slowest link that is thought of, 1 Mbit/s, are faster.
	writePiece = 16 << 10
	writeTime  = time.Minute
)

// paced writes an answer in pieces, each of which must be taken within writeTime. The deadline of the last one stays: what is left
// in a buffer is written after the handler.
type paced struct {
	http.ResponseWriter
	control *http.ResponseController
}

func newPaced(w http.ResponseWriter) paced {
	return paced{w, http.NewResponseController(w)}
}

func (p paced) renew() { _ = p.control.SetWriteDeadline(time.Now().Add(writeTime)) }

// Write implements io.Writer.
func (p paced) Write(b []byte) (int, error) {
	written := 0
	for {
		p.renew()
		n, err := p.ResponseWriter.Write(b[written:min(len(b), written+writePiece)])
		if written += n; err != nil || written == len(b) {
			return written, err //nolint:wrapcheck // the caller gives up on any error
		}
	}
}

// flushing writes a stream: every write is sent at once, and between two of them there may be any time.
type flushing struct {
	ctx  context.Context //nolint:containedctx // the stream's life, as given to its handler
	w    paced
	room *room
}

// Write implements io.Writer.
func (f flushing) Write(b []byte) (int, error) {
	done, err := f.room.hold(f.ctx, len(b))
	if err != nil {
		return 0, err
	}
	defer done()
	n, err := f.w.Write(b)
	if err == nil {
		err = f.w.control.Flush()
	}
	if err == nil {
		_ = f.w.control.SetWriteDeadline(time.Time{})
	}
	return n, err //nolint:wrapcheck // a handler's writer; it gives up on any error
}
