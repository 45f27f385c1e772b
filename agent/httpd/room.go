package httpd

import (
	"container/list"
	"context"
	"net"
	"net/http"
	"sync"
	"time"
)

// settling is how long a connection may wait before it can be asked to make room: a crowd that comes at once on a busy
// machine is served in turn, and is not thrown out before anybody has read what it asks.
const settling = 500 * time.Millisecond

// room is a listener that keeps accepting. When it is full, the connection that has been waiting longest makes room: one
// that is silent, slow to ask, slow to send its body, or idle between two questions. Whose question is being answered
// stays; as fewer are answered at once than there are places, somebody always waits. It hands the connections on as they
// are: the server tells HTTP/2 by the type of a TLS connection, which a wrapper would hide.
type room struct {
	net.Listener
	places  int // connections
	answers int // requests at once; fewer than places
	freed   chan struct{}
	done    chan struct{}
	once    sync.Once

	mu      sync.Mutex
	guests  map[net.Conn]*guest
	waiting *list.List // of *guest, who has been waiting longest first
	asked   int        // requests that are being answered
}

// guest is one connection.
type guest struct {
	room  *room
	conn  net.Conn
	asked int           // its requests that are being answered; HTTP/2 may have several
	since time.Time     // it waits
	at    *list.Element // nil while there are any, and once it is gone
}

func newRoom(l net.Listener, places, answers int) *room {
	return &room{
		Listener: l, places: places, answers: answers, freed: make(chan struct{}, 1), done: make(chan struct{}),
		guests: make(map[net.Conn]*guest), waiting: list.New(),
	}
}

// Accept implements net.Listener.
func (r *room) Accept() (net.Conn, error) {
	for wait := r.clear(); wait > 0; wait = r.clear() {
		late := time.NewTimer(wait)
		select {
		case <-late.C:
		case <-r.freed:
		case <-r.done:
			late.Stop()
			return nil, net.ErrClosed
		}
		late.Stop()
	}
	c, err := r.Listener.Accept()
	if err != nil {
		return nil, err //nolint:wrapcheck // the server looks at what kind of error it is
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	g := &guest{room: r, conn: c}
	r.await(g)
	r.guests[c] = g
	return c, nil
}

// Close implements net.Listener.
func (r *room) Close() error {
	r.once.Do(func() { close(r.done) })
	return r.Listener.Close() //nolint:wrapcheck // nobody looks at it
}

// clear makes room for one more. When everybody has only just come, it says for how long to wait instead.
func (r *room) clear() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.guests) < r.places {
		return 0
	}
	g, _ := r.waiting.Front().Value.(*guest)
	if young := settling - time.Since(g.since); young > 0 {
		return young
	}
	r.remove(g)
	go g.conn.Close() // over TLS that says goodbye, which may take a while
	return 0
}

func (r *room) await(g *guest) {
	g.since = time.Now()
	g.at = r.waiting.PushBack(g)
}

func (r *room) remove(g *guest) {
	delete(r.guests, g.conn)
	if g.at != nil {
		r.waiting.Remove(g.at)
		g.at = nil
	}
	select {
	case r.freed <- struct{}{}:
	default:
	}
}

// watch is the server's ConnState: it frees the place of a connection that is gone.
func (r *room) watch(c net.Conn, s http.ConnState) {
	if s != http.StateClosed && s != http.StateHijacked {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if g := r.guests[c]; g != nil {
		r.remove(g)
	}
}

type guestKey struct{}

// introduce is the server's ConnContext: requests know their guest.
func (r *room) introduce(ctx context.Context, c net.Conn) context.Context {
	r.mu.Lock()
	defer r.mu.Unlock()
	return context.WithValue(ctx, guestKey{}, r.guests[c])
}

// begin says that a whole question of the guest is there and is being answered; false means that too many are already.
func (g *guest) begin() bool {
	r := g.room
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.asked >= r.answers {
		return false
	}
	r.asked++
	g.asked++
	if g.at != nil {
		r.waiting.Remove(g.at)
		g.at = nil
	}
	return true
}

// end takes back begin.
func (g *guest) end() {
	r := g.room
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked--
	if g.asked--; g.asked == 0 && r.guests[g.conn] == g {
		r.await(g)
	}
}
