package httpd

import (
	"container/list"
	"context"
	"net"
	"net/http"
	"sync"
)

// room is a listener that always accepts. When it is full, the connection that has been waiting longest makes room: one
// that is silent, slow to ask, slow to send its body, or idle between two questions. Whose question is being answered
// stays; as fewer are answered at once than there are places, somebody always waits. It hands the connections on as they
// are: the server tells HTTP/2 by the type of a TLS connection, which a wrapper would hide.
type room struct {
	net.Listener
	places  int // connections
	answers int // requests at once; fewer than places

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
	at    *list.Element // nil while there are any, and once it is gone
}

func newRoom(l net.Listener, places, answers int) *room {
	return &room{Listener: l, places: places, answers: answers, guests: make(map[net.Conn]*guest), waiting: list.New()}
}

// Accept implements net.Listener.
func (r *room) Accept() (net.Conn, error) {
	c, err := r.Listener.Accept()
	if err != nil {
		return nil, err //nolint:wrapcheck // the server looks at what kind of error it is
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.guests) >= r.places {
		g, _ := r.waiting.Front().Value.(*guest)
		r.remove(g)
		go g.conn.Close() // over TLS that says goodbye, which may take a while
	}
	g := &guest{room: r, conn: c}
	g.at = r.waiting.PushBack(g)
	r.guests[c] = g
	return c, nil
}

func (r *room) remove(g *guest) {
	delete(r.guests, g.conn)
	if g.at != nil {
		r.waiting.Remove(g.at)
		g.at = nil
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
		g.at = r.waiting.PushBack(g)
	}
}
