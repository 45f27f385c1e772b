package identity

import (
	"fmt"
	"io"
)

const redacted = "[redacted]"

// Secret is text that must reach no log, event, argument list or bundle. Every ordinary way of printing it gives
// "[redacted]"; only Reveal gives the text.
type Secret struct{ text string }

// NewSecret wraps s.
func NewSecret(s string) Secret { return Secret{text: s} }

// Reveal returns the text. Call it only where the text itself is the purpose: writing a 0600 file, the body of a
// request inside TLS, the one line that `token create` prints.
func (s Secret) Reveal() string { return s.text }

// IsZero says whether there is no text.
func (s Secret) IsZero() bool { return s.text == "" }

// String implements fmt.Stringer without giving the text away.
func (s Secret) String() string { return redacted }

// Format keeps every verb, %#v and %x included, from reaching the text by reflection.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// MarshalJSON keeps the text out of JSON.
func (s Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// MarshalText keeps the text out of every other encoder.
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }
