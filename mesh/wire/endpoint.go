package wire

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/mesh/identity"
)

// Config is what an Endpoint needs. Credentials, Roster, Book and Boot are required.
type Config struct {
	Network     Network // nil means TCP
	Listen      string  // host:port
	Advertise   []string
	Credentials *identity.Credentials
	Roster      Roster
	Book        *Book
	Boot        id.Boot
	Started     time.Time // of the boot; of two agents with one identity the one that started first keeps it
	Limits      Limits
	Now         func() time.Time // the wall clock by which certificates are judged; nil means the machine's
	Log         zerolog.Logger
	// Unknown is told about nodes with a certificate that are not in this node's roster: its copy may be old. It must
	// not block. May be nil.
	Unknown func(id.Node)
	// Refused is told when another node refuses this one, with the reason. That this node is revoked, or a double, is
	// what may end an agent: it is believed of core nodes only, since any rented machine can say so. It must not block.
	// May be nil.
	Refused func(by id.Node, reason *Error)
}

// Handler serves one admitted connection and owns it: it must close it.
type Handler func(ctx context.Context, c *Conn)

// Endpoint is a node's port together with everything that is connected through it.
type Endpoint struct {
	cfg      Config
	limits   Limits
	gate     *gate
	tracker  *tracker
	lobby    *lobby
	listener net.Listener
	plain    *queue
	secure   *queue

	mu       sync.Mutex
	handlers map[string]Handler
	enrol    func(ctx context.Context, c net.Conn)
	queues   []*queue
}

// Open binds the port. Nothing is accepted before Serve; handlers are registered in between.
func Open(ctx context.Context, cfg Config) (*Endpoint, error) {
	if cfg.Network == nil {
		cfg.Network = TCP{}
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Unknown == nil {
		cfg.Unknown = func(id.Node) {}
	}
	if cfg.Refused == nil {
		cfg.Refused = func(id.Node, *Error) {}
	}
	l, err := cfg.Network.Listen(ctx, cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("open port %s: %w", cfg.Listen, err)
	}
	t := newTracker()
	e := &Endpoint{
		cfg:      cfg,
		limits:   cfg.Limits.withDefaults(),
		gate:     &gate{credentials: cfg.Credentials, roster: cfg.Roster, revoked: t.isRevoked, unknown: cfg.Unknown, now: cfg.Now},
		tracker:  t,
		listener: l,
		plain:    newQueue(l.Addr()),
		secure:   newQueue(l.Addr()),
		handlers: make(map[string]Handler),
	}
	e.lobby = newLobby(e.limits)
	e.queues = []*queue{e.plain, e.secure}
	return e, nil
}

// Addr is where the port listens.
func (e *Endpoint) Addr() net.Addr { return e.listener.Addr() }

// Handle registers who serves a protocol. Registering one twice, or while serving, is a programmer's error and panics.
func (e *Endpoint) Handle(protocol string, h Handler) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, taken := e.handlers[protocol]; taken {
		panic("wire: protocol registered twice: " + protocol)
	}
	e.handlers[protocol] = h
}

// HandleEnrol registers who serves newcomers. Their connections are encrypted but prove nothing about the other side.
func (e *Endpoint) HandleEnrol(h func(ctx context.Context, c net.Conn)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.enrol = h
}

// Listener registers a net.Listener as the server of a protocol. Its connections are *Conn; PeerOf tells who is there.
func (e *Endpoint) Listener(protocol string) net.Listener {
	q := newQueue(e.listener.Addr())
	e.Handle(protocol, func(ctx context.Context, c *Conn) { q.push(ctx, c) })
	e.mu.Lock()
	e.queues = append(e.queues, q)
	e.mu.Unlock()
	return q
}

// PlainHTTP gives the connections that began with anything but TLS: the operator's API on loopback. Who serves them must
// check the remote address.
func (e *Endpoint) PlainHTTP() net.Listener { return e.plain }

// TLSHTTP gives *tls.Conn with h2, http/1.1 or no ALPN, handshake done: the operator's API with a bearer token.
func (e *Endpoint) TLSHTTP() net.Listener { return e.secure }

