package identity

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"sync/atomic"
)

// Credentials holds what the node proves itself with right now. New connections use the newest certificate; connections
// that are open keep theirs. Safe for concurrent use.
type Credentials struct {
	key       *ecdsa.PrivateKey
	subject   Subject
	authority atomic.Pointer[Authority]
	current   atomic.Pointer[tls.Certificate]
}

// NewCredentials joins key, certificate and authority, and refuses parts that do not belong together. The certificate may
// have expired: renewing it needs it.
func NewCredentials(a *Authority, key *ecdsa.PrivateKey, cert *x509.Certificate) (*Credentials, error) {
	s, err := ReadSubject(cert)
	if err != nil {
		return nil, fmt.Errorf("read own certificate: %w", err)
	}
	c := &Credentials{key: key, subject: s}
	c.authority.Store(a)
	if err := c.Replace(cert); err != nil {
		return nil, err
	}
	return c, nil
}

// LoadCredentials reads the credentials of an enrolled node; ErrAbsent means that it is not enrolled.
func LoadCredentials(s *Store) (*Credentials, error) {
	a, err := s.Authority()
	if err != nil {
		return nil, err
	}
	cert, err := s.Certificate()
	if err != nil {
		return nil, err
	}
	key, err := s.NodeKey()
	if err != nil {
		return nil, err
	}
	return NewCredentials(a, key, cert)
}

// Replace takes a new certificate for the same key and the same identity, and refuses any other.
func (c *Credentials) Replace(cert *x509.Certificate) error {
	s, err := c.Authority().Verify(cert, cert.NotBefore, false)
	if err != nil {
		return fmt.Errorf("take certificate: %w", err)
	}
	own, err := KeyHash(c.key.Public())
	if err != nil {
		return fmt.Errorf("take certificate: %w", err)
	}
	if s.Key != own || s.Node != c.subject.Node || s.Class != c.subject.Class {
		return fmt.Errorf("take certificate: it is of %s, class %s: %w", s.Node, s.Class, ErrForeign)
	}
	c.current.Store(&tls.Certificate{
		// The authority is sent along, so that a joiner can check it against the hash in its token.
		Certificate: [][]byte{cert.Raw, c.Authority().cert.Raw},
		PrivateKey:  c.key,
		Leaf:        cert,
	})
	return nil
}

// Certificate is the newest one, in the form that crypto/tls wants.
func (c *Credentials) Certificate() *tls.Certificate { return c.current.Load() }

// Subject is who this node is.
func (c *Credentials) Subject() Subject { return c.subject }

// Authority is the ring's authority as this node knows it.
func (c *Credentials) Authority() *Authority { return c.authority.Load() }

// SetAuthority takes the same authority with its key, once the key has arrived.
func (c *Credentials) SetAuthority(a *Authority) error {
	if a.Hash() != c.Authority().Hash() {
		return fmt.Errorf("take authority: %w", ErrForeign)
	}
	c.authority.Store(a)
	return nil
}
