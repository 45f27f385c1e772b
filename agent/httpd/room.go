package httpd

import (
	"net"
	"net/http"
	"sync"
)

// room is a listener that accepts only while there is room for another connection. It hands the connections on as they are:
// the server tells HTTP/2 by the type of a TLS connection, which a wrapper would hide.
type room struct {
	net.Listener
	places chan struct{}
	done   chan struct{}
	once   sync.Once
}

func newRoom(l net.Listener, places int) *room {
	return &room{Listener: l, places: make(chan struct{}, places), done: make(chan struct{})}
}

// Accept implements net.Listener.
func (r *room) Accept() (net.Conn, error) {
	select {
	case r.places <- struct{}{}:
	case <-r.done:
		return nil, net.ErrClosed
	}
	c, err := r.Listener.Accept()
	if err != nil {
		<-r.places
	}
	return c, err
}

// Close implements net.Listener.
func (r *room) Close() error {
	r.once.Do(func() { close(r.done) })
	return r.Listener.Close()
}

// watch is the server's ConnState: it frees the place of a connection that is gone.
func (r *room) watch(_ net.Conn, s http.ConnState) {
	if s == http.StateClosed || s == http.StateHijacked {
		<-r.places
	}
}
