package wire

import (
	"crypto/x509"
	"errors"
	"time"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/mesh/identity"
)

// Protocols that agents speak with each other, by ALPN. All but Enrol need a certificate of the ring at both ends.
const (
	Gossip = "ring-gossip/1"
	Raft   = "ring-raft/1"
	RPC    = "ring-rpc/1"
	Blob   = "ring-blob/1"
	Enrol  = "ring-enrol/1"
	Renew  = "ring-renew/1"
)

// Entry is what the replicated state says about a node.
type Entry struct {
	Key       id.Digest // of the node's public key, see identity.KeyHash
	Class     id.Class
	Name      string
	Revoked   bool
	Addresses []string // host:port under which it was last known; may be empty
}

// Roster is this node's copy of the roster in the replicated state. Its methods are called on every connection and from
// the gossip loop: they must return at once.
type Roster interface {
	// Lookup finds a node; a revoked one is found with Revoked set for as long as the state remembers it.
	Lookup(node id.Node) (Entry, bool)
	// Nodes lists all nodes that are not revoked.
	Nodes() []id.Node
	// Loaded is false as long as this node has never had a copy. Until then it takes a certificate of the ring as enough
	// from nodes that it dials itself, and takes nobody in.
	Loaded() bool
}

// Peer is who is at the other end of a connection.
type Peer struct {
	Node  id.Node
	Class id.Class
	Name  string
	Boot  id.Boot
	Addr  string // host:port as this side sees it
}

// gate decides who is let in. Its fields but revoked never change.
type gate struct {
	credentials *identity.Credentials
	roster      Roster
	revoked     func(id.Node) bool
	unknown     func(id.Node)
	now         func() time.Time
}

// verify checks a peer's certificate: the ring's signature, ring id, class and times, and takes one that is out of its time
// only where the key alone matters.
func (g *gate) verify(chain []*x509.Certificate, protocol string) (identity.Subject, error) {
	if len(chain) == 0 {
		return identity.Subject{}, Errorf(CodeUnauthorised, "the other side sent no certificate")
	}
	own := g.credentials.Subject()
	s, err := g.credentials.Authority().Verify(chain[0], g.now(), false)
	if err != nil && g.takesUntimely(protocol, own, s, err) {
		s, err = g.credentials.Authority().Verify(chain[0], g.now(), true)
	}
	switch {
	case err == nil:
		return s, nil
	case errors.Is(err, identity.ErrExpired), errors.Is(err, identity.ErrNotYetValid):
		return s, Errorf(CodeExpired, "certificate of %s: %v", s.Node, err).
			WithHint("compare the clocks of both machines")
	default:
		return s, Errorf(CodeUnauthorised, "certificate of the other side: %v", err)
	}
}

// takesUntimely is limited to keys that the roster holds, so it needs a roster. A certificate that has not begun was signed
// by a clock that was wrong, and only renewal mends that.
func (g *gate) takesUntimely(protocol string, own, peer identity.Subject, why error) bool {
	if _, known := g.roster.Lookup(peer.Node); !known {
		return false
	}
	expired := errors.Is(why, identity.ErrExpired)
	switch protocol {
	case Renew:
		return expired || errors.Is(why, identity.ErrNotYetValid)
	case Raft:
		return expired && own.Class == id.Core && peer.Class == id.Core
	}
	return false
}

// admit checks a verified subject against the roster: a certificate alone admits nobody. dialled says that this node chose
// to call that one, which is enough as long as there is no roster here at all.
func (g *gate) admit(s identity.Subject, dialled bool) error {
	if g.revoked(s.Node) {
		return errRevoked(s.Node)
	}
	if s.Node == g.credentials.Subject().Node {
		return Errorf(CodeDuplicate, "node %s is this node itself", s.Node)
	}
	entry, ok := g.roster.Lookup(s.Node)
	switch {
	case !ok && dialled && !g.roster.Loaded():
		return nil
	case !ok:
		g.unknown(s.Node)
		return Errorf(CodeUnknownNode, "node %s is not in the roster", s.Node)
	case entry.Revoked:
		return errRevoked(s.Node)
	case entry.Key != s.Key:
		return Errorf(CodeUnauthorised, "node %s has another key in the roster", s.Node)
	case entry.Class != s.Class:
		return Errorf(CodeUnauthorised, "node %s is %s in the roster, %s in its certificate", s.Node, entry.Class, s.Class)
	}
	return nil
}

func errRevoked(node id.Node) *Error {
	return Errorf(CodeRevoked, "node %s has been revoked", node).
		WithHint("a new join token makes this machine a new node")
}
