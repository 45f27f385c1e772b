package rpc

import (
	"context"
	"io"
	"net/http"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/mesh/wire"
)

const (
	// maxUnread bounds what one peer can make this node hold in request bodies, maxUnsent what in answers that it does not
	// read, and what in those that wait for room. The largest of either always fits.
	maxUnread = MaxBody
	maxUnsent = MaxBody
	// smallAnswer needs no room: so many as there can be calls together are no more than the largest answer.
	smallAnswer = maxUnsent / (maxCalls + maxHeld)

	// maxCalls is how many calls of one peer are answered at once, over all its connections, and maxHeld how many streams: those
	// stay for long, and must not take the place of calls. Methods with a limit of their own are counted apart.
	maxCalls = 128
	maxHeld  = 128
	// maxConns is how many connections one peer may have here. An honest one has a single one, or another while the loss of the
	// last is not noticed here yet.
	maxConns = 8
)

// room is what one peer may take of this node, however many connections it opens.
type room struct {
	bodies  *semaphore.Weighted // of requests
	answers *semaphore.Weighted // being written
	waiting *semaphore.Weighted // answers that wait for those to be read

	// Guarded by Server.roomsMu.
	users       int // connections and calls
	conns       int
	calls, held int
	methods     map[string]int // calls of those that have a limit of their own
}

// connect takes a connection in, unless its peer has enough of them.
func (s *Server) connect(node id.Node) bool {
	r := s.enter(node)
	s.roomsMu.Lock()
	fits := r.conns < maxConns
	if fits {
		r.conns++
	}
	s.roomsMu.Unlock()
	if !fits {
		s.leave(node, r)
	}
	return fits
}

func (s *Server) disconnect(node id.Node) {
	s.roomsMu.Lock()
	r := s.rooms[node]
	r.conns--
	s.roomsMu.Unlock()
	s.leave(node, r)
}

func (s *Server) enter(node id.Node) *room {
	s.roomsMu.Lock()
	defer s.roomsMu.Unlock()
	r := s.rooms[node]
	if r == nil {
		r = &room{
			bodies: semaphore.NewWeighted(maxUnread), answers: semaphore.NewWeighted(maxUnsent), waiting: semaphore.NewWeighted(maxUnsent),
			methods: make(map[string]int),
		}
		s.rooms[node] = r
	}
	r.users++
	return r
}

func (s *Server) leave(node id.Node, r *room) {
	s.roomsMu.Lock()
	defer s.roomsMu.Unlock()
	if r.users--; r.users == 0 {
		delete(s.rooms, node)
	}
}

// begin counts a call among those of its peer, or refuses it where that has its share of them already.
func (s *Server) begin(r *room, m method) error {
	s.roomsMu.Lock()
	defer s.roomsMu.Unlock()
	if m.AtOnce > 0 {
		if r.methods[m.Name] >= m.AtOnce {
			return busy("%d calls of %s by this node are being answered already", m.AtOnce, m.Name)
		}
		r.methods[m.Name]++
		return nil
	}
	all, most := r.count(m)
	if *all >= most {
		return busy("%d calls of this node are being answered already", most)
	}
	*all++
	return nil
}

func (s *Server) end(r *room, m method) {
	s.roomsMu.Lock()
	defer s.roomsMu.Unlock()
	if m.AtOnce > 0 {
		r.methods[m.Name]--
		return
	}
	all, _ := r.count(m)
	*all--
}

func (r *room) count(m method) (all *int, most int) {
	if m.Stream {
		return &r.held, maxHeld
	}
	return &r.calls, maxCalls
}

func busy(format string, args ...any) *wire.Error {
	return wire.Errorf(wire.CodeBusy, format, args...).WithHint("try again in a moment").WithUnsent() // as good as: nothing was done
}

// body reads a request's body once there is room for it; done gives the room back.
func (r *room) body(ctx context.Context, w paced, q *http.Request, limit int64) (body []byte, done func(), err error) {
	share := max(0, q.ContentLength)
	if share > limit {
		share = 0 // readBody refuses it unread
	}
	if r.bodies.Acquire(ctx, share) != nil {
		return nil, nil, wire.Errorf(wire.CodeTimeout, "too much is being sent at once")
	}
	if body, err = readBody(w, q, limit); err != nil {
		r.bodies.Release(share)
		return nil, nil, err
	}
	return body, func() { r.bodies.Release(share) }, nil
}

// readBody reads a body whose length was declared, within the method's limit.
func readBody(w paced, r *http.Request, limit int64) ([]byte, error) {
	n := r.ContentLength
	if n < 0 || n > limit {
		return nil, wire.Errorf(wire.CodeInvalid, "a body of %d bytes; the limit is %d", n, limit)
	}
	if n == 0 {
		return nil, nil
	}
	_ = w.control.SetReadDeadline(time.Now().Add(bodyTime))
	body := make([]byte, n)
	if _, err := io.ReadFull(r.Body, body); err != nil {
		return nil, wire.Errorf(wire.CodeInvalid, "body ends early: %v", err)
	}
	_ = w.control.SetReadDeadline(time.Time{})
	return body, nil
}

// hold takes room for n bytes that are about to be written; done gives it back. It waits no longer than ctx. What waits is held,
// too, and there may be only so much of it.
func (r *room) hold(ctx context.Context, n int) (done func(), err error) {
	share := int64(n)
	if share <= smallAnswer {
		return func() {}, nil
	}
	if share > maxUnsent {
		return nil, wire.Errorf(wire.CodeInvalid, "%d bytes at once are more than %d", n, maxUnsent)
	}
	if !r.waiting.TryAcquire(share) {
		return nil, busy("too much is waiting to be read by this node")
	}
	defer r.waiting.Release(share)
	if r.answers.Acquire(ctx, share) != nil {
		return nil, wire.Errorf(wire.CodeTimeout, "too much is not read by this node")
	}
	return func() { r.answers.Release(share) }, nil
}
