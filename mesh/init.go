package mesh

import (
	"fmt"
	"time"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/mesh/identity"
)

// InitOptions say what a new ring is called and what its first node is.
type InitOptions struct {
	DataDir  string
	RingName string
	NodeName string
	Hosts    []string      // names and addresses under which people reach the node's API, without ports
	Life     time.Duration // of certificates; 0 means 24 h
}

// Founded is a new ring and its first node, which belongs into the roster before the mesh is opened.
type Founded struct {
	Ring  id.Ring
	Node  id.Node
	Entry Entry
}

// InitRing makes a new ring in DataDir: its authority, and a core node certified by it. A directory that already belongs to
// a ring is refused with CodeRefused.
func InitRing(o InitOptions) (Founded, error) {
	if err := id.CheckNodeName(o.NodeName); err != nil {
		return Founded{}, Errorf(CodeInvalid, "%v", err)
	}
	store, err := identity.OpenStore(o.DataDir)
	if err != nil {
		return Founded{}, fmt.Errorf("make ring: %w", err)
	}
	if store.Used() {
		return Founded{}, errUsed(o.DataDir)
	}
	now := time.Now()
	authority, err := identity.NewAuthority(id.NewRing(), o.RingName, now)
	if err != nil {
		return Founded{}, fmt.Errorf("make ring: %w", err)
	}
	key, err := store.NodeKey()
	if err != nil {
		return Founded{}, fmt.Errorf("make ring: %w", err)
	}
	node, err := store.NodeID()
	if err != nil {
		return Founded{}, fmt.Errorf("make ring: %w", err)
	}
	cert, err := authority.Sign(identity.SignRequest{
		Node: node, Class: id.Core, Name: o.NodeName, Hosts: o.Hosts, Public: key.Public(), Life: o.Life, Now: now,
	})
	if err != nil {
		return Founded{}, fmt.Errorf("make ring: %w", err)
	}
	if err := store.SaveCertificate(cert); err != nil {
		return Founded{}, fmt.Errorf("make ring: %w", err)
	}
	// The authority comes last: a directory that looks used is complete.
	if err := store.SaveAuthority(authority); err != nil {
		return Founded{}, fmt.Errorf("make ring: %w", err)
	}
	hash, err := identity.KeyHash(key.Public())
	if err != nil {
		return Founded{}, fmt.Errorf("make ring: %w", err)
	}
	return Founded{
		Ring: authority.Ring(), Node: node,
		Entry: Entry{Key: hash, Class: id.Core, Name: o.NodeName},
	}, nil
}

// Founding says whether a directory holds a ring's signing key. In one that no agent has ever run in, that is what an
// InitRing has begun.
func Founding(dataDir string) bool { return identity.HoldsAuthorityKey(dataDir) }

// Unfound makes room for another InitRing where one was interrupted. It is for directories that no agent has ever run in:
// of their ring nobody else knows.
func Unfound(dataDir string) error {
	if err := identity.ForgetAuthority(dataDir); err != nil {
		return fmt.Errorf("make room for a new ring: %w", err)
	}
	return nil
}

func errUsed(dir string) *Error {
	return Errorf(CodeRefused, "data directory %s already belongs to a ring", dir).
		WithHint("use another --data-dir, or remove this one if its ring is gone")
}
