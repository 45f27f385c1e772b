package mesh

import (
	"context"
	"crypto/x509"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/mesh/identity"
	"github.com/ringagent/ringagent/mesh/wire"
)

const (
	renewPatience = 15 * time.Second // one exchange
	renewLook     = 30 * time.Second // the wall clock is looked at so often: it may jump, and machines sleep
	maxHosts      = 8
)

type renewRequest struct {
	Hosts []string `json:"hosts,omitempty"`
}

type renewAnswer struct {
	Error       *Error `json:"error,omitempty"`
	Certificate []byte `json:"certificate,omitempty"`
}

// Renew gets a fresh certificate for the same key and identity: a core node that holds the ring's key signs for itself,
// others ask core nodes, any of which will do. It needs no quorum. An expired certificate still buys a new one for 30 days.
func (m *Mesh) Renew(ctx context.Context) error {
	if m.credentials.Authority().CanSign() {
		return m.signSelf()
	}
	var last error = Errorf(CodeUnavailable, "no core node is known")
	var odd []*x509.Certificate
	for _, node := range m.coreNodes() {
		cert, err := m.renewAt(ctx, node)
		if err == nil {
			err = m.better(cert, node)
			if err == nil || slices.ContainsFunc(odd, func(o *x509.Certificate) bool { return agree(o, cert) }) {
				return m.take(cert) // two machines agree: it is the clock here that is wrong
			}
			odd = append(odd, cert)
		}
		last = err
		if ctx.Err() != nil {
			break
		}
	}
	if leaf := m.Certificate(); ctx.Err() == nil && len(odd) > 0 && leaf.NotAfter.Sub(m.cfg.Now()) < leaf.NotAfter.Sub(leaf.NotBefore)/4 {
		return m.take(odd[0]) // there was nobody else to ask, and soon the present one is worth nothing
	}
	return fmt.Errorf("renew certificate: %w", last)
}

// agree says that two certificates that were signed one after the other are by clocks that show the same time.
func agree(a, b *x509.Certificate) bool {
	return b.NotBefore.Sub(a.NotBefore).Abs() <= identity.Tolerance(a)
}

// better refuses a certificate that this node's clock calls wrong while the present one is right: one of two clocks has
// jumped, and another core node may know better. Where both are wrong the new one is as good a guess.
func (m *Mesh) better(cert *x509.Certificate, from id.Node) error {
	now := m.cfg.Now()
	if identity.InTime(cert, now) || !identity.InTime(m.Certificate(), now) {
		return nil
	}
	return Errorf(CodeExpired, "node %s signs from %s to %s; here it is %s", from,
		cert.NotBefore.Format(time.RFC3339), cert.NotAfter.Format(time.RFC3339), now.UTC().Format(time.RFC3339)).
		WithHint("compare the clocks of both machines")
}

// signSelf is for core nodes that hold the ring's key. One whose state says that it was revoked does not help itself.
func (m *Mesh) signSelf() error {
	a, own := m.credentials.Authority(), m.credentials.Subject()
	if !a.CanSign() || own.Class != id.Core {
		return identity.ErrNoKey
	}
	if entry, ok := m.cfg.Roster.Lookup(own.Node); ok && entry.Revoked {
		return Errorf(CodeRevoked, "node %s has been revoked", own.Node)
	}
	cert, err := a.Sign(identity.SignRequest{
		Node: own.Node, Class: own.Class, Name: own.Name, Hosts: m.cfg.hosts(),
		Public: m.credentials.Certificate().Leaf.PublicKey, Life: m.cfg.Life, Now: m.cfg.Now(),
	})
	if err != nil {
		return err //nolint:wrapcheck // the authority has said what it did
	}
	return m.take(cert)
}

func (m *Mesh) take(cert *x509.Certificate) error {
	if err := m.credentials.Replace(cert); err != nil {
		return err //nolint:wrapcheck // credentials have said what they did
	}
	if err := m.store.SaveCertificate(cert); err != nil {
		return err //nolint:wrapcheck // the store has said what it did
	}
	select {
	case m.renewed <- struct{}{}:
	default:
	}
	m.cfg.Log.Debug().Time("until", cert.NotAfter).Msg("certificate renewed")
	return nil
}

func (m *Mesh) renewAt(ctx context.Context, node id.Node) (*x509.Certificate, error) {
	ctx, cancel := context.WithTimeout(ctx, renewPatience)
	defer cancel()
	c, err := m.endpoint.Dial(ctx, node, wire.Renew)
	if err != nil {
		return nil, err //nolint:wrapcheck // a *wire.Error
	}
	defer c.Close() //nolint:errcheck // all has been said
	stop := context.AfterFunc(ctx, c.Abort)
	defer stop()
	var answer renewAnswer
	if err := wire.WriteFrame(c, renewRequest{Hosts: m.cfg.hosts()}); err != nil {
		return nil, err //nolint:wrapcheck // wire has said what it did
	}
	if err := wire.ReadFrame(c, wire.MaxFrame, &answer); err != nil {
		return nil, err //nolint:wrapcheck // wire has said what it did
	}
	if answer.Error != nil {
		return nil, answer.Error
	}
	cert, err := x509.ParseCertificate(answer.Certificate)
	if err != nil {
		return nil, fmt.Errorf("parse renewed certificate: %w", err)
	}
	return cert, nil
}

// serveRenew signs the key and identity of an admitted peer again. Admission has found the key in the roster, not revoked.
func (m *Mesh) serveRenew(ctx context.Context, c *wire.Conn) {
	defer c.Close() //nolint:errcheck // all has been said
	stop := context.AfterFunc(ctx, c.Abort)
	defer stop()
	_ = c.SetDeadline(time.Now().Add(renewPatience))
	var req renewRequest
	if err := wire.ReadFrame(c, 16<<10, &req); err != nil {
		return
	}
	var answer renewAnswer
	cert, err := m.signPeer(c, req)
	if err != nil {
		answer.Error = asError(err)
	} else {
		answer.Certificate = cert.Raw
	}
	_ = wire.WriteFrame(c, answer)
}

func (m *Mesh) signPeer(c *wire.Conn, req renewRequest) (*x509.Certificate, error) {
	a := m.credentials.Authority()
	if !a.CanSign() {
		return nil, Errorf(CodeUnavailable, "this node cannot sign certificates")
	}
	peer := c.Peer()
	entry, ok := m.cfg.Roster.Lookup(peer.Node)
	if !ok || entry.Revoked {
		return nil, Errorf(CodeRevoked, "node %s is not in the ring", peer.Node)
	}
	return a.Sign(identity.SignRequest{ //nolint:wrapcheck // the authority has said what it did
		Node: peer.Node, Class: entry.Class, Name: entry.Name, Hosts: m.freeHosts(peer.Node, entry.Name, req.Hosts),
		Public: c.ConnectionState().PeerCertificates[0].PublicKey, Life: m.cfg.Life, Now: m.cfg.Now(),
	})
}

// freeHosts takes out what belongs to other nodes: a rented machine must not get a certificate with which it could pose as
// another node's API. Loopback addresses belong to everybody.
func (m *Mesh) freeHosts(node id.Node, name string, hosts []string) []string {
	taken := make(map[string]bool)
	for _, n := range m.cfg.Roster.Nodes() {
		if entry, ok := m.cfg.Roster.Lookup(n); ok && n != node && entry.Name != name {
			taken[strings.ToLower(entry.Name)] = true
			for _, h := range hostsOf(entry.Addresses) {
				taken[strings.ToLower(h)] = true
			}
		}
	}
	var out []string
	for _, h := range hosts {
		ip := net.ParseIP(h)
		loopback := h == "localhost" || (ip != nil && ip.IsLoopback())
		if len(out) < maxHosts && (loopback || !taken[strings.ToLower(h)]) {
			out = append(out, h)
		}
	}
	return out
}

// renewForever renews at half of the certificate's life and, when nobody answers, again and again until it succeeds. A
// certificate that has not begun was signed by a clock that has been set since: it is renewed too, as is one that lacks a host
// when the agent starts.
func (m *Mesh) renewForever(ctx context.Context) {
	wait := time.NewTimer(0)
	defer wait.Stop()
	due, soonest := m.nextRenewal(), time.Now()
	if !m.named() {
		due = m.cfg.Now()
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.renewed:
			due = m.nextRenewal()
		case <-wait.C:
		}
		if now := m.cfg.Now(); (!now.Before(due) || identity.Early(m.Certificate(), now)) && !time.Now().Before(soonest) {
			if err := m.Renew(ctx); err != nil && ctx.Err() == nil {
				m.cfg.Log.Warn().Err(err).Time("until", m.Certificate().NotAfter).Msg("certificate not renewed yet")
			}
			// Also after a success: where the clocks differ, a new certificate may look old.
			leaf := m.Certificate()
			pause := max(time.Second/10, min(time.Minute, leaf.NotAfter.Sub(leaf.NotBefore)/50))
			soonest = time.Now().Add(pause/2 + rand.N(pause)) //nolint:gosec // jitter
		}
		wait.Reset(max(100*time.Millisecond, min(renewLook, max(due.Sub(m.cfg.Now()), time.Until(soonest)))))
	}
}

// named says whether the present certificate is for all hosts that this node advertises. After a change of the config it is
// not, and people would be told of another machine's certificate until the next renewal.
func (m *Mesh) named() bool {
	leaf := m.Certificate()
	return !slices.ContainsFunc(m.cfg.hosts(), func(host string) bool { return leaf.VerifyHostname(host) != nil })
}

// nextRenewal is half of the present certificate's life, give or take a little, so that a ring's nodes do not all come at
// once.
func (m *Mesh) nextRenewal() time.Time {
	leaf := m.Certificate()
	span := leaf.NotAfter.Sub(leaf.NotBefore) / 20
	return identity.RenewAt(leaf).Add(rand.N(2*span) - span) //nolint:gosec // jitter
}

// coreNodes lists core nodes in random order; as long as there is no roster, whoever is remembered.
func (m *Mesh) coreNodes() []id.Node {
	nodes := slices.DeleteFunc(m.known(), func(n id.Node) bool {
		entry, ok := m.cfg.Roster.Lookup(n)
		return n == m.ID() || (ok && entry.Class != id.Core)
	})
	rand.Shuffle(len(nodes), func(i, j int) { nodes[i], nodes[j] = nodes[j], nodes[i] }) //nolint:gosec // order
	return nodes
}