// Serve accepts until ctx ends, then closes the port and every connection, and waits until all of its goroutines are gone.
func (e *Endpoint) Serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var group sync.WaitGroup
	stop := context.AfterFunc(ctx, func() { _ = e.listener.Close() })
	defer stop()
	var err error
	for {
		var raw net.Conn
		raw, err = e.listener.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				break
			}
			// Out of descriptors, mostly: wait for some to come back rather than die.
			e.cfg.Log.Warn().Err(err).Msg("accept failed")
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		g := e.lobby.enter(raw)
		if g == nil {
			_ = raw.Close()
			continue
		}
		group.Go(func() { e.receive(ctx, g) })
	}
	cancel()
	_ = e.listener.Close()
	e.Close()
	group.Wait()
	if ctx.Err() == nil {
		return fmt.Errorf("serve port: %w", err)
	}
	return nil
}

// Close ends everything that is connected and takes nobody in any more. Serve calls it; without Serve it frees the port.
func (e *Endpoint) Close() {
	_ = e.listener.Close()
	e.lobby.shut()
	e.tracker.shutdown()
	e.mu.Lock()
	queues := slices.Clone(e.queues)
	e.mu.Unlock()
	for _, q := range queues {
		_ = q.Close()
	}
}

// Revoke closes all connections of a node, in both directions, and refuses it from now on, whatever the roster says. It
// returns how many were closed.
func (e *Endpoint) Revoke(node id.Node) int {
	n := e.tracker.revoke(node)
	e.cfg.Log.Info().Stringer("peer", stringer(node)).Int("closed", n).Msg("node shut out")
	return n
}

// Revoked says whether Revoke was called for a node.
func (e *Endpoint) Revoked(node id.Node) bool { return e.tracker.isRevoked(node) }

// Connections counts the admitted connections.
func (e *Endpoint) Connections() int { return e.tracker.count() }

// receive brings one accepted connection from its first byte to its handler.
func (e *Endpoint) receive(ctx context.Context, g *guest) {
	defer e.lobby.leave(g)
	raw := g.conn
	if err := raw.SetDeadline(time.Now().Add(e.limits.Handshake)); err != nil {
		_ = raw.Close()
		return
	}
	var first [1]byte
	if _, err := raw.Read(first[:]); err != nil {
		_ = raw.Close()
		return
	}
	conn := &prefixed{Conn: raw, first: first[:]}
	const tlsHandshake = 0x16
	if first[0] != tlsHandshake {
		_ = raw.SetDeadline(time.Time{})
		e.lobby.leave(g)
		e.plain.push(ctx, conn)
		return
	}
	var subject identity.Subject
	secured := tls.Server(conn, e.serverConfig(&subject))
	if err := secured.HandshakeContext(ctx); err != nil {
		e.cfg.Log.Debug().Err(err).Stringer("remote", raw.RemoteAddr()).Msg("handshake failed")
		// What the other side sent meanwhile is read, so that closing does not overtake the alert that tells it why.
		_ = raw.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		_, _ = io.CopyN(io.Discard, raw, maxGreeting)
		_ = raw.Close()
		return
	}
	switch protocol := secured.ConnectionState().NegotiatedProtocol; protocol {
	case "", "h2", "http/1.1":
		_ = raw.SetDeadline(time.Time{})
		e.lobby.leave(g)
		e.secure.push(ctx, secured)
	case Enrol:
		e.mu.Lock()
		serve := e.enrol
		e.mu.Unlock()
		if serve == nil {
			_ = secured.Close()
			return
		}
		// It stays in the lobby: a newcomer proves itself only by its token, and may be thrown out until it has.
		serve(ctx, secured)
	default:
		e.welcome(ctx, g, secured, subject, protocol)
	}
}

