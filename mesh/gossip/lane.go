package gossip

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ringagent/ringagent/internal/id"
)

const (
	laneRetry    = 200 * time.Millisecond
	laneRetryMax = 5 * time.Second
)

// lane carries the packets for one node: a bounded queue that drops the oldest, and one goroutine that dials and writes.
type lane struct {
	t      *transport
	node   id.Node
	ctx    context.Context //nolint:containedctx // the lane's own life, ended when it is replaced
	cancel context.CancelFunc
	used   atomic.Int64 // unix nanoseconds of the last push

	mu    sync.Mutex
	queue [][]byte
	busy  bool
	more  chan struct{}
}

func newLane(t *transport, node id.Node) *lane {
	l := &lane{t: t, node: node, more: make(chan struct{}, 1)}
	l.ctx, l.cancel = context.WithCancel(t.ctx)
	l.used.Store(time.Now().UnixNano())
	return l
}

func (l *lane) lastUse() time.Time { return time.Unix(0, l.used.Load()) }

func (l *lane) push(packet []byte) {
	l.used.Store(time.Now().UnixNano())
	l.mu.Lock()
	if len(l.queue) >= laneQueue {
		// The newest says most about the present.
		l.queue = append(l.queue[:0], l.queue[1:]...)
	}
	l.queue = append(l.queue, packet)
	l.mu.Unlock()
	select {
	case l.more <- struct{}{}:
	default:
	}
}

// pending says whether packets wait or are being written.
func (l *lane) pending() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.queue) > 0 || l.busy
}

// take empties the queue into one buffer of frames. busy holds until the next take.
func (l *lane) take() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []byte
	for _, p := range l.queue {
		out = binary.BigEndian.AppendUint16(out, uint16(len(p)-1))
		out = append(out, p...)
	}
	clear(l.queue)
	l.queue = l.queue[:0]
	l.busy = len(out) > 0
	return out
}

// run writes until the lane is idle for long enough or replaced.
func (l *lane) run() {
	defer l.cancel()
	var c *laneConn
	defer func() { c.close() }()
	retry := laneRetry
	idle := time.NewTimer(laneIdle)
	defer idle.Stop()
	for {
		select {
		case <-l.ctx.Done():
			return
		case <-idle.C:
			if l.t.retire(l) {
				return
			}
		case <-l.more:
		}
		idle.Reset(laneIdle)
		for {
			packets := l.take()
			if len(packets) == 0 {
				break
			}
			if c.dead(l.t.silence) {
				c.close()
				c = l.open()
			}
			if c != nil && c.write(packets) == nil {
				retry = laneRetry
				continue
			}
			// What could not be sent is lost, as packets are; so is what gathers while the peer is left alone.
			c.close()
			c = nil
			if !l.pause(retry) {
				return
			}
			retry = min(2*retry, laneRetryMax)
		}
	}
}

func (l *lane) pause(d time.Duration) bool {
	t := time.NewTimer(d/2 + rand.N(d)) //nolint:gosec // jitter
	defer t.Stop()
	select {
	case <-l.ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

func (l *lane) open() *laneConn {
	ctx, cancel := context.WithTimeout(l.ctx, 2*writeStuck)
	defer cancel()
	raw, err := l.t.dial(ctx, l.node)
	if err != nil {
		return nil
	}
	c := &laneConn{Conn: raw}
	c.stop = context.AfterFunc(l.ctx, func() { _ = raw.Close() })
	if c.write([]byte{kindPackets}) != nil {
		c.close()
		return nil
	}
	c.unacked.Store(0)
	l.t.group.Go(c.readAcks)
	return c
}

// laneConn is one connection of a lane. The other side acknowledges now and then that packets arrive; a path that died
// without a word would otherwise swallow them for as long as TCP keeps trying.
type laneConn struct {
	net.Conn
	stop    func() bool
	broken  atomic.Bool
	unacked atomic.Int64 // unix nanoseconds of the first write since the last acknowledgement; 0 if none
}

func (c *laneConn) write(b []byte) error {
	now := time.Now()
	c.unacked.CompareAndSwap(0, now.UnixNano())
	_ = c.SetWriteDeadline(now.Add(writeStuck))
	_, err := c.Write(b)
	return err //nolint:wrapcheck // only whether it failed matters
}

func (c *laneConn) readAcks() {
	var b [16]byte
	for {
		n, err := c.Read(b[:])
		if n > 0 {
			c.unacked.Store(0)
		}
		if err != nil {
			c.broken.Store(true)
			return
		}
	}
}

// dead says whether a connection has to be made: there is none, it broke, or nothing was acknowledged for too long.
func (c *laneConn) dead(silence time.Duration) bool {
	if c == nil || c.broken.Load() {
		return true
	}
	since := c.unacked.Load()
	return since != 0 && time.Since(time.Unix(0, since)) > silence
}

func (c *laneConn) close() {
	if c == nil {
		return
	}
	c.stop()
	_ = c.Close()
}
