package rpc

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/net/http2"
	"golang.org/x/time/rate"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/mesh/wire"
)

const (
	headerGeneration = "Ring-Generation"
	headerTimeout    = "Ring-Timeout-Ms"
	headerError      = "Ring-Error"

	// DefaultBody is the largest request body of a method that asks for no other limit, in bytes.
	DefaultBody = 4 << 20
	// MaxBody is the largest body of any method, and of any answer that is not a stream, in bytes.
	MaxBody = 64 << 20

	maxStreams = maxCalls + maxHeld
	maxTold    = 20 // refused calls in the log at once, and then one a second: a peer must not fill the disk by asking
	bodyTime   = 30 * time.Second
)

// Request is one call as its handler sees it.
type Request struct {
	Peer   wire.Peer
	Method string
	Body   []byte
}

// Decode reads a JSON body into v; the error has code invalid.
func (r *Request) Decode(v any) error {
	if err := json.Unmarshal(r.Body, v); err != nil {
		return wire.Errorf(wire.CodeInvalid, "body of %s: %v", r.Method, err)
	}
	return nil
}

// Handler answers a call. The answer is sent as JSON, a []byte as it is. ctx ends when the caller's deadline passes or
// its connection goes. An error that wraps a *wire.Error arrives at the caller as that; any other has code internal.
type Handler func(ctx context.Context, r *Request) (any, error)

// StreamHandler opens a stream. Its own error is what the caller's Stream returns; the function that it gives then writes
// until it is done or ctx ends, every Write is sent at once, and its error is what the caller's last Read returns.
type StreamHandler func(ctx context.Context, r *Request) (func(ctx context.Context, w io.Writer) error, error)

// Hooks let the ring's generation travel with every call.
type Hooks struct {
	// Generation is the generation that this node is in.
	Generation func() uint64
	// Seen is told the other side's generation before a request is handled or an answer used; its error refuses either.
	Seen func(peer wire.Peer, generation uint64) error
	// Convert makes a *wire.Error of an error of the agent's own parts; nil leaves it to the wire. May be nil.
	Convert func(error) *wire.Error
}

func (h Hooks) withDefaults() Hooks {
	if h.Generation == nil {
		h.Generation = func() uint64 { return 0 }
	}
	if h.Seen == nil {
		h.Seen = func(wire.Peer, uint64) error { return nil }
	}
	if h.Convert == nil {
		h.Convert = func(error) *wire.Error { return nil }
	}
	return h
}

// Method is one row of the class table.
type Method struct {
	Name    string
	Allowed ClassSet
	Stream  bool
	AtOnce  int // calls for one peer; 0: no limit of its own
}

type method struct {
	Method
	former bool
	limit  int64
	call   Handler
	stream StreamHandler
}

// Server answers the calls of other agents.
type Server struct {
	hooks Hooks
	log   zerolog.Logger
	http  *http.Server
	http2 *http2.Server

	mu      sync.RWMutex
	methods map[string]method

	told *rate.Limiter // of lines about calls that were refused

	roomsMu sync.Mutex
	rooms   map[id.Node]*room
}

// NewServer makes a server without methods.
func NewServer(hooks Hooks, logger zerolog.Logger) (*Server, error) {
	s := &Server{
		hooks:   hooks.withDefaults(),
		log:     logger,
		http:    &http.Server{ErrorLog: log.New(io.Discard, "", 0), ReadHeaderTimeout: bodyTime, MaxHeaderBytes: 16 << 10},
		methods: make(map[string]method),
		rooms:   make(map[id.Node]*room),
		told:    rate.NewLimiter(rate.Every(time.Second), maxTold),
	}
	s.http2 = &http2.Server{
		MaxConcurrentStreams: maxStreams,
		ReadIdleTimeout:      pingAfter,
		PingTimeout:          pingTimeout,
		WriteByteTimeout:     stuckWrite,
	}
	if err := http2.ConfigureServer(s.http, s.http2); err != nil {
		return nil, fmt.Errorf("configure HTTP/2: %w", err)
	}
	return s, nil
}

