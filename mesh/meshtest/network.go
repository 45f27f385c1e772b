package meshtest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// Network joins hosts. A new network passes everything at once.
type Network struct {
	mu        sync.Mutex
	random    *rand.Rand
	listeners map[string]*listener
	links     map[link]behaviour
	conns     map[*conn]struct{}
	unplugged map[string]bool
	nextPort  int
	dials     int
}

// link is one direction between two hosts, by IP.
type link struct{ from, to string }

type behaviour struct {
	blocked bool
	delay   time.Duration
	loss    float64
}

// New makes a network; losses follow the seed.
func New(seed uint64) *Network {
	return &Network{
		random:    rand.New(rand.NewPCG(seed, seed^0x9e3779b97f4a7c15)), //nolint:gosec // reproducible on purpose
		listeners: make(map[string]*listener),
		links:     make(map[link]behaviour),
		conns:     make(map[*conn]struct{}),
		unplugged: make(map[string]bool),
		nextPort:  40000,
	}
}

// Host makes a machine with an address such as "10.0.0.1". It implements wire.Network.
func (n *Network) Host(ip string) *Host {
	return &Host{network: n, ip: ip}
}

// Block lets nothing pass from one host to another; bytes wait, as TCP would keep sending them, and dials hang.
func (n *Network) Block(from, to *Host) { n.change(from, to, func(b *behaviour) { b.blocked = true }) }

// Unblock undoes Block: what waited arrives.
func (n *Network) Unblock(from, to *Host) {
	n.change(from, to, func(b *behaviour) { b.blocked = false })
}

// Delay makes what is sent from now on arrive later, in order.
func (n *Network) Delay(from, to *Host, d time.Duration) {
	n.change(from, to, func(b *behaviour) { b.delay = d })
}

// Drop loses each write with probability p; as under TCP it arrives later instead, after one or more timeouts of 200 ms,
// and holds up what was written behind it.
func (n *Network) Drop(from, to *Host, p float64) {
	n.change(from, to, func(b *behaviour) { b.loss = p })
}

// Partition blocks both directions between every host of a and every host of b.
func (n *Network) Partition(a, b []*Host) {
	for _, x := range a {
		for _, y := range b {
			n.Block(x, y)
			n.Block(y, x)
		}
	}
}

// Heal undoes every Block, Delay and Drop.
func (n *Network) Heal() {
	n.mu.Lock()
	clear(n.links)
	n.mu.Unlock()
	n.wakeAll()
}

// Dials counts the dials that have been tried.
func (n *Network) Dials() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.dials
}

func (n *Network) change(from, to *Host, f func(*behaviour)) {
	n.mu.Lock()
	l := link{from.IP(), to.IP()}
	b := n.links[l]
	f(&b)
	n.links[l] = b
	n.mu.Unlock()
	n.wakeAll()
}

// blocked says whether bytes may arrive now.
func (n *Network) blocked(l link) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.links[l].blocked || n.unplugged[l.from] || n.unplugged[l.to]
}

// transit is how long one write is under way.
func (n *Network) transit(l link) time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	b := n.links[l]
	d := b.delay
	for range 8 {
		if b.loss == 0 || n.random.Float64() >= b.loss {
			break
		}
		d += 200 * time.Millisecond
	}
	return d
}

func (n *Network) wakeAll() {
	n.mu.Lock()
	conns := make([]*conn, 0, len(n.conns))
	for c := range n.conns {
		conns = append(conns, c)
	}
	n.mu.Unlock()
	for _, c := range conns {
		c.in.wake()
		c.out.wake()
	}
}

// Host is one machine.
type Host struct {
	network *Network

	mu sync.Mutex
	ip string
}

// IP is the host's present address.
func (h *Host) IP() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ip
}

// Listen implements wire.Network.
func (h *Host) Listen(_ context.Context, address string) (net.Listener, error) {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	n := h.network
	n.mu.Lock()
	defer n.mu.Unlock()
	if port == "0" {
		n.nextPort++
		port = strconv.Itoa(n.nextPort)
	}
	at := net.JoinHostPort(h.IP(), port)
	if _, taken := n.listeners[at]; taken {
		return nil, fmt.Errorf("listen on %s: %w", at, syscall.EADDRINUSE)
	}
	l := &listener{network: n, addr: tcpAddr(at), conns: make(chan *conn, 128), done: make(chan struct{})}
	n.listeners[at] = l
	return l, nil
}

