package meshtest

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// window is how many bytes may be under way in one direction before a write blocks. It is larger than what HTTP/2 sends
// ahead: a writer that blocks while it holds a mutex keeps a synctest bubble's time from passing.
const window = 16 << 20

// conn is one end of a connection.
type conn struct {
	network       *Network
	local, remote tcpAddr
	in, out       *half
}

func pair(n *Network, out link, local, remote tcpAddr) (near, far *conn) {
	there := newHalf(n, out)
	back := newHalf(n, link{out.to, out.from})
	near = &conn{network: n, local: local, remote: remote, in: back, out: there}
	far = &conn{network: n, local: remote, remote: local, in: there, out: back}
	return near, far
}

// Read implements net.Conn.
func (c *conn) Read(b []byte) (int, error) { return c.in.read(b) }

// Write implements net.Conn.
func (c *conn) Write(b []byte) (int, error) { return c.out.write(b) }

// Close implements net.Conn: the other side reads what is under way, then the end.
func (c *conn) Close() error {
	c.out.finish(io.EOF)
	c.in.abandon()
	c.network.mu.Lock()
	delete(c.network.conns, c)
	c.network.mu.Unlock()
	return nil
}

// reset ends both directions at once for the other side, and here.
func (c *conn) reset() {
	c.out.finish(syscall.ECONNRESET)
	c.in.abandon()
	c.network.mu.Lock()
	delete(c.network.conns, c)
	c.network.mu.Unlock()
}

// LocalAddr implements net.Conn.
func (c *conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr implements net.Conn.
func (c *conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline implements net.Conn.
func (c *conn) SetDeadline(t time.Time) error {
	c.in.setReadDeadline(t)
	c.out.setWriteDeadline(t)
	return nil
}

// SetReadDeadline implements net.Conn.
func (c *conn) SetReadDeadline(t time.Time) error {
	c.in.setReadDeadline(t)
	return nil
}

// SetWriteDeadline implements net.Conn.
func (c *conn) SetWriteDeadline(t time.Time) error {
	c.out.setWriteDeadline(t)
	return nil
}

// half is one direction: what was written and has not been read.
type half struct {
	network *Network
	link    link

	mu        sync.Mutex
	cond      *sync.Cond
	chunks    []chunk
	size      int
	last      time.Time // when the newest chunk arrives; nothing overtakes
	end       error     // what the reader gets after the last chunk
	endAt     time.Time
	abandoned bool // the reader is gone
	ended     bool // the writer is gone

	readDeadline, writeDeadline deadline
	arrival                     *time.Timer
}

type chunk struct {
	at   time.Time
	data []byte
}

func newHalf(n *Network, l link) *half {
	h := &half{network: n, link: l}
	h.cond = sync.NewCond(&h.mu)
	return h
}

func (h *half) wake() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.cond.Broadcast()
}

func (h *half) read(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		if h.abandoned {
			return 0, net.ErrClosed
		}
		if h.readDeadline.passed() {
			return 0, os.ErrDeadlineExceeded
		}
		if len(b) == 0 {
			return 0, nil
		}
		n, err, ready := h.take(b)
		if ready {
			return n, err
		}
		h.cond.Wait()
	}
}

// take gives what has arrived, and otherwise sees to it that somebody wakes when something does.
func (h *half) take(b []byte) (n int, err error, ready bool) { //nolint:revive,staticcheck // ready qualifies both
	at := h.endAt
	switch {
	case len(h.chunks) > 0:
		at = h.chunks[0].at
	case h.end == nil:
		return 0, nil, false
	}
	// h.mu is held; the network's lock is a leaf and never held while taking a half's.
	if h.network.blocked(h.link) {
		return 0, nil, false
	}
	if d := time.Until(at); d > 0 {
		if h.arrival != nil {
			h.arrival.Stop()
		}
		h.arrival = time.AfterFunc(d, h.wake)
		return 0, nil, false
	}
	if len(h.chunks) == 0 {
		return 0, h.end, true
	}
	head := &h.chunks[0]
	n = copy(b, head.data)
	head.data = head.data[n:]
	if len(head.data) == 0 {
		h.chunks = h.chunks[1:]
	}
	h.size -= n
	h.cond.Broadcast()
	return n, nil, true
}

func (h *half) write(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	written := 0
	for {
		switch {
		case h.ended:
			return written, net.ErrClosed
		case h.abandoned && h.severed():
			// The other end is gone, but nothing can tell this one.
			return written + len(b), nil
		case h.abandoned:
			return written, syscall.EPIPE
		case h.writeDeadline.passed():
			return written, os.ErrDeadlineExceeded
		case len(b) == 0:
			return written, nil
		}
		if room := window - h.size; room > 0 {
			n := min(room, len(b))
			at := time.Now().Add(h.network.transit(h.link))
			if at.Before(h.last) {
				at = h.last
			}
			h.last = at
			h.chunks = append(h.chunks, chunk{at: at, data: append([]byte(nil), b[:n]...)})
			h.size += n
			written += n
			b = b[n:]
			h.cond.Broadcast()
			continue
		}
		h.cond.Wait()
	}
}

// severed says whether news from the reader cannot arrive.
func (h *half) severed() bool {
	return h.network.blocked(h.link) || h.network.blocked(link{h.link.to, h.link.from})
}

// finish is the writer's end: err arrives behind everything that was written. A reset drops what is under way.
func (h *half) finish(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ended {
		return
	}
	h.ended = true
	h.end = err
	h.endAt = time.Now().Add(h.network.transit(h.link))
	if h.endAt.Before(h.last) {
		h.endAt = h.last
	}
	if err != io.EOF { //nolint:errorlint // set by this package, never wrapped
		h.chunks, h.size = nil, 0
	}
	h.writeDeadline.stop()
	h.cond.Broadcast()
}

// abandon is the reader's end.
func (h *half) abandon() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.abandoned = true
	h.chunks, h.size = nil, 0
	if h.arrival != nil {
		h.arrival.Stop()
	}
	h.readDeadline.stop()
	h.cond.Broadcast()
}

func (h *half) setReadDeadline(t time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.readDeadline.set(t, h.wake)
	h.cond.Broadcast()
}

func (h *half) setWriteDeadline(t time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.writeDeadline.set(t, h.wake)
	h.cond.Broadcast()
}

// deadline wakes who waits when it passes. Its half's lock guards it.
type deadline struct {
	at    time.Time
	timer *time.Timer
}

func (d *deadline) set(t time.Time, wake func()) {
	d.stop()
	d.at = t
	if !t.IsZero() {
		d.timer = time.AfterFunc(time.Until(t), wake)
	}
}

func (d *deadline) stop() {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
}

func (d *deadline) passed() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }
