package identity

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/ringagent/ringagent/internal/id"
)

// DefaultLife is how long a node's certificate lives.
const DefaultLife = 24 * time.Hour

// ExpiredGrace is how long after its end a certificate is still taken where only its key matters (renewal, and Raft
// between core nodes), so that a ring which was switched off comes back by itself.
const ExpiredGrace = 30 * 24 * time.Hour

const (
	uriScheme    = "ring"
	maxBackdate  = time.Hour
	maxTolerance = 5 * time.Minute
)

// Sentinels for what callers of Verify branch on.
var (
	// ErrExpired means that everything about the certificate holds but its end.
	ErrExpired = errors.New("certificate has expired")
	// ErrNotYetValid means that the certificate begins in this machine's future: one of two clocks is wrong.
	ErrNotYetValid = errors.New("certificate is not valid yet")
	// ErrForeign means that the certificate is not one of this ring's.
	ErrForeign = errors.New("certificate is not of this ring")
)

// Subject is what a certificate says about a node.
type Subject struct {
	Ring  id.Ring
	Node  id.Node
	Class id.Class
	Name  string
	Key   id.Digest // SHA-256 of the public key, see KeyHash
}

// URI is the subject's SAN: ring://<ring-id>/<class>/<node-id>.
func (s Subject) URI() *url.URL {
	return &url.URL{Scheme: uriScheme, Host: string(s.Ring), Path: "/" + string(s.Class) + "/" + string(s.Node)}
}

// KeyHash names a public key: the SHA-256 of its SubjectPublicKeyInfo.
func KeyHash(public any) (id.Digest, error) {
	key, ok := public.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return "", errors.New("public key is not ECDSA P-256")
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return "", fmt.Errorf("encode public key: %w", err)
	}
	return id.DigestOf(der), nil
}

// ReadSubject takes the subject out of a node's certificate without verifying it. Exactly one URI is allowed, of exactly
// the form that Authority.Sign writes, so that no two readers can disagree about who a certificate names.
func ReadSubject(cert *x509.Certificate) (Subject, error) {
	if len(cert.URIs) != 1 {
		return Subject{}, fmt.Errorf("%w: %d identities in it", ErrForeign, len(cert.URIs))
	}
	u := cert.URIs[0]
	parts := strings.Split(u.Path, "/")
	if u.Scheme != uriScheme || len(parts) != 3 || parts[0] != "" {
		return Subject{}, fmt.Errorf("%w: identity %q", ErrForeign, u)
	}
	class, err := id.ParseClass(parts[1])
	if err != nil {
		return Subject{}, fmt.Errorf("%w: %w", ErrForeign, err)
	}
	node, err := id.ParseNode(parts[2])
	if err != nil {
		return Subject{}, fmt.Errorf("%w: %w", ErrForeign, err)
	}
	key, err := KeyHash(cert.PublicKey)
	if err != nil {
		return Subject{}, fmt.Errorf("%w: %w", ErrForeign, err)
	}
	s := Subject{Ring: id.Ring(u.Host), Node: node, Class: class, Name: cert.Subject.CommonName, Key: key}
	if s.URI().String() != u.String() {
		return Subject{}, fmt.Errorf("%w: identity %q", ErrForeign, u)
	}
	return s, nil
}

// Tolerance is how wrong a clock may be when this certificate's times are judged: 5 minutes, at most a quarter of its
// life.
func Tolerance(cert *x509.Certificate) time.Duration {
	// The span holds the life and the part that was put before its start, which is a quarter of a short life.
	return min(maxTolerance, cert.NotAfter.Sub(cert.NotBefore)/5)
}

// Early says whether a certificate has not begun, Tolerance included.
func Early(cert *x509.Certificate, now time.Time) bool {
	return now.Add(Tolerance(cert)).Before(cert.NotBefore)
}

// InTime says whether now, give or take Tolerance, lies in the certificate's life.
func InTime(cert *x509.Certificate, now time.Time) bool {
	return !Early(cert, now) && !now.Add(-Tolerance(cert)).After(cert.NotAfter)
}

// RenewAt is the moment from which the certificate should be renewed: half of its life.
func RenewAt(cert *x509.Certificate) time.Time {
	return cert.NotAfter.Add(-cert.NotAfter.Sub(cert.NotBefore) / 2)
}
