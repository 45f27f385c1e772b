package identity

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/ringagent/ringagent/internal/id"
)

const (
	tokenVersion    = "ra1"
	tokenSecretSize = 16
)

// ErrBadToken is wrapped by ParseToken's errors. They never repeat the text that was refused.
var ErrBadToken = errors.New("malformed join token")

var tokenID = regexp.MustCompile(`^[0-9a-f]{8}$`)

// Token is a join token: the hash by which the joiner knows the ring's authority, a public id under which the ring keeps
// count, expiry and class, and the secret. Its text is `ra1.<ca hash>.<id>.<secret>`.
type Token struct {
	CA     id.Digest
	ID     string
	Secret Secret
}

// NewToken makes a token with a fresh id (8 hex digits) and a fresh secret of 128 bits.
func NewToken(ca id.Digest) Token {
	var name [4]byte
	var secret [tokenSecretSize]byte
	// crypto/rand.Read never fails on the platforms we build for; it aborts the process instead.
	_, _ = rand.Read(name[:])
	_, _ = rand.Read(secret[:])
	return Token{
		CA:     ca,
		ID:     hex.EncodeToString(name[:]),
		Secret: NewSecret(base64.RawURLEncoding.EncodeToString(secret[:])),
	}
}

// ParseToken reads a token's text; white space around it is ignored, as files end in a newline.
func ParseToken(text string) (Token, error) {
	parts := strings.Split(strings.TrimSpace(text), ".")
	if len(parts) != 4 || parts[0] != tokenVersion {
		return Token{}, fmt.Errorf("%w: want %s.<ca hash>.<id>.<secret>", ErrBadToken, tokenVersion)
	}
	sum, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil || len(sum) != sha256.Size {
		return Token{}, fmt.Errorf("%w: the hash of the authority is cut or altered", ErrBadToken)
	}
	if !tokenID.MatchString(parts[2]) {
		return Token{}, fmt.Errorf("%w: the id is cut or altered", ErrBadToken)
	}
	secret, err := base64.RawURLEncoding.Strict().DecodeString(parts[3])
	if err != nil || len(secret) != tokenSecretSize {
		return Token{}, fmt.Errorf("%w: the secret is cut or altered", ErrBadToken)
	}
	return Token{CA: id.Digest(hex.EncodeToString(sum)), ID: parts[2], Secret: NewSecret(parts[3])}, nil
}

// Encode returns the token's text, as a secret.
func (t Token) Encode() Secret {
	sum, err := hex.DecodeString(string(t.CA))
	if err != nil {
		return Secret{}
	}
	ca := base64.RawURLEncoding.EncodeToString(sum)
	return NewSecret(strings.Join([]string{tokenVersion, ca, t.ID, t.Secret.Reveal()}, "."))
}

// SecretHash is what the ring stores of the token's secret. The secret has 128 random bits, so a plain hash is enough;
// the id is mixed in so that equal hashes never occur under two ids.
func (t Token) SecretHash() id.Digest { return HashSecret(t.ID, t.Secret) }

// HashSecret is the stored form of a presented secret.
func HashSecret(tokenID string, secret Secret) id.Digest {
	return id.DigestOf([]byte("ringagent join token\x00" + tokenID + "\x00" + secret.Reveal()))
}