// Dial implements wire.Network. A dial into a partition hangs until ctx ends, one to a host that does not listen is
// refused.
func (h *Host) Dial(ctx context.Context, address string) (net.Conn, error) {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, fmt.Errorf("dial: %w", err)
	}
	n := h.network
	out, back := link{h.IP(), to.Addr().String()}, link{to.Addr().String(), h.IP()}
	n.mu.Lock()
	n.dials++
	n.nextPort++
	from := net.JoinHostPort(out.from, strconv.Itoa(n.nextPort))
	n.mu.Unlock()
	// A packet that is lost is sent again, so a dial succeeds when the link comes back in time.
	for n.blocked(out) || n.blocked(back) {
		if err := wait(ctx, 250*time.Millisecond); err != nil {
			return nil, fmt.Errorf("dial %s: %w", address, err)
		}
	}
	if err := wait(ctx, n.transit(out)+n.transit(back)); err != nil {
		return nil, fmt.Errorf("dial %s: %w", address, err)
	}
	near, far := pair(n, out, tcpAddr(from), tcpAddr(address))
	n.mu.Lock()
	l := n.listeners[address]
	if l != nil {
		n.conns[near], n.conns[far] = struct{}{}, struct{}{}
	}
	n.mu.Unlock()
	if l == nil {
		return nil, fmt.Errorf("dial %s: %w", address, syscall.ECONNREFUSED)
	}
	select {
	case l.conns <- far:
		return near, nil
	case <-l.done:
	case <-ctx.Done():
	}
	_ = near.Close()
	_ = far.Close()
	return nil, fmt.Errorf("dial %s: %w", address, syscall.ECONNREFUSED)
}

// Kill ends everything on the host as the kernel does for a killed process: listeners close, the other ends see a reset.
func (h *Host) Kill() {
	for _, c := range h.cut() {
		c.reset()
	}
}

// Unplug cuts the host off as a pulled cable does: nothing more arrives on either side, and nobody is told.
func (h *Host) Unplug() {
	h.network.mu.Lock()
	h.network.unplugged[h.IP()] = true
	h.network.mu.Unlock()
	h.network.wakeAll()
}

// Plug undoes Unplug.
func (h *Host) Plug() {
	h.network.mu.Lock()
	delete(h.network.unplugged, h.IP())
	h.network.mu.Unlock()
	h.network.wakeAll()
}

// Move gives the host another address. Listeners follow it; connections under the old address pass nothing any more,
// and nobody is told.
func (h *Host) Move(ip string) {
	n := h.network
	old := h.IP()
	n.mu.Lock()
	for at, l := range n.listeners {
		host, port, _ := net.SplitHostPort(at)
		if host != old {
			continue
		}
		delete(n.listeners, at)
		moved := net.JoinHostPort(ip, port)
		n.listeners[moved] = l
	}
	n.unplugged[old] = true
	n.mu.Unlock()
	h.mu.Lock()
	h.ip = ip
	h.mu.Unlock()
	n.wakeAll()
}

// cut removes the host's listeners and returns its ends of all connections.
func (h *Host) cut() []*conn {
	n := h.network
	ip := h.IP()
	n.mu.Lock()
	defer n.mu.Unlock()
	for at, l := range n.listeners {
		if host, _, _ := net.SplitHostPort(at); host == ip {
			delete(n.listeners, at)
			l.once.Do(func() { close(l.done) })
		}
	}
	var own []*conn
	for c := range n.conns {
		if c.local.ip() == ip {
			own = append(own, c)
		}
	}
	return own
}

type listener struct {
	network *Network
	addr    tcpAddr
	conns   chan *conn
	done    chan struct{}
	once    sync.Once
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *listener) Close() error {
	l.network.mu.Lock()
	for at, other := range l.network.listeners {
		if other == l {
			delete(l.network.listeners, at)
		}
	}
	l.network.mu.Unlock()
	l.once.Do(func() { close(l.done) })
	for {
		select {
		case c := <-l.conns:
			c.reset()
		default:
			return nil
		}
	}
}

// Addr implements net.Listener.
func (l *listener) Addr() net.Addr { return l.addr }

type tcpAddr string

func (a tcpAddr) Network() string { return "tcp" }
func (a tcpAddr) String() string  { return string(a) }

func (a tcpAddr) ip() string {
	host, _, err := net.SplitHostPort(string(a))
	if err != nil {
		return string(a)
	}
	return host
}

func wait(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		if ctx.Err() != nil {
			return os.ErrDeadlineExceeded
		}
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return os.ErrDeadlineExceeded
	}
}
