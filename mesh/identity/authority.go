package identity

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"slices"
	"time"

	"github.com/ringagent/ringagent/internal/id"
)

const (
	caLife     = 20 * 365 * 24 * time.Hour
	caBackdate = 24 * time.Hour
)

// ErrNoKey is returned by Sign on a node that knows the authority but does not hold its key.
var ErrNoKey = errors.New("this node does not hold the ring's signing key")

// Authority is a ring's certificate authority: always its certificate, on core nodes its key too.
type Authority struct {
	ring  id.Ring
	cert  *x509.Certificate
	hash  id.Digest
	roots *x509.CertPool
	key   *ecdsa.PrivateKey
}

// NewAuthority makes the authority of a new ring, valid for twenty years from one day back.
func NewAuthority(ring id.Ring, name string, now time.Time) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make authority's key: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{CommonName: name, Organization: []string{"ringagent"}},
		URIs:                  []*url.URL{{Scheme: uriScheme, Host: string(ring)}},
		NotBefore:             now.Add(-caBackdate),
		NotAfter:              now.Add(caLife),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("sign authority's certificate: %w", err)
	}
	a, err := ReadAuthority(der)
	if err != nil {
		return nil, err
	}
	a.key = key
	return a, nil
}

// ReadAuthority makes an authority without its key from a certificate's DER bytes.
func ReadAuthority(der []byte) (*Authority, error) {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("parse authority's certificate: %w", err)
	}
	if !cert.IsCA || len(cert.URIs) != 1 || cert.URIs[0].Scheme != uriScheme || cert.URIs[0].Host == "" {
		return nil, fmt.Errorf("parse authority's certificate: %w", ErrForeign)
	}
	if err := cert.CheckSignatureFrom(cert); err != nil {
		return nil, fmt.Errorf("check authority's certificate: %w", err)
	}
	hash, err := KeyHash(cert.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("check authority's certificate: %w", err)
	}
	a := &Authority{ring: id.Ring(cert.URIs[0].Host), cert: cert, hash: hash, roots: x509.NewCertPool()}
	a.roots.AddCert(cert)
	return a, nil
}

// Ring is the id of the ring that this authority makes.
func (a *Authority) Ring() id.Ring { return a.ring }

// Name is the ring's name for people.
func (a *Authority) Name() string { return a.cert.Subject.CommonName }

// Hash is the SHA-256 of the authority's public key; tokens carry it.
func (a *Authority) Hash() id.Digest { return a.hash }

// DER is the authority's certificate.
func (a *Authority) DER() []byte { return slices.Clone(a.cert.Raw) }

// CanSign says whether this node holds the authority's key.
func (a *Authority) CanSign() bool { return a.key != nil }

// WithKey returns the same authority with its key, given as PEM. A key that is not this authority's is refused.
func (a *Authority) WithKey(keyPEM Secret) (*Authority, error) {
	key, err := parseKey([]byte(keyPEM.Reveal()))
	if err != nil {
		return nil, fmt.Errorf("read authority's key: %w", err)
	}
	hash, err := KeyHash(key.Public())
	if err != nil {
		return nil, fmt.Errorf("read authority's key: %w", err)
	}
	if hash != a.hash {
		return nil, fmt.Errorf("read authority's key: %w", ErrForeign)
	}
	with := *a
	with.key = key
	return &with, nil
}

// KeyPEM is the authority's key, for a 0600 file or a core node that is about to hold it.
func (a *Authority) KeyPEM() (Secret, error) {
	if a.key == nil {
		return Secret{}, ErrNoKey
	}
	return encodeKey(a.key)
}

// SignRequest says which certificate is wanted. Hosts are the names and addresses under which people reach the node's API,
// without ports.
type SignRequest struct {
	Node   id.Node
	Class  id.Class
	Name   string
	Hosts  []string
	Public any
	Life   time.Duration // 0 means DefaultLife
	Now    time.Time
}

