package wire

import (
	"container/list"
	"net"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Limits bound what strangers can make this node hold. The zero value means the defaults.
type Limits struct {
	HalfOpen      int           // connections that have not proved themselves yet; default 256
	HalfOpenPerIP int           // the same from one address; default 64
	Handshake     time.Duration // from accept to admission; default 5 s
	PerIPRate     float64       // new connections a second from one address, loopback excepted; default 20
	PerIPBurst    int           // default 100
	DialTimeout   time.Duration // one address, handshake included; default 5 s
	DialStagger   time.Duration // head start of a better address over the next; default 250 ms
}

func (l Limits) withDefaults() Limits {
	def := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	defTime := func(v *time.Duration, d time.Duration) {
		if *v <= 0 {
			*v = d
		}
	}
	def(&l.HalfOpen, 256)
	def(&l.HalfOpenPerIP, 64)
	def(&l.PerIPBurst, 100)
	defTime(&l.Handshake, 5*time.Second)
	defTime(&l.DialTimeout, 5*time.Second)
	defTime(&l.DialStagger, 250*time.Millisecond)
	if l.PerIPRate <= 0 {
		l.PerIPRate = 20
	}
	return l
}

const (
	maxBuckets = 4096
	bucketIdle = time.Minute
)

// lobby holds connections that have not proved themselves. When it is full the oldest is thrown out: honest handshakes
// take milliseconds, so the oldest is the likeliest to be idling on purpose, and a flood cannot lock anybody out.
type lobby struct {
	limits Limits

	mu      sync.Mutex
	waiting *list.List // of *guest, oldest first
	perIP   map[string]int
	buckets map[string]*bucket
	closed  bool
}

type guest struct {
	conn net.Conn
	ip   string
	at   *list.Element
}

type bucket struct {
	limiter *rate.Limiter
	last    time.Time
}

func newLobby(l Limits) *lobby {
	return &lobby{
		limits: l, waiting: list.New(),
		perIP: make(map[string]int), buckets: make(map[string]*bucket),
	}
}

// enter takes a connection in; nil means that its address has had its share.
func (l *lobby) enter(conn net.Conn) *guest {
	ip, local := remoteIP(conn)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || (!local && !l.allow(ip)) {
		return nil
	}
	if l.perIP[ip] >= l.limits.HalfOpenPerIP {
		l.evict(ip)
	}
	if l.waiting.Len() >= l.limits.HalfOpen {
		l.evict("")
	}
	g := &guest{conn: conn, ip: ip}
	g.at = l.waiting.PushBack(g)
	l.perIP[ip]++
	return g
}

// leave ends the stay of a connection, admitted or not. It is idempotent.
func (l *lobby) leave(g *guest) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.remove(g)
}

// shut closes everybody who waits.
func (l *lobby) shut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for l.waiting.Len() > 0 {
		l.evict("")
	}
}

// evict throws out the oldest guest, of one address if it is given.
func (l *lobby) evict(ip string) {
	for e := l.waiting.Front(); e != nil; e = e.Next() {
		g, _ := e.Value.(*guest)
		if ip == "" || g.ip == ip {
			l.remove(g)
			_ = g.conn.Close()
			return
		}
	}
}

func (l *lobby) remove(g *guest) {
	if g.at == nil {
		return
	}
	l.waiting.Remove(g.at)
	g.at = nil
	if l.perIP[g.ip]--; l.perIP[g.ip] <= 0 {
		delete(l.perIP, g.ip)
	}
}

func (l *lobby) allow(ip string) bool {
	now := time.Now()
	b := l.buckets[ip]
	if b == nil {
		if len(l.buckets) >= maxBuckets {
			l.forget(now)
		}
		b = &bucket{limiter: rate.NewLimiter(rate.Limit(l.limits.PerIPRate), l.limits.PerIPBurst)}
		l.buckets[ip] = b
	}
	b.last = now
	return b.limiter.AllowN(now, 1)
}

// forget drops addresses that have been quiet, and any half of them if none has: memory stays bounded either way.
func (l *lobby) forget(now time.Time) {
	for ip, b := range l.buckets {
		if now.Sub(b.last) > bucketIdle {
			delete(l.buckets, ip)
		}
	}
	for ip := range l.buckets {
		if len(l.buckets) <= maxBuckets/2 {
			return
		}
		delete(l.buckets, ip)
	}
}

func remoteIP(conn net.Conn) (ip string, loopback bool) {
	host, _, err := net.SplitHostPort(conn.RemoteAddr().String())
	if err != nil {
		return conn.RemoteAddr().String(), false
	}
	parsed := net.ParseIP(host)
	return host, parsed != nil && parsed.IsLoopback()
}