// welcome exchanges greetings with a peer whose certificate holds, and hands it over if it is admitted.
func (e *Endpoint) welcome(ctx context.Context, g *guest, secured *tls.Conn, s identity.Subject, protocol string) {
	var hello greeting
	if err := ReadFrame(secured, maxGreeting, &hello); err != nil {
		_ = secured.Close()
		return
	}
	c := &Conn{
		Conn: secured, inbound: true, tracker: e.tracker, started: hello.Started,
		peer: Peer{Node: s.Node, Class: s.Class, Name: s.Name, Boot: hello.Boot, Addr: g.conn.RemoteAddr().String()},
	}
	e.mu.Lock()
	serve := e.handlers[protocol]
	e.mu.Unlock()
	err := e.gate.admit(s, false)
	if err == nil && serve == nil {
		err = Errorf(CodeUnavailable, "protocol %s is not served here", protocol)
	}
	if err == nil {
		err = e.checkDouble(ctx, c)
	}
	if err == nil {
		err = e.tracker.add(c)
	}
	if err != nil {
		e.cfg.Log.Debug().Err(err).Stringer("peer", stringer(s.Node)).Str("protocol", protocol).Msg("peer refused")
		_ = WriteFrame(secured, greeting{Boot: e.cfg.Boot, Started: e.cfg.Started.UnixNano(), Refused: asError(err)})
		_ = secured.Close()
		return
	}
	if err := WriteFrame(secured, greeting{Boot: e.cfg.Boot, Started: e.cfg.Started.UnixNano()}); err != nil {
		_ = c.Close()
		return
	}
	_ = secured.SetDeadline(time.Time{})
	e.lobby.leave(g)
	e.cfg.Book.heard(s.Node, hello.Advertise, observed(c.peer.Addr, hello.Port))
	serve(ctx, c)
}

// serverConfig is made per connection, as the check of the peer depends on the protocol that it asks for.
func (e *Endpoint) serverConfig(subject *identity.Subject) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			protocol, err := agentProtocol(hello.SupportedProtos)
			if err != nil {
				return nil, err
			}
			c := &tls.Config{
				MinVersion:             tls.VersionTLS13,
				Certificates:           []tls.Certificate{*e.cfg.Credentials.Certificate()},
				SessionTicketsDisabled: true,
				NextProtos:             []string{"h2", "http/1.1"},
			}
			if protocol == "" {
				return c, nil
			}
			c.NextProtos = []string{protocol}
			if protocol == Enrol {
				return c, nil
			}
			c.ClientAuth = tls.RequireAnyClientCert
			c.VerifyConnection = func(state tls.ConnectionState) error {
				s, err := e.gate.verify(state.PeerCertificates, protocol)
				*subject = s
				return err
			}
			return c, nil
		},
	}
}

// agentProtocol tells agents' protocols from people's: an agent offers exactly one.
func agentProtocol(offered []string) (string, error) {
	known := []string{Gossip, Raft, RPC, Blob, Enrol, Renew}
	for _, p := range offered {
		if !strings.HasPrefix(p, "ring-") {
			continue
		}
		if len(offered) != 1 || !slices.Contains(known, p) {
			return "", Errorf(CodeInvalid, "protocols %q are not served here", offered)
		}
		return p, nil
	}
	return "", nil
}

// clientConfig checks that the other side is exactly the node that is wanted; "" takes any node of the ring.
func (e *Endpoint) clientConfig(node id.Node, protocol string, subject *identity.Subject) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{protocol},
		// The standard check wants host names and the system's clock; VerifyConnection has the ring's own rules instead,
		// and runs on every connection.
		InsecureSkipVerify: true, //nolint:gosec // see above
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return e.cfg.Credentials.Certificate(), nil
		},
		VerifyConnection: func(state tls.ConnectionState) error {
			if state.NegotiatedProtocol != protocol {
				return Errorf(CodeUnauthorised, "the other side does not speak %s", protocol)
			}
			s, err := e.gate.verify(state.PeerCertificates, protocol)
			if err != nil {
				return err
			}
			if node != "" && s.Node != node {
				return Errorf(CodeUnauthorised, "node %s answers where %s was expected", s.Node, node)
			}
			*subject = s
			return e.gate.admit(s, true)
		},
	}
}

func leafOf(state tls.ConnectionState) (*x509.Certificate, error) {
	if len(state.PeerCertificates) == 0 {
		return nil, Errorf(CodeUnauthorised, "the other side sent no certificate")
	}
	return state.PeerCertificates[0], nil
}

func asError(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return Errorf(CodeInternal, "%v", err)
}

type stringer string

func (s stringer) String() string { return string(s) }
