package identity

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/ringagent/ringagent/internal/id"
)

const (
	pemKey  = "PRIVATE KEY"
	pemCert = "CERTIFICATE"

	dirTLS       = "tls"
	fileCA       = "ca.crt"
	fileCAKey    = "ca.key"
	fileNode     = "node.crt"
	fileNodeKey  = "node.key"
	fileNodeName = "node.id"
)

// ErrAbsent means that the data directory does not hold what was asked for: the node is not enrolled yet.
var ErrAbsent = errors.New("not in the data directory")

// Store keeps a node's identity under <data-dir>/tls: the directory 0700, every file 0600 and replaced atomically.
type Store struct{ dir string }

// OpenStore makes the directory where it is missing and tightens its mode where it is too wide.
func OpenStore(dataDir string) (*Store, error) {
	dir := filepath.Join(dataDir, dirTLS)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make identity directory: %w", err)
	}
	if err := os.Chmod(dir, 0o700); err != nil { //nolint:gosec // a directory needs its execute bit
		return nil, fmt.Errorf("protect identity directory: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("read identity directory: %w", err)
	}
	for _, e := range entries {
		if !e.Type().IsRegular() {
			continue
		}
		if err := os.Chmod(filepath.Join(dir, e.Name()), 0o600); err != nil {
			return nil, fmt.Errorf("protect identity file: %w", err)
		}
	}
	return &Store{dir: dir}, nil
}

// Settled says whether a data directory holds a ring's authority, without making anything there.
func Settled(dataDir string) bool { return (&Store{dir: filepath.Join(dataDir, dirTLS)}).Used() }

// HoldsAuthorityKey says whether a data directory holds a ring's signing key.
func HoldsAuthorityKey(dataDir string) bool {
	_, err := os.Lstat(filepath.Join(dataDir, dirTLS, fileCAKey))
	return err == nil
}

// ForgetAuthority removes a ring's authority, the key last: whoever is interrupted here finds the key, and does it again.
func ForgetAuthority(dataDir string) error {
	for _, name := range []string{fileCA, fileCAKey} {
		if err := os.Remove(filepath.Join(dataDir, dirTLS, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("forget authority: %w", err)
		}
	}
	return nil
}

// Used says whether the directory already holds a ring's authority: `init` and a second enrolment must not touch it.
func (s *Store) Used() bool {
	_, err := os.Lstat(filepath.Join(s.dir, fileCA))
	return err == nil
}

// Authority loads the ring's authority, with its key where this node holds it.
func (s *Store) Authority() (*Authority, error) {
	der, err := s.readPEM(fileCA, pemCert)
	if err != nil {
		return nil, err
	}
	a, err := ReadAuthority(der)
	if err != nil {
		return nil, err
	}
	text, err := s.read(fileCAKey)
	if errors.Is(err, ErrAbsent) {
		return a, nil
	}
	if err != nil {
		return nil, err
	}
	return a.WithKey(NewSecret(string(text)))
}

// SaveAuthority writes the authority, and its key if it has one. The key goes first: a directory that looks used always
// holds all that belongs to it.
func (s *Store) SaveAuthority(a *Authority) error {
	if a.CanSign() {
		key, err := a.KeyPEM()
		if err != nil {
			return err
		}
		if err := WriteFile(filepath.Join(s.dir, fileCAKey), []byte(key.Reveal())); err != nil {
			return fmt.Errorf("save authority's key: %w", err)
		}
	}
	if err := s.writePEM(fileCA, pemCert, a.cert.Raw); err != nil {
		return fmt.Errorf("save authority: %w", err)
	}
	return nil
}

// NodeKey loads the node's key and makes it on first use. The key survives a failed enrolment, so that the same key can
// ask again.
func (s *Store) NodeKey() (*ecdsa.PrivateKey, error) {
	text, err := s.read(fileNodeKey)
	if err == nil {
		return parseKey(text)
	}
	if !errors.Is(err, ErrAbsent) {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make node's key: %w", err)
	}
	secret, err := encodeKey(key)
	if err != nil {
		return nil, err
	}
	if err := WriteFile(filepath.Join(s.dir, fileNodeKey), []byte(secret.Reveal())); err != nil {
		return nil, fmt.Errorf("save node's key: %w", err)
	}
	return key, nil
}

// NodeID loads the node id that this machine proposes for itself and makes it on first use.
func (s *Store) NodeID() (id.Node, error) {
	text, err := s.read(fileNodeName)
	if err == nil {
		return id.ParseNode(strings.TrimSpace(string(text)))
	}
	if !errors.Is(err, ErrAbsent) {
		return "", err
	}
	node := id.NewNode()
	return node, s.SaveNodeID(node)
}

// SaveNodeID writes the node id that the ring granted.
func (s *Store) SaveNodeID(node id.Node) error {
	if err := WriteFile(filepath.Join(s.dir, fileNodeName), []byte(node+"\n")); err != nil {
		return fmt.Errorf("save node id: %w", err)
	}
	return nil
}

// Certificate loads the node's certificate.
func (s *Store) Certificate() (*x509.Certificate, error) {
	der, err := s.readPEM(fileNode, pemCert)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("parse node's certificate: %w", err)
	}
	return cert, nil
}

// SaveCertificate replaces the node's certificate.
func (s *Store) SaveCertificate(cert *x509.Certificate) error {
	if err := s.writePEM(fileNode, pemCert, cert.Raw); err != nil {
		return fmt.Errorf("save node's certificate: %w", err)
	}
	return nil
}

func (s *Store) read(name string) ([]byte, error) {
	b, err := os.ReadFile(filepath.Join(s.dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", name, ErrAbsent)
	}
	if err != nil {
		return nil, fmt.Errorf("read identity: %w", err)
	}
	return b, nil
}

func (s *Store) readPEM(name, kind string) ([]byte, error) {
	b, err := s.read(name)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(b)
	if block == nil || block.Type != kind {
		return nil, fmt.Errorf("read identity: %s holds no %s in PEM form", name, strings.ToLower(kind))
	}
	return block.Bytes, nil
}

func (s *Store) writePEM(name, kind string, der []byte) error {
	return WriteFile(filepath.Join(s.dir, name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// WriteFile replaces a file by one with mode 0600 so that a crash leaves the old or the new content, never a part: it
// writes beside it, syncs, renames and syncs the directory.
func WriteFile(path string, content []byte) (err error) {
	dir := filepath.Dir(path)
	// os.CreateTemp makes the file with mode 0600.
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("create temporary file: %w", err)
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	if _, err = f.Write(content); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err = f.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", path, err)
	}
	if err = f.Close(); err != nil {
		return fmt.Errorf("close %s: %w", path, err)
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("replace %s: %w", path, err)
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("open directory of %s: %w", path, err)
	}
	if err = errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("sync directory of %s: %w", path, err)
	}
	return nil
}
