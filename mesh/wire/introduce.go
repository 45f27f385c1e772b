package wire

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"slices"
	"time"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/mesh/identity"
)

// Identify says which node answers at an address, and of which class by its certificate; that and the roster are checked as for
// Dial. Its boot is not known.
func (e *Endpoint) Identify(ctx context.Context, addr string) (Peer, error) {
	ctx, cancel := context.WithTimeout(ctx, e.limits.DialTimeout)
	defer cancel()
	raw, err := e.cfg.Network.Dial(ctx, addr)
	if err != nil {
		return Peer{}, Errorf(CodeUnavailable, "reach %s: %v", addr, err)
	}
	defer raw.Close() //nolint:errcheck // nothing was said
	var s identity.Subject
	if err := tls.Client(raw, e.clientConfig("", RPC, &s)).HandshakeContext(ctx); err != nil {
		if e := asError(err); e.Code != CodeInternal {
			return Peer{}, e
		}
		return Peer{}, Errorf(CodeUnavailable, "reach %s: %v", addr, err)
	}
	return Peer{Node: s.Node, Class: s.Class, Name: s.Name, Addr: raw.RemoteAddr().String()}, nil
}

// Introduction is what DialEnrol has proved about the other side.
type Introduction struct {
	Authority *identity.Authority
	Server    identity.Subject
}

// DialEnrol connects a machine that has no certificate to a core node at addr. Before it returns, and so before anything
// is sent, the other side has proved to be a core node certified by the authority whose hash is ca.
func DialEnrol(ctx context.Context, network Network, addr string, ca id.Digest) (net.Conn, Introduction, error) {
	raw, err := network.Dial(ctx, addr)
	if err != nil {
		return nil, Introduction{}, Errorf(CodeUnavailable, "reach %s: %v", addr, err)
	}
	var intro Introduction
	secured := tls.Client(raw, &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{Enrol},
		// There is no authority to check against yet but the one whose hash the token carries; VerifyConnection does it.
		InsecureSkipVerify: true, //nolint:gosec // see above
		VerifyConnection: func(state tls.ConnectionState) error {
			found, err := introduce(state, ca)
			intro = found
			return err
		},
	})
	if err := secured.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		if e := asError(err); e.Code != CodeInternal {
			return nil, Introduction{}, e
		}
		return nil, Introduction{}, Errorf(CodeUnavailable, "reach %s: %v", addr, err)
	}
	return secured, intro, nil
}

func introduce(state tls.ConnectionState, ca id.Digest) (Introduction, error) {
	leaf, err := leafOf(state)
	if err != nil {
		return Introduction{}, err
	}
	if state.NegotiatedProtocol != Enrol {
		return Introduction{}, Errorf(CodeUnavailable, "the other side is not a ringagent")
	}
	i := slices.IndexFunc(state.PeerCertificates, func(c *x509.Certificate) bool {
		hash, err := identity.KeyHash(c.PublicKey)
		return err == nil && hash == ca
	})
	if i < 0 {
		return Introduction{}, Errorf(CodeForeignRing, "the token belongs to another ring than the one that answers there").
			WithHint("make a token in the ring that you want to join")
	}
	authority, err := identity.ReadAuthority(state.PeerCertificates[i].Raw)
	if err != nil {
		return Introduction{}, Errorf(CodeForeignRing, "authority of the other side: %v", err)
	}
	subject, err := authority.Verify(leaf, time.Now(), false)
	if err != nil {
		return Introduction{}, Errorf(CodeUnauthorised, "certificate of the other side: %v", err)
	}
	if subject.Class != id.Core {
		return Introduction{}, Errorf(CodeUnauthorised, "an edge node cannot take anybody into the ring")
	}
	return Introduction{Authority: authority, Server: subject}, nil
}
