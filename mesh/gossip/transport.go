package gossip

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/ringagent/ringagent/internal/id"
)

// The first byte of a gossip connection says what it is for.
const (
	kindPackets = 'p' // framed packets one way, acknowledgements of life the other
	kindStream  = 's' // one of memberlist's own exchanges
)

const (
	maxPacket  = 64 << 10
	inbox      = 1024
	maxLanes   = 64
	laneIdle   = 2 * time.Minute
	laneQueue  = 64
	writeStuck = 5 * time.Second
)

// Dial reaches a node with the protocol of gossip.
type Dial func(ctx context.Context, node id.Node) (net.Conn, error)

// transport carries memberlist's packets and streams over Dial. It implements memberlist.NodeAwareTransport.
type transport struct {
	self    id.Node
	dial    Dial
	silence time.Duration // without acknowledgement after which a lane is made anew

	ctx     context.Context //nolint:containedctx // the transport's own life; memberlist's interface has none
	cancel  context.CancelFunc
	group   sync.WaitGroup
	packets chan *memberlist.Packet
	streams chan net.Conn

	mu    sync.Mutex
	done  bool
	lanes map[id.Node]*lane
}

var _ memberlist.NodeAwareTransport = (*transport)(nil)

func newTransport(self id.Node, dial Dial, silence time.Duration) *transport {
	t := &transport{
		self: self, dial: dial, silence: silence,
		packets: make(chan *memberlist.Packet, inbox),
		streams: make(chan net.Conn),
		lanes:   make(map[id.Node]*lane),
	}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	return t
}

// FinalAdvertiseAddr implements memberlist.Transport.
func (t *transport) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return constantIP(t.self), constantPort, nil
}

// PacketCh implements memberlist.Transport.
func (t *transport) PacketCh() <-chan *memberlist.Packet { return t.packets }

// StreamCh implements memberlist.Transport.
func (t *transport) StreamCh() <-chan net.Conn { return t.streams }

// WriteTo implements memberlist.Transport.
func (t *transport) WriteTo(b []byte, addr string) (time.Time, error) {
	return t.WriteToAddress(b, memberlist.Address{Addr: addr})
}

// WriteToAddress queues a packet and returns at once, whatever the state of the peer: packets may be lost, but nobody
// waits.
func (t *transport) WriteToAddress(b []byte, addr memberlist.Address) (time.Time, error) {
	node, err := target(addr)
	if err != nil {
		return time.Time{}, err
	}
	if len(b) == 0 || len(b) > maxPacket {
		return time.Time{}, errors.New("packet is empty or too long")
	}
	if l := t.lane(node); l != nil {
		l.push(append([]byte(nil), b...))
	}
	return time.Now(), nil
}

// DialTimeout implements memberlist.Transport.
func (t *transport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	return t.DialAddressTimeout(memberlist.Address{Addr: addr}, timeout)
}

// DialAddressTimeout implements memberlist.NodeAwareTransport.
func (t *transport) DialAddressTimeout(addr memberlist.Address, timeout time.Duration) (net.Conn, error) {
	node, err := target(addr)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(t.ctx, timeout)
	defer cancel()
	c, err := t.dial(ctx, node)
	if err != nil {
		return nil, err
	}
	if _, err := c.Write([]byte{kindStream}); err != nil {
		_ = c.Close()
		return nil, err //nolint:wrapcheck // memberlist adds what it was doing
	}
	return c, nil
}

// Shutdown implements memberlist.Transport. It waits until nothing of the transport runs any more.
func (t *transport) Shutdown() error {
	t.mu.Lock()
	t.done = true
	t.mu.Unlock()
	t.cancel()
	t.group.Wait()
	return nil
}

// drain waits, up to ctx, until every queued packet has been handed to its connection.
func (t *transport) drain(ctx context.Context) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !t.empty() {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (t *transport) empty() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, l := range t.lanes {
		if l.pending() {
			return false
		}
	}
	return true
}

// receive serves a gossip connection that node opened, and owns it.
func (t *transport) receive(c net.Conn, node id.Node) {
	t.mu.Lock()
	if t.done {
		t.mu.Unlock()
		_ = c.Close()
		return
	}
	t.group.Add(1)
	t.mu.Unlock()
	defer t.group.Done()
	stop := context.AfterFunc(t.ctx, func() { _ = c.Close() })
	defer stop()
	var kind [1]byte
	_ = c.SetReadDeadline(time.Now().Add(writeStuck))
	if _, err := io.ReadFull(c, kind[:]); err != nil {
		_ = c.Close()
		return
	}
	_ = c.SetReadDeadline(time.Time{})
	switch kind[0] {
	case kindPackets:
		t.readPackets(c, node)
		_ = c.Close()
	case kindStream:
		select {
		case t.streams <- c:
		case <-t.ctx.Done():
			_ = c.Close()
		}
	default:
		_ = c.Close()
	}
}

// readPackets takes packets until the connection ends. When memberlist does not keep up they are dropped here, as a
// network would: the peer's writer must not be held up.
func (t *transport) readPackets(c net.Conn, node id.Node) {
	from := &net.UDPAddr{IP: constantIP(node), Port: constantPort}
	in := bufio.NewReaderSize(c, 4<<10)
	for {
		var head [2]byte
		_ = c.SetReadDeadline(time.Now().Add(2 * laneIdle))
		if _, err := io.ReadFull(in, head[:]); err != nil {
			return
		}
		buf := make([]byte, int(binary.BigEndian.Uint16(head[:]))+1)
		if _, err := io.ReadFull(in, buf); err != nil {
			return
		}
		now := time.Now()
		select {
		case t.packets <- &memberlist.Packet{Buf: buf, From: from, Timestamp: now}:
		default:
		}
		if in.Buffered() == 0 {
			_ = c.SetWriteDeadline(now.Add(writeStuck))
			if _, err := c.Write([]byte{1}); err != nil {
				return
			}
		}
	}
}

// lane finds or makes the lane to a node; with too many of them the one that was used least recently makes room.
func (t *transport) lane(node id.Node) *lane {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.done || node == t.self {
		return nil
	}
	if l := t.lanes[node]; l != nil {
		return l
	}
	if len(t.lanes) >= maxLanes {
		var oldest *lane
		for _, l := range t.lanes {
			if oldest == nil || l.lastUse().Before(oldest.lastUse()) {
				oldest = l
			}
		}
		oldest.cancel()
		delete(t.lanes, oldest.node)
	}
	l := newLane(t, node)
	t.lanes[node] = l
	t.group.Go(l.run)
	return l
}

// retire takes an idle lane out, unless a packet came meanwhile.
func (t *transport) retire(l *lane) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if l.pending() {
		return false
	}
	if t.lanes[l.node] == l {
		delete(t.lanes, l.node)
	}
	return true
}

// reset drops the lane to a node, so that the next packet dials anew.
func (t *transport) reset(node id.Node) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if l := t.lanes[node]; l != nil {
		l.cancel()
		delete(t.lanes, node)
	}
}

func target(addr memberlist.Address) (id.Node, error) {
	if addr.Name != "" {
		return id.ParseNode(addr.Name)
	}
	return nodeAt(addr.Addr)
}
