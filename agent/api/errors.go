package api

import (
	"errors"
	"fmt"
	"net/http"
)

// Code says what kind of failure an error is; each has one exit code and one HTTP status, but that a wrong method of HTTP is a usage with 405.
type Code string

// The codes.
const (
	CodeFailed       Code = "failed"
	CodeUsage        Code = "usage"
	CodeInvalid      Code = "invalid"
	CodeUnreachable  Code = "unreachable"
	CodeNotFound     Code = "not_found"
	CodeNoQuorum     Code = "no_quorum"
	CodeTimeout      Code = "timeout"
	CodePartial      Code = "partial"
	CodeRefused      Code = "refused"
	CodeConflict     Code = "conflict"
	CodeStale        Code = "stale_epoch"
	CodeLocked       Code = "locked"
	CodeUnauthorised Code = "unauthorised"
	CodeTooLarge     Code = "too_large"
	CodeBusy         Code = "busy" // a limit of this node is reached
)

type meaning struct {
	exit   int
	status int
}

func (c Code) meaning() meaning {
	switch c {
	case CodeUsage, CodeInvalid:
		return meaning{2, http.StatusBadRequest}
	case CodeUnreachable:
		return meaning{3, http.StatusBadGateway}
	case CodeNotFound:
		return meaning{4, http.StatusNotFound}
	case CodeNoQuorum:
		return meaning{5, http.StatusServiceUnavailable}
	case CodeTimeout:
		return meaning{6, http.StatusGatewayTimeout}
	case CodePartial:
		return meaning{7, http.StatusMultiStatus}
	case CodeRefused, CodeConflict, CodeStale, CodeLocked:
		return meaning{8, http.StatusConflict}
	case CodeTooLarge:
		return meaning{2, http.StatusRequestEntityTooLarge}
	case CodeBusy:
		return meaning{8, http.StatusServiceUnavailable}
	case CodeUnauthorised:
		return meaning{9, http.StatusUnauthorized}
	}
	return meaning{1, http.StatusInternalServerError}
}

// Error is a failure with its kind, for people and for scripts.
type Error struct {
	Code    Code   `json:"code"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"` // what to do about it
}

// Error is the message, with the hint where there is one.
func (e *Error) Error() string {
	if e.Hint == "" {
		return e.Message
	}
	return e.Message + " (" + e.Hint + ")"
}

// Exit is the process exit code of the error's kind.
func (e *Error) Exit() int { return e.Code.meaning().exit }

// Status is the HTTP status of the error's kind.
func (e *Error) Status() int { return e.Code.meaning().status }

// Errorf makes an Error without a hint.
func Errorf(c Code, format string, args ...any) *Error {
	return &Error{Code: c, Message: fmt.Sprintf(format, args...)}
}

// WithHint is a copy of e that carries hint.
func (e *Error) WithHint(hint string) *Error {
	out := *e
	out.Hint = hint
	return &out
}

// AsError finds the Error in err's chain, or makes one of kind failed.
func AsError(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return &Error{Code: CodeFailed, Message: err.Error()}
}

// Envelope is how an error travels: {"error":{…}}.
type Envelope struct {
	Error *Error `json:"error"`
}
