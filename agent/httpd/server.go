package httpd

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/ringagent/ringagent/agent/api"
)

// Trust is what a listener says about whoever dials it.
type Trust int

// A socket's mode guards it, so it may do everything. Loopback may read freely if the config says so. TLS needs the token
// for everything but liveness.
const (
	TrustSocket Trust = iota + 1
	TrustLoopback
	TrustTLS
)

// Access is what a route needs.
type Access int

// Open routes answer anybody, Read routes give the ring's facts, Write routes change something.
const (
	Open Access = iota + 1
	Read
	Write
)

// Route is one thing that can be asked. Exactly one of Do and Stream is set.
type Route struct {
	Pattern string // as in http.ServeMux, with its method: "GET /api/v1/members"
	Access  Access
	// Do gives the answer, which is written as JSON.
	Do func(r *http.Request) (any, error)
	// Stream writes the answer itself; an error before the first byte is answered like one of Do.
	Stream func(w http.ResponseWriter, r *http.Request) error
	// Brief says that Stream ends at once by itself, and needs no place among the streams.
	Brief bool
	// MaxBody is the largest request body, in bytes; 0 means 1 MiB, −1 no limit. Open routes take none: strangers ask there.
	MaxBody int64
}

// Config is what a Server needs.
type Config struct {
	Log          zerolog.Logger
	Token        func() string // the bearer token; "" = nobody is let in by token
	LoopbackOpen bool          // at first; see OpenLoopback
	Hosts        []string      // names and addresses that a Host header may carry beside localhost and loopback addresses
}

// Limits of every listener.
const (
	maxConnections   = 384
	maxAnswers       = 256 // requests at once
	maxHeader        = 16 << 10
	headerTime       = 5 * time.Second
	idleTime         = 30 * time.Second
	bodyTime         = 20 * time.Second // for a whole body within its limit
	writeTime        = 30 * time.Second // for each piece of an answer; a reader that takes none of it for so long is cut off
	maxStreams       = 128              // of maxAnswers, so that who only asks is always answered
	defaultBody      = 1 << 20
	noBody           = 0
	maxMultiplexed   = 16 // requests at once on one HTTP/2 connection
	shutdownPatience = 2 * time.Second
)

// Server answers routes.
type Server struct {
	config   Config
	mux      *http.ServeMux
	loopback atomic.Bool // reading is free there
}

// New makes a server of routes. A doubled pattern is a programmer's mistake and panics, as in http.ServeMux.
func New(c Config, routes []Route) *Server {
	s := &Server{config: c, mux: http.NewServeMux()}
	s.OpenLoopback(c.LoopbackOpen)
	for _, r := range routes {
		s.mux.Handle(r.Pattern, s.handler(r))
	}
	return s
}

// OpenLoopback makes reading on loopback free, or ends that; requests that come from then on are judged by it.
func (s *Server) OpenLoopback(open bool) { s.loopback.Store(open) }

type (
	trustKey   struct{}
	streamsKey struct{}
)

// Serve answers on l until ctx ends.
func (s *Server) Serve(ctx context.Context, l net.Listener, trust Trust) error {
	streams := make(chan struct{}, maxStreams)
	srv := &http.Server{
		Handler:           s.guard(trust),
		ReadHeaderTimeout: headerTime,
		IdleTimeout:       idleTime,
		MaxHeaderBytes:    maxHeader,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: maxMultiplexed},
		BaseContext: func(net.Listener) context.Context {
			base := context.WithValue(context.WithoutCancel(ctx), trustKey{}, trust)
			return context.WithValue(base, streamsKey{}, streams)
		},
	}
	stopped := context.AfterFunc(ctx, func() {
		patience, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownPatience)
		defer cancel()
		if srv.Shutdown(patience) != nil {
			_ = srv.Close() // streams that follow do not end by themselves
		}
	})
	defer stopped()
	room := newRoom(l, maxConnections, maxAnswers)
	srv.ConnState, srv.ConnContext = room.watch, room.introduce
	err := srv.Serve(room)
	if ctx.Err() != nil || errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve http on %s: %w", l.Addr(), err)
}

