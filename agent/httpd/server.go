package httpd

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/net/netutil"

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
	// MaxBody is the largest request body, in bytes; 0 means 1 MiB, −1 no limit.
	MaxBody int64
}

// Config is what a Server needs.
type Config struct {
	Log          zerolog.Logger
	Token        func() string // the bearer token; "" = nobody is let in by token
	LoopbackOpen bool
	Hosts        []string // names and addresses that a Host header may carry beside localhost and loopback addresses
}

// Limits of every listener.
const (
	maxConnections   = 256
	maxHeader        = 16 << 10
	headerTime       = 5 * time.Second
	idleTime         = 2 * time.Minute
	defaultBody      = 1 << 20
	shutdownPatience = 2 * time.Second
)

// Server answers routes.
type Server struct {
	config Config
	mux    *http.ServeMux
}

// New makes a server of routes. A doubled pattern is a programmer's mistake and panics, as in http.ServeMux.
func New(c Config, routes []Route) *Server {
	s := &Server{config: c, mux: http.NewServeMux()}
	for _, r := range routes {
		s.mux.Handle(r.Pattern, s.handler(r))
	}
	return s
}

type trustKey struct{}

// Serve answers on l until ctx ends.
func (s *Server) Serve(ctx context.Context, l net.Listener, trust Trust) error {
	srv := &http.Server{
		Handler:           s.guard(trust),
		ReadHeaderTimeout: headerTime,
		IdleTimeout:       idleTime,
		MaxHeaderBytes:    maxHeader,
		BaseContext: func(net.Listener) context.Context {
			return context.WithValue(context.WithoutCancel(ctx), trustKey{}, trust)
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
	err := srv.Serve(netutil.LimitListener(l, maxConnections))
	if ctx.Err() != nil || errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve http on %s: %w", l.Addr(), err)
}

// guard checks what is the same for every route: where the request says it goes, and where it says it comes from.
func (s *Server) guard(trust Trust) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
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
		s.mux.ServeHTTP(w, r)
	})
}

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
	if limit == 0 {
		limit = defaultBody
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := s.allowed(r, route.Access); err != nil {
			writeError(w, err)
			return
		}
		if limit > 0 {
			r.Body = http.MaxBytesReader(w, r.Body, limit)
		}
		defer func() {
			if p := recover(); p != nil && p != http.ErrAbortHandler {
				s.config.Log.Error().Interface("panic", p).Str("route", route.Pattern).Msg("http handler panicked")
				writeError(w, api.Errorf(api.CodeFailed, "internal error"))
			}
		}()
		if route.Stream != nil {
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

func (s *Server) allowed(r *http.Request, a Access) *api.Error {
	trust, _ := r.Context().Value(trustKey{}).(Trust)
	switch {
	case trust == TrustSocket, a == Open:
		return nil
	case a == Read && trust == TrustLoopback && s.config.LoopbackOpen:
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

func writeError(w http.ResponseWriter, e *api.Error) {
	b, _ := json.Marshal(api.Envelope{Error: e})
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(e.Status())
	_, _ = w.Write(append(b, '\n'))
}

// Decode reads a request's JSON body strictly: one document, no unknown field.
func Decode(r *http.Request, out any) error {
	dec := json.NewDecoder(r.Body)
	dec.DisallowUnknownFields()
	if err := dec.Decode(out); err != nil {
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			return api.Errorf(api.CodeInvalid, "request body: more than %d bytes", tooLarge.Limit)
		}
		return api.Errorf(api.CodeInvalid, "request body: %v", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return api.Errorf(api.CodeInvalid, "request body: more than one JSON document")
	}
	return nil
}

// Flush sends what was written so far.
func Flush(w http.ResponseWriter) { _ = http.NewResponseController(w).Flush() }

type watched struct {
	http.ResponseWriter
	wrote bool
}

func (w *watched) Write(b []byte) (int, error) {
	w.wrote = true
	return w.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach the real writer.
func (w *watched) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func clip(s string) string {
	if len(s) > 64 {
		return s[:64] + "…"
	}
	return s
}
