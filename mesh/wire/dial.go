package wire

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/mesh/identity"
)

// Dial connects to a node and speaks protocol with it; it is the only way to reach anybody. The node's addresses are tried
// best first, each with a short head start over the next and Limits.DialTimeout to itself. Success means that the other
// side has admitted this node. Errors are *Error: the other side's reason if it refused, CodeUnavailable if no address
// answered, CodeTimeout if ctx ended first.
func (e *Endpoint) Dial(ctx context.Context, node id.Node, protocol string) (*Conn, error) {
	if e.tracker.isRevoked(node) {
		return nil, errRevoked(node)
	}
	if entry, ok := e.cfg.Roster.Lookup(node); ok && entry.Revoked {
		return nil, errRevoked(node)
	}
	addresses := e.Whereabouts(node)
	if len(addresses) == 0 {
		return nil, Errorf(CodeUnavailable, "no address is known for node %s", node)
	}
	c, err := e.race(ctx, node, protocol, addresses)
	if err != nil {
		if ctx.Err() != nil {
			return nil, Errorf(CodeTimeout, "dial node %s: %v", node, context.Cause(ctx))
		}
		said := asError(err)
		if said.Code == CodeInternal || said.Code == CodeUnauthorised { // nobody answers, or somebody else
			e.cfg.Book.unreachable(node)
		}
		if said.Code != CodeInternal {
			return nil, said
		}
		return nil, Errorf(CodeUnavailable, "dial node %s: %v", node, err)
	}
	if err := e.tracker.add(c); err != nil {
		c.Abort()
		return nil, err
	}
	return c, nil
}

// Whereabouts lists the addresses under which a node is known here, best first.
func (e *Endpoint) Whereabouts(node id.Node) []string {
	entry, _ := e.cfg.Roster.Lookup(node)
	return e.cfg.Book.candidates(node, entry.Addresses)
}

// Lost lists which of nodes cannot be dialled as far as is known: they have no address here, or none of theirs answered the
// last time.
func (e *Endpoint) Lost(nodes []id.Node) []id.Node {
	var out []id.Node
	for _, n := range nodes {
		if e.cfg.Book.isLost(n) || len(e.Whereabouts(n)) == 0 {
			out = append(out, n)
		}
	}
	return out
}

type attempt struct {
	conn *Conn
	addr string
	err  error
}

// race tries addresses one after the other, not waiting for the failure of one before the next begins.
func (e *Endpoint) race(ctx context.Context, node id.Node, protocol string, addresses []string) (*Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	results := make(chan attempt)
	running := 0
	defer func() {
		// Losers are closed, and nobody is left behind.
		cancel()
		for ; running > 0; running-- {
			if r := <-results; r.conn != nil {
				_ = r.conn.NetConn().Close()
			}
		}
	}()
	var failures []error
	stagger := time.NewTimer(0)
	defer stagger.Stop()
	for next := 0; next < len(addresses) || running > 0; {
		select {
		case <-stagger.C:
			if next >= len(addresses) {
				continue
			}
			addr := addresses[next]
			next++
			running++
			go func() {
				c, err := e.dialOne(ctx, node, protocol, addr)
				results <- attempt{conn: c, addr: addr, err: err}
			}()
			stagger.Reset(e.limits.DialStagger)
		case r := <-results:
			running--
			if r.err == nil {
				e.cfg.Book.good(node, r.addr)
				return r.conn, nil
			}
			failures = append(failures, fmt.Errorf("%s: %w", r.addr, r.err))
			stagger.Reset(0)
		}
	}
	// A reason given by the node itself says more than an address that did not answer.
	for _, f := range failures {
		if IsCode(f, CodeRevoked, CodeDuplicate, CodeUnknownNode, CodeExpired) {
			return nil, f
		}
	}
	return nil, errors.Join(failures...)
}

func (e *Endpoint) dialOne(ctx context.Context, node id.Node, protocol, addr string) (*Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, e.limits.DialTimeout)
	defer cancel()
	raw, err := e.cfg.Network.Dial(ctx, addr)
	if err != nil {
		return nil, err //nolint:wrapcheck // the Network has said what it did
	}
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	c, err := e.greet(ctx, raw, node, protocol)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = raw.Close()
		return nil, err
	}
	return c, nil
}

func (e *Endpoint) greet(ctx context.Context, raw net.Conn, node id.Node, protocol string) (*Conn, error) {
	var s identity.Subject
	secured := tls.Client(raw, e.clientConfig(node, protocol, &s))
	if err := secured.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("handshake: %w", err)
	}
	hello := greeting{Boot: e.cfg.Boot, Started: e.cfg.Started.UnixNano(), Advertise: e.cfg.Advertise, Port: e.port()}
	if err := WriteFrame(secured, hello); err != nil {
		return nil, err
	}
	var answer greeting
	if err := ReadFrame(secured, maxGreeting, &answer); err != nil {
		// A listener that does not like our certificate can say so only by a TLS alert.
		var alert *net.OpError
		if errors.As(err, &alert) && alert.Op == "remote error" {
			return nil, Errorf(CodeUnauthorised, "node %s refuses this node's certificate: %v", node, alert.Err).
				WithHint("it may have expired, or one of the clocks is wrong")
		}
		return nil, fmt.Errorf("wait for admission: %w", err)
	}
	if answer.Refused != nil {
		if s.Class == id.Core || !IsCode(answer.Refused, CodeRevoked, CodeDuplicate) {
			e.cfg.Refused(node, answer.Refused)
		}
		return nil, answer.Refused
	}
	return &Conn{
		Conn: secured, tracker: e.tracker, started: answer.Started,
		peer: Peer{Node: s.Node, Class: s.Class, Name: s.Name, Boot: answer.Boot, Addr: raw.RemoteAddr().String()},
	}, nil
}

func (e *Endpoint) port() int {
	_, text, err := net.SplitHostPort(e.listener.Addr().String())
	if err != nil {
		return 0
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		return 0
	}
	return n
}

// observed is where a peer may be reachable: the address that it came from, with the port that it says it listens on.
func observed(remote string, port int) string {
	host, _, err := net.SplitHostPort(remote)
	if err != nil || port <= 0 || port > 65535 {
		return ""
	}
	return net.JoinHostPort(host, strconv.Itoa(port))
}