// Option changes one method.
type Option func(*method)

// BodyLimit sets the largest request body in bytes, up to MaxBody.
func BodyLimit(n int64) Option { return func(m *method) { m.limit = min(n, MaxBody) } }

// Former lets nodes of a former generation of the ring call: it is how they learn of the present one.
func Former() Option { return func(m *method) { m.former = true } }

// AtOnce sets how many calls of the method are answered at once for one peer; more are refused as busy. It is for methods that
// cost much more than their question.
func AtOnce(n int) Option { return func(m *method) { m.AtOnce = n } }

// Handle registers a method for the classes that may call it. Registering a name twice, or for nobody, is a programmer's
// error and panics.
func (s *Server) Handle(name string, allowed ClassSet, h Handler, opts ...Option) {
	s.register(method{Method: Method{Name: name, Allowed: allowed}, call: h}, opts)
}

// HandleStream registers a method that answers with a stream.
func (s *Server) HandleStream(name string, allowed ClassSet, h StreamHandler, opts ...Option) {
	s.register(method{Method: Method{Name: name, Allowed: allowed, Stream: true}, stream: h}, opts)
}

func (s *Server) register(m method, opts []Option) {
	m.limit = DefaultBody
	for _, o := range opts {
		o(&m)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if m.Allowed&Everybody == 0 || strings.ContainsAny(m.Name, "/?# ") || m.Name == "" {
		panic("rpc: method " + strconv.Quote(m.Name) + " has no name or is for nobody")
	}
	if _, taken := s.methods[m.Name]; taken {
		panic("rpc: method registered twice: " + m.Name)
	}
	s.methods[m.Name] = m
}

// Methods is the class table, by name.
func (s *Server) Methods() []Method {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := make([]Method, 0, len(s.methods))
	for _, m := range s.methods {
		out = append(out, m.Method)
	}
	slices.SortFunc(out, func(a, b Method) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// ServeConn answers calls on c until it closes or ctx ends, and closes it. A peer that has many connections already gets no more.
func (s *Server) ServeConn(ctx context.Context, c net.Conn, peer wire.Peer) {
	defer c.Close() //nolint:errcheck // the peer is gone either way
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	if !s.connect(peer.Node) {
		return
	}
	defer s.disconnect(peer.Node)
	s.http2.ServeConn(c, &http2.ServeConnOpts{
		Context:    ctx,
		BaseConfig: s.http,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			own := s.enter(peer.Node) // a call may outlive its connection, and what it holds counts as long
			defer s.leave(peer.Node, own)
			s.serve(newPaced(w), r, peer, own)
		}),
	})
}

// find applies the class table: what is not registered, or not for this class, is refused. The node itself may call all.
func (s *Server) find(name string, peer wire.Peer, self bool) (method, error) {
	s.mu.RLock()
	m, ok := s.methods[name]
	s.mu.RUnlock()
	if !ok {
		return method{}, wire.Errorf(wire.CodeRefused, "there is no method %q", name)
	}
	if !self && !m.Allowed.Allows(peer.Class) {
		return method{}, wire.ErrorNotAllowed("%s nodes may not call %s", peer.Class, name)
	}
	return m, nil
}

func (s *Server) serve(w paced, r *http.Request, peer wire.Peer, room *room) {
	w.Header().Set(headerGeneration, strconv.FormatUint(s.hooks.Generation(), 10))
	name := strings.TrimPrefix(r.URL.Path, "/")
	m, err := s.find(name, peer, false)
	if err != nil {
		if s.told.Allow() {
			s.log.Warn().Str("peer", string(peer.Node)).Str("class", string(peer.Class)).Str("method", name).Msg("call refused")
		}
		s.fail(w, err)
		return
	}
	generation, err := strconv.ParseUint(r.Header.Get(headerGeneration), 10, 64)
	if err != nil || r.Method != http.MethodPost {
		s.fail(w, wire.Errorf(wire.CodeInvalid, "not a call of an agent"))
		return
	}
	if err := s.hooks.Seen(peer, generation); err != nil && !m.former {
		s.fail(w, s.coded(err))
		return
	}
	if err := s.begin(room, m); err != nil {
		s.fail(w, err)
		return
	}
	defer s.end(room, m)
	ctx := r.Context()
	if ms, err := strconv.ParseInt(r.Header.Get(headerTimeout), 10, 64); err == nil && ms > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(min(ms, int64(24*time.Hour/time.Millisecond)))*time.Millisecond)
		defer cancel()
	}
	if m.Stream {
		s.serveStream(ctx, w, r, m, peer, room)
		return
	}
	answer, err := s.answer(ctx, w, r, m, peer, room)
	if err != nil {
		s.fail(w, err)
		return
	}
	// The answer has a place of its own: one that waited with its request's place taken could wait for itself.
	done, err := room.hold(ctx, len(answer))
	if err != nil {
		s.fail(w, err)
		return
	}
	defer done()
	w.Header().Set("Content-Length", strconv.Itoa(len(answer)))
	_, _ = w.Write(answer)
}