// guard checks what is the same for every route: where the request says it goes, and where it says it comes from.
func (s *Server) guard(trust Trust) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		control := http.NewResponseController(w)
		_ = control.SetWriteDeadline(time.Time{})
		if r.ContentLength != 0 {
			// Also for a body that nobody will look at: the server reads some of it before it takes the next request.
			_ = control.SetReadDeadline(time.Now().Add(bodyTime))
		}
		w = &watched{ResponseWriter: w}
		if trust != TrustSocket {
			if !s.knownHost(r.Host) {
				writeError(w, api.Errorf(api.CodeUnauthorised, "host %q is not this agent", clip(r.Host)))
				return
			}
			if r.Header.Get("Origin") != "" && r.Method != http.MethodGet {
				writeError(w, api.Errorf(api.CodeUnauthorised, "a page of another origin may not change anything"))
				return
			}
		}
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Content-Security-Policy", "default-src 'none'")
		h.Set("Cache-Control", "no-store")
		if no, pattern := s.mux.Handler(r); pattern == "" {
			unrouted(w, r, no)
			return
		}
		s.mux.ServeHTTP(w, r)
	})
}

// unrouted says in our words what the mux has to say of a request that no route is for: no is its own answer to it.
func unrouted(w http.ResponseWriter, r *http.Request, no http.Handler) {
	said := verdict{header: http.Header{}}
	no.ServeHTTP(&said, r)
	if said.status != http.StatusMethodNotAllowed {
		writeError(w, api.Errorf(api.CodeNotFound, "there is no %s here", clip(r.URL.Path)))
		return
	}
	allow := said.header.Get("Allow")
	w.Header().Set("Allow", allow)
	writeErrorAs(w, said.status, api.Errorf(api.CodeUsage, "%s cannot be asked by %s", clip(r.URL.Path), clip(r.Method)).WithHint("use "+allow))
}

// verdict keeps what a handler says, but for its words.
type verdict struct {
	header http.Header
	status int
}

func (v *verdict) Header() http.Header         { return v.header }
func (v *verdict) WriteHeader(status int)      { v.status = status }
func (v *verdict) Write(b []byte) (int, error) { return len(b), nil }

func (s *Server) knownHost(host string) bool {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	name = strings.Trim(name, "[]")
	if ip := net.ParseIP(name); ip != nil && ip.IsLoopback() || strings.EqualFold(name, "localhost") {
		return true
	}
	for _, known := range s.config.Hosts {
		if strings.EqualFold(name, known) {
			return true
		}
	}
	return false
}

func (s *Server) handler(route Route) http.Handler {
	limit := route.MaxBody
	switch {
	case route.Access == Open:
		limit = noBody
	case limit == 0:
		limit = defaultBody
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := s.allowed(r, route.Access); err != nil {
			writeError(w, err)
			return
		}
		if err := takeBody(w, r, limit); err != nil {
			w.Header().Set("Connection", "close")
			writeError(w, err)
			return
		}
		// Probes are not counted: that an agent is busy is no reason to kill it.
		if g, ok := r.Context().Value(guestKey{}).(*guest); ok && g != nil && route.Access != Open {
			if !g.begin() {
				w.Header().Set("Connection", "close")
				writeError(w, api.Errorf(api.CodeBusy, "%d requests are being answered already", maxAnswers).WithHint("try again in a moment"))
				return
			}
			defer g.end()
		}
		defer func() {
			if p := recover(); p != nil && p != http.ErrAbortHandler {
				s.config.Log.Error().Interface("panic", p).Str("route", route.Pattern).Msg("http handler panicked")
				writeError(w, api.Errorf(api.CodeFailed, "internal error"))
			}
		}()
		if route.Stream != nil {
			if streams, ok := r.Context().Value(streamsKey{}).(chan struct{}); ok && !route.Brief {
				select {
				case streams <- struct{}{}:
					defer func() { <-streams }()
				default:
					w.Header().Set("Connection", "close")
					writeError(w, api.Errorf(api.CodeBusy, "%d streams are open already", maxStreams).WithHint("end some of them, or ask another node"))
					return
				}
			}
			out := &watched{ResponseWriter: w}
			if err := route.Stream(out, r); err != nil {
				if !out.wrote {
					writeError(w, api.AsError(err))
					return
				}
				// The answer has begun; a last line tells a reader of lines what ended it.
				if r.Context().Err() == nil {
					_ = json.NewEncoder(w).Encode(api.Envelope{Error: api.AsError(err)})
				}
			}
			return
		}
		v, err := route.Do(r)
		if err != nil {
			writeError(w, api.AsError(err))
			return
		}
		writeJSON(w, http.StatusOK, v)
	})
}

