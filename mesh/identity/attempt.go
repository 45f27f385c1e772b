package identity

import (
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/ringagent/ringagent/internal/id"
)

// ErrUsed means that the data directory already belongs to a ring.
var ErrUsed = errors.New("data directory already belongs to a ring")

// Attempt is an enrolment under way: the key and the node id with which this machine asks, kept on disk until they are
// granted or refused.
type Attempt struct {
	Key  *ecdsa.PrivateKey
	Node id.Node

	store *Store
	made  []string // files and directories of this attempt, innermost first
}

// Begin starts an attempt in a data directory, or goes on with one whose answer was lost.
func Begin(dataDir string) (*Attempt, error) {
	a := &Attempt{}
	tls := filepath.Join(dataDir, dirTLS)
	for _, path := range []string{filepath.Join(tls, fileNodeKey), filepath.Join(tls, fileNodeName), tls, dataDir} {
		if _, err := os.Lstat(path); errors.Is(err, os.ErrNotExist) {
			a.made = append(a.made, path)
		}
	}
	var err error
	if a.store, err = OpenStore(dataDir); err != nil {
		return nil, err
	}
	if a.store.Used() {
		return nil, ErrUsed
	}
	if a.Key, err = a.store.NodeKey(); err != nil {
		return nil, err
	}
	if a.Node, err = a.store.NodeID(); err != nil {
		return nil, err
	}
	return a, nil
}

// Undo removes what this attempt made. What an earlier attempt left stays: its answer may still have been a grant.
func (a *Attempt) Undo() {
	for _, path := range a.made {
		_ = os.Remove(path) // a directory that holds something else stays
	}
}

// Settle writes the granted identity, the authority last, after checking that all of it belongs together.
func (a *Attempt) Settle(authority *Authority, node id.Node, cert *x509.Certificate) error {
	c, err := NewCredentials(authority, a.Key, cert)
	if err != nil {
		return fmt.Errorf("take granted identity: %w", err)
	}
	if c.Subject().Node != node {
		return fmt.Errorf("take granted identity: certificate of %s: %w", c.Subject().Node, ErrForeign)
	}
	if err := a.store.SaveNodeID(node); err != nil {
		return err
	}
	if err := a.store.SaveCertificate(cert); err != nil {
		return err
	}
	return a.store.SaveAuthority(authority)
}