// Sign makes a node's certificate: valid from an hour back, or a quarter of its life if that is shorter, so that clocks
// which lag a little take it at once.
func (a *Authority) Sign(r SignRequest) (*x509.Certificate, error) {
	if a.key == nil {
		return nil, ErrNoKey
	}
	if r.Life == 0 {
		r.Life = DefaultLife
	}
	if _, err := KeyHash(r.Public); err != nil {
		return nil, fmt.Errorf("sign certificate of %s: %w", r.Node, err)
	}
	if err := id.CheckNodeName(r.Name); err != nil {
		return nil, fmt.Errorf("sign certificate of %s: %w", r.Node, err)
	}
	subject := Subject{Ring: a.ring, Node: r.Node, Class: r.Class}
	from := r.Now.Add(-min(maxBackdate, r.Life/4))
	if from.Before(a.cert.NotBefore) {
		from = a.cert.NotBefore
	}
	if r.Now.Add(r.Life).Sub(from) < r.Life/4 {
		return nil, fmt.Errorf("sign certificate of %s: the clock says %s, when this ring had not begun", r.Node, r.Now.UTC().Format(time.RFC3339))
	}
	template := &x509.Certificate{
		SerialNumber: serial(),
		Subject:      pkix.Name{CommonName: r.Name, Organization: []string{"ringagent"}},
		URIs:         []*url.URL{subject.URI()},
		NotBefore:    from,
		NotAfter:     r.Now.Add(r.Life),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, host := range append([]string{r.Name}, r.Hosts...) {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else if id.CheckNodeName(host) == nil && !slices.Contains(template.DNSNames, host) {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, r.Public, a.key)
	if err != nil {
		return nil, fmt.Errorf("sign certificate of %s: %w", r.Node, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("sign certificate of %s: %w", r.Node, err)
	}
	return cert, nil
}

// Verify checks that cert was signed by this authority for a node of this ring and that now, give or take Tolerance, lies
// in its life. With untimely it also takes a certificate that ended, or begins, up to ExpiredGrace away. With ErrExpired
// and ErrNotYetValid the subject is returned: all else about it holds. It says nothing about the roster: a certificate
// alone admits nobody.
func (a *Authority) Verify(cert *x509.Certificate, now time.Time, untimely bool) (Subject, error) {
	s, err := ReadSubject(cert)
	if err != nil {
		return Subject{}, err
	}
	if s.Ring != a.ring {
		return Subject{}, fmt.Errorf("%w: it names ring %s", ErrForeign, s.Ring)
	}
	// The signature is checked at a moment inside the certificate's life, its times by our own rule below.
	_, err = cert.Verify(x509.VerifyOptions{
		Roots:       a.roots,
		CurrentTime: cert.NotBefore,
		KeyUsages:   []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return Subject{}, fmt.Errorf("%w: %w", ErrForeign, err)
	}
	slack := Tolerance(cert)
	if untimely {
		slack = ExpiredGrace
	}
	if now.Add(slack).Before(cert.NotBefore) {
		return s, fmt.Errorf("%w: it begins %s from now", ErrNotYetValid, cert.NotBefore.Sub(now).Round(time.Second))
	}
	if now.Add(-slack).After(cert.NotAfter) {
		return s, fmt.Errorf("%w %s ago", ErrExpired, now.Sub(cert.NotAfter).Round(time.Second))
	}
	return s, nil
}

func serial() *big.Int {
	var b [16]byte
	_, _ = rand.Read(b[:])
	b[0] &= 0x7f
	return new(big.Int).SetBytes(b[:])
}

func parseKey(text []byte) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != pemKey {
		return nil, errors.New("no private key in PEM form")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("parse private key: %w", err)
	}
	ec, ok := key.(*ecdsa.PrivateKey)
	if !ok || ec.Curve != elliptic.P256() {
		return nil, errors.New("private key is not ECDSA P-256")
	}
	return ec, nil
}

func encodeKey(key *ecdsa.PrivateKey) (Secret, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return Secret{}, fmt.Errorf("encode private key: %w", err)
	}
	return NewSecret(string(pem.EncodeToMemory(&pem.Block{Type: pemKey, Bytes: der}))), nil
}