// takeBody reads the whole body ahead of its handler, so that a sender that is slow on purpose holds up nothing but itself.
// A body without limit is its handler's to read. It comes before the request gets its place among those that are answered:
// who is slow to send one must go on making room for others.
func takeBody(w http.ResponseWriter, r *http.Request, limit int64) *api.Error {
	if r.ContentLength == 0 {
		return nil
	}
	noDeadline := func() { _ = http.NewResponseController(w).SetReadDeadline(time.Time{}) }
	switch {
	case limit < 0:
		noDeadline()
		return nil
	case r.ContentLength > limit:
		return api.Errorf(api.CodeTooLarge, "request body: more than %d bytes", limit)
	}
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return api.Errorf(api.CodeTooLarge, "request body: more than %d bytes", tooLarge.Limit)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return api.Errorf(api.CodeInvalid, "request body: not here after %s", bodyTime)
	case err != nil:
		return api.Errorf(api.CodeInvalid, "request body: %v", err)
	}
	noDeadline()
	r.Body = io.NopCloser(bytes.NewReader(b))
	return nil
}

func (s *Server) allowed(r *http.Request, a Access) *api.Error {
	trust, _ := r.Context().Value(trustKey{}).(Trust)
	switch {
	case trust == TrustSocket, a == Open:
		return nil
	case a == Read && trust == TrustLoopback && s.loopback.Load():
		return nil
	}
	got, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	want := ""
	if s.config.Token != nil {
		want = s.config.Token()
	}
	if ok && want != "" && same(got, want) {
		return nil
	}
	return api.Errorf(api.CodeUnauthorised, "this needs the operator's token").
		WithHint("send it as: Authorization: Bearer <content of the agent's api.token file>")
}

// same compares in a time that does not depend on where the two differ, or on their lengths.
func same(a, b string) bool {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		writeError(w, api.Errorf(api.CodeFailed, "encode answer: %v", err))
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n'))
}

func writeError(w http.ResponseWriter, e *api.Error) { writeErrorAs(w, e.Status(), e) }

func writeErrorAs(w http.ResponseWriter, status int, e *api.Error) {
	b, _ := json.Marshal(api.Envelope{Error: e})
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n'))
}

// Decode reads a request's JSON body strictly: one document, no unknown field.
func Decode(r *http.Request, out any) error {
	dec := json.NewDecoder(r.Body)
	dec.DisallowUnknownFields()
	if err := dec.Decode(out); err != nil {
		return api.Errorf(api.CodeInvalid, "request body: %v", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return api.Errorf(api.CodeInvalid, "request body: more than one JSON document")
	}
	return nil
}

// Flush sends what was written so far.
func Flush(w http.ResponseWriter) { _ = http.NewResponseController(w).Flush() }

// watched knows whether an answer has begun, and gives each piece of it a deadline.
type watched struct {
	http.ResponseWriter
	wrote bool
}

func (w *watched) Write(b []byte) (int, error) {
	w.wrote = true
	_ = http.NewResponseController(w.ResponseWriter).SetWriteDeadline(time.Now().Add(writeTime))
	return w.ResponseWriter.Write(b)
}

// FlushError sends the header at the latest: then the answer has begun.
func (w *watched) FlushError() error {
	w.wrote = true
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// Unwrap lets http.ResponseController reach the real writer.
func (w *watched) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func clip(s string) string {
	if len(s) > 64 {
		return s[:64] + "…"
	}
	return s
}