// answer reads the request and has it handled. The peer's share of memory is taken until the handler is done with the body.
func (s *Server) answer(ctx context.Context, w paced, r *http.Request, m method, peer wire.Peer, room *room) ([]byte, error) {
	body, done, err := room.body(ctx, w, r, m.limit)
	if err != nil {
		return nil, err
	}
	defer done()
	answer, err := s.invoke(ctx, m, &Request{Peer: peer, Method: m.Name, Body: body})
	if err == nil && len(answer) > MaxBody {
		return nil, wire.Errorf(wire.CodeInvalid, "answer of %s is more than %d bytes", m.Name, MaxBody)
	}
	return answer, err
}

// invoke runs a handler and encodes its answer. A panic fails this call only.
func (s *Server) invoke(ctx context.Context, m method, r *Request) (answer []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			s.log.Error().Str("method", m.Name).Interface("panic", p).Bytes("stack", debug.Stack()).Msg("handler panicked")
			answer, err = nil, wire.Errorf(wire.CodeInternal, "%s failed badly; see the log of the node", m.Name)
		}
	}()
	out, err := m.call(ctx, r)
	if err != nil {
		return nil, s.coded(err)
	}
	if raw, ok := out.([]byte); ok {
		return raw, nil
	}
	answer, err = json.Marshal(out)
	if err != nil {
		return nil, wire.Errorf(wire.CodeInternal, "encode answer of %s: %v", m.Name, err)
	}
	return answer, nil
}

func (s *Server) serveStream(ctx context.Context, w paced, r *http.Request, m method, peer wire.Peer, room *room) {
	body, done, err := room.body(ctx, w, r, m.limit)
	if err != nil {
		s.fail(w, err)
		return
	}
	defer done()
	write, err := m.stream(ctx, &Request{Peer: peer, Method: m.Name, Body: body})
	if err != nil {
		s.fail(w, s.coded(err))
		return
	}
	w.Header().Set("Trailer", headerError)
	w.WriteHeader(http.StatusOK)
	_ = w.control.Flush()
	if err := write(ctx, flushing{ctx: ctx, w: w, room: room}); err != nil {
		text, _ := json.Marshal(s.coded(err))
		w.Header().Set(headerError, string(text))
	}
	w.renew()
}

// coded finds or makes the *wire.Error that crosses the wire.
func (s *Server) coded(err error) *wire.Error {
	var e *wire.Error
	switch {
	case errors.As(err, &e):
		return e
	case errors.Is(err, context.DeadlineExceeded):
		return wire.Errorf(wire.CodeTimeout, "%v", err)
	}
	if e := s.hooks.Convert(err); e != nil {
		return e
	}
	if errors.Is(err, context.Canceled) {
		return wire.Errorf(wire.CodeUnavailable, "%v", err)
	}
	return wire.Errorf(wire.CodeInternal, "%v", err)
}

func (s *Server) fail(w paced, err error) {
	text, _ := json.Marshal(s.coded(err))
	w.Header().Set(headerError, "1")
	w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	w.WriteHeader(http.StatusUnprocessableEntity)
	_, _ = w.Write(text)
}
