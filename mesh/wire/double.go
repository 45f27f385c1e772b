package wire

import (
	"context"
	"crypto/tls"
	"fmt"
	"time"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/mesh/identity"
)

// doublePatience is how long the agent that a node was known by gets to show that it is still there.
const doublePatience = 2 * time.Second

// checkDouble refuses a second agent with one identity. A new boot of a node is the everyday case, a machine that was
// restarted; so the agent of the boot that was known is called at its addresses, and only if it answers is there a double.
// Then the one that started first keeps the identity.
func (e *Endpoint) checkDouble(ctx context.Context, c *Conn) error {
	known, differs := e.tracker.other(c.peer.Node, c.peer.Boot)
	if !differs || c.started < known.started {
		return nil
	}
	var hints []string
	if entry, ok := e.cfg.Roster.Lookup(c.peer.Node); ok {
		hints = entry.Addresses
	}
	addresses := e.cfg.Book.candidates(c.peer.Node, hints)
	ctx, cancel := context.WithTimeout(ctx, doublePatience)
	defer cancel()
	found := make(chan string, len(addresses))
	for _, addr := range addresses {
		go func() {
			there, err := e.dialOne(ctx, c.peer.Node, RPC, addr)
			if err != nil {
				found <- ""
				return
			}
			_ = there.NetConn().Close()
			if there.peer.Boot != known.boot {
				addr = ""
			}
			found <- addr
		}()
	}
	for range addresses {
		if addr := <-found; addr != "" {
			return errDouble(c.peer.Node, addr)
		}
	}
	return nil
}

// Twin dials address and gives the boot of the agent there, if it is another agent with this node's identity: it has to
// prove that it holds this node's own key, which nobody else can, and this node itself, reached by a detour, is none. ""
// and nil mean that this node itself answered. Whoever else answers is an error, as is nobody.
func (e *Endpoint) Twin(ctx context.Context, address string) (id.Boot, error) {
	ctx, cancel := context.WithTimeout(ctx, e.limits.DialTimeout)
	defer cancel()
	raw, err := e.cfg.Network.Dial(ctx, address)
	if err != nil {
		return "", err //nolint:wrapcheck // the Network has said what it did
	}
	defer raw.Close() //nolint:errcheck // all has been said
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	defer stop()
	secured := tls.Client(raw, e.twinConfig())
	if err := secured.HandshakeContext(ctx); err != nil {
		return "", fmt.Errorf("handshake: %w", err)
	}
	if err := WriteFrame(secured, greeting{Boot: e.cfg.Boot, Started: e.cfg.Started.UnixNano()}); err != nil {
		return "", err
	}
	// It refuses its own identity; what matters is the boot that says so.
	var answer greeting
	if err := ReadFrame(secured, maxGreeting, &answer); err != nil {
		return "", fmt.Errorf("wait for its boot: %w", err)
	}
	if answer.Boot == e.cfg.Boot {
		return "", nil
	}
	return answer.Boot, nil
}

// twinConfig takes nobody at the other end but who holds this node's own key.
func (e *Endpoint) twinConfig() *tls.Config {
	c := e.clientConfig("", RPC, new(identity.Subject))
	c.VerifyConnection = func(state tls.ConnectionState) error {
		s, err := e.gate.verify(state.PeerCertificates, RPC)
		if err != nil {
			return err
		}
		if own := e.cfg.Credentials.Subject(); s.Node != own.Node || s.Key != own.Key {
			return Errorf(CodeUnauthorised, "node %s answers, not another agent of this one", s.Node)
		}
		return nil
	}
	return c
}
