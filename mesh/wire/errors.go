package wire

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Code says what kind of failure crossed the wire; the command line makes its exit code of it.
type Code string

// The codes, with the exit code that `ringagent` gives for each.
const (
	CodeNoQuorum     Code = "no_quorum"     // 5
	CodeNotLeader    Code = "not_leader"    // 5; Detail["leader"] is a better node to ask, if known
	CodeConflict     Code = "conflict"      // 8
	CodeStaleEpoch   Code = "stale_epoch"   // 8
	CodeNotFound     Code = "not_found"     // 4
	CodeUnauthorised Code = "unauthorised"  // 9
	CodeRefused      Code = "refused"       // 8
	CodeInvalid      Code = "invalid"       // 2
	CodeUnavailable  Code = "unavailable"   // 3
	CodeTimeout      Code = "timeout"       // 6
	CodeBusy         Code = "busy"          // 8; nothing was done: the caller has its share of the other node's time already
	CodeInternal     Code = "internal"      // 1; a handler failed with an error that has no code
	CodeTokenUsed    Code = "token_used"    // 9
	CodeTokenWrong   Code = "token_wrong"   // 9
	CodeTokenExpired Code = "token_expired" // 9
	CodeTokenRevoked Code = "token_revoked" // 9
	CodeTokenClass   Code = "token_class"   // 9; the token is for the other class
	CodeForeignRing  Code = "foreign_ring"  // 9
	CodeNameTaken    Code = "name_taken"    // 8
	CodeRevoked      Code = "revoked"       // 9; this node was thrown out
	CodeUnknownNode  Code = "unknown_node"  // 9; not in the roster (yet)
	CodeExpired      Code = "expired"       // 9; the certificate, or the clock, is out of its time
	CodeDuplicate    Code = "duplicate"     // 8; another machine uses this node's identity
)

// Error is a failure as it crosses the wire: errors.As finds it at the caller as the handler returned it.
type Error struct {
	Code    Code              `json:"code"`
	Message string            `json:"message"`
	Hint    string            `json:"hint,omitempty"`
	Detail  map[string]string `json:"detail,omitempty"`
}

// Errorf makes an Error with a formatted message.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// Error gives the message, and the code where there is none.
func (e *Error) Error() string {
	if e.Message == "" {
		return strings.ReplaceAll(string(e.Code), "_", " ")
	}
	return e.Message
}

// Is makes errors.Is(err, &Error{Code: c}) true for every Error with that code.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error) //nolint:errorlint // Is compares the target itself
	return ok && t.Code == e.Code
}

// WithHint returns a copy that tells people what to do.
func (e *Error) WithHint(hint string) *Error {
	c := *e
	c.Hint = hint
	return &c
}

// WithDetail returns a copy that carries one more value for machines.
func (e *Error) WithDetail(key, value string) *Error {
	c := *e
	c.Detail = maps.Clone(e.Detail)
	if c.Detail == nil {
		c.Detail = make(map[string]string, 1)
	}
	c.Detail[key] = value
	return &c
}

// NotAllowed says that a call was not served, since its method is not for nodes of the caller's class. Parts that know nothing of
// this package ask by an interface of their own.
func (e *Error) NotAllowed() bool { return e.Detail[detailAllowed] == "no" }

// Unsent says that the other node has certainly never seen the call. Parts that know nothing of this package ask as above.
func (e *Error) Unsent() bool { return e.Detail[detailSent] == "no" }

// WithUnsent returns a copy for a call that certainly never arrived.
func (e *Error) WithUnsent() *Error { return e.WithDetail(detailSent, "no") }

const detailSent = "sent"

const detailAllowed = "allowed"

// ErrorNotAllowed makes the Error of a call that is not for the caller's class.
func ErrorNotAllowed(format string, args ...any) *Error {
	return Errorf(CodeUnauthorised, format, args...).WithDetail(detailAllowed, "no")
}

// CodeOf finds the code in err's chain; "" means that there is none.
func CodeOf(err error) Code {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// IsCode says whether err carries one of the codes.
func IsCode(err error, codes ...Code) bool {
	c := CodeOf(err)
	return c != "" && slices.Contains(codes, c)
}
