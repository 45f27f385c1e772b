package mesh

import (
	"errors"
	"net"
	"path/filepath"
	"time"

	"github.com/rs/zerolog"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/mesh/gossip"
	"github.com/ringagent/ringagent/mesh/identity"
)

// Config is what a Mesh needs. DataDir, Listen, Boot and Roster are required.
type Config struct {
	DataDir   string
	Listen    string   // host:port of the one port; port 0 chooses one
	Advertise []string // host:port under which others shall dial this node, best first; empty: where it is seen
	Boot      id.Boot
	Profile   Profile       // default LAN
	Life      time.Duration // of certificates that this node signs; 0 means 24 h
	Meta      Meta          // class, boot, address and start are filled in
	Roster    Roster
	Enroller  Enroller // nil: this node takes nobody into the ring
	Hooks     Hooks
	Network   Network // nil means TCP
	Limits    Limits
	Now       func() time.Time // the wall clock by which certificates are made and judged; nil means the machine's
	Log       zerolog.Logger
	// OnUnknownPeer is told of nodes that have a certificate but are not in this node's roster: its copy may be old. It
	// must not block. May be nil.
	OnUnknownPeer func(id.Node)
	// OnRefused is told when others refuse this node (revoked, duplicate identity, expired), each time. It must not
	// block. May be nil.
	OnRefused func(by id.Node, reason *Error)
}

// FilePeers is the file under the data directory in which addresses of peers are remembered.
const FilePeers = "peers.json"

// wanDial is how long one address gets on the WAN profile, and how long a stranger gets to prove itself.
const wanDial = 10 * time.Second

func (c *Config) check() error {
	switch {
	case c.DataDir == "":
		return errors.New("mesh: no data directory")
	case c.Listen == "":
		return errors.New("mesh: no address to listen on")
	case c.Boot == "":
		return errors.New("mesh: no boot id")
	case c.Roster == nil:
		return errors.New("mesh: no roster")
	}
	if c.Profile == "" {
		c.Profile = LAN
	}
	if c.Profile == WAN {
		if c.Limits.DialTimeout == 0 {
			c.Limits.DialTimeout = wanDial
		}
		if c.Limits.Handshake == 0 {
			c.Limits.Handshake = wanDial
		}
	}
	if c.Life == 0 {
		c.Life = identity.DefaultLife
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.OnUnknownPeer == nil {
		c.OnUnknownPeer = func(id.Node) {}
	}
	if c.OnRefused == nil {
		c.OnRefused = func(id.Node, *Error) {}
	}
	return nil
}

func (c *Config) peersFile() string { return filepath.Join(c.DataDir, FilePeers) }

// hosts are the names and addresses in Advertise, for the certificate.
func (c *Config) hosts() []string { return hostsOf(c.Advertise) }

func hostsOf(addresses []string) []string {
	var out []string
	for _, a := range addresses {
		if host, _, err := net.SplitHostPort(a); err == nil && host != "" {
			out = append(out, host)
		}
	}
	return out
}

// members gives gossip the roster's word on who may be a member.
type members struct{ m *Mesh }

// Admits implements gossip.Roster.
func (r members) Admits(node id.Node, class id.Class) error {
	entry, ok := r.m.cfg.Roster.Lookup(node)
	switch {
	case entry.Revoked, r.m.endpoint.Revoked(node):
		return Errorf(CodeRevoked, "node %s has been revoked", node)
	case !ok && !r.m.cfg.Roster.Loaded():
		return nil
	case !ok:
		r.m.cfg.OnUnknownPeer(node)
		return Errorf(CodeUnknownNode, "node %s is not in the roster", node)
	case entry.Class != class:
		return Errorf(CodeUnauthorised, "node %s says it is %s, the roster says %s", node, class, entry.Class)
	}
	return nil
}

var _ gossip.Roster = members{}
