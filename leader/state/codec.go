package state

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// format is the first byte of every entry.
const format = 1

// ErrUnknownCommand is returned by Apply for an entry that this binary does not understand: its state would no longer be
// that of the others, so the caller ends the process.
var ErrUnknownCommand = errors.New("unknown command in the replicated log: this binary is too old for the ring")

// ErrTooLarge is returned by Encode for a command over MaxEntry.
var ErrTooLarge = fmt.Errorf("command is larger than %d bytes", MaxEntry)

// hash is an event.Hash that is written as hex, whatever the event package does about JSON.
type hash event.Hash

// MarshalText writes lower-case hex.
func (h hash) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, h[:]), nil }

// UnmarshalText reads lower-case hex.
func (h *hash) UnmarshalText(b []byte) error {
	if len(b) != 2*len(h) {
		return fmt.Errorf("hash of %d digits: want %d", len(b), 2*len(h))
	}
	_, err := hex.Decode(h[:], b)
	return err
}

// wire is a Command as it stands in an entry.
type wire struct {
	At     time.Time       `json:"at"`
	By     id.Node         `json:"by,omitempty"`
	Fence  *ring.Fence     `json:"fence,omitempty"`
	Once   string          `json:"once,omitempty"`
	Body   json.RawMessage `json:"body"`
	Events [][]byte        `json:"events,omitempty"` // event.AppendDraft form
}

type wireStep struct {
	Kind Kind            `json:"kind"`
	Body json.RawMessage `json:"body"`
}

// Encode makes the entry of a command. It fails for a body that is not the kind's or could not be read again, and with
// ErrTooLarge.
func Encode(c Command) ([]byte, error) {
	if kindOf(c.Body) != c.Kind {
		return nil, fmt.Errorf("encode command: kind %d has body %T", c.Kind, c.Body)
	}
	w := wire{At: c.At.UTC().Round(0), By: c.By, Fence: c.Fence, Once: c.Once}
	var err error
	if e, ok := c.Body.(Effect); ok {
		w.Body, err = encodeSteps(e)
	} else {
		w.Body, err = marshal(c.Body)
	}
	if err != nil {
		return nil, fmt.Errorf("encode command: %w", err)
	}
	for _, d := range c.Events {
		w.Events = append(w.Events, event.AppendDraft(nil, d))
	}
	body, err := marshal(w)
	if err != nil {
		return nil, fmt.Errorf("encode command: %w", err)
	}
	if !json.Valid(body) { // raw JSON is deeper by what it is in: an entry that no voter can read would end them all
		return nil, errors.New("encode command: it is nested too deeply to be read again")
	}
	out := append([]byte{format, byte(c.Kind)}, body...)
	if len(out) > MaxEntry {
		return nil, fmt.Errorf("encode command of %d bytes: %w", len(out), ErrTooLarge)
	}
	return out, nil
}

func encodeSteps(e Effect) (json.RawMessage, error) {
	steps := make([]wireStep, len(e.Steps))
	for i, st := range e.Steps {
		if k := kindOf(st.Body); k != st.Kind || !stepKind(k) {
			return nil, fmt.Errorf("step %d: kind %d with body %T cannot be in an effect", i, st.Kind, st.Body)
		}
		b, err := marshal(st.Body)
		if err != nil {
			return nil, fmt.Errorf("step %d: %w", i, err)
		}
		steps[i] = wireStep{st.Kind, b}
	}
	return marshal(struct {
		Steps []wireStep `json:"steps"`
	}{steps})
}

// Decode reads an entry that Encode made. Everything it does not know is ErrUnknownCommand: a field that one voter
// overlooks and another obeys would part their states.
func Decode(data []byte) (Command, error) {
	if len(data) < 2 || data[0] != format {
		return Command{}, fmt.Errorf("entry format: %w", ErrUnknownCommand)
	}
	kind := Kind(data[1])
	var w wire
	if err := unmarshal(data[2:], &w); err != nil {
		return Command{}, fmt.Errorf("entry of kind %d: %w: %w", kind, ErrUnknownCommand, err)
	}
	body, err := decodeBody(kind, w.Body)
	if err != nil {
		return Command{}, err
	}
	c := Command{Kind: kind, At: w.At.UTC(), By: w.By, Fence: w.Fence, Once: w.Once, Body: body}
	for _, b := range w.Events {
		d, err := event.DecodeDraft(b)
		if err != nil {
			return Command{}, fmt.Errorf("event in entry of kind %d: %w: %w", kind, ErrUnknownCommand, err)
		}
		c.Events = append(c.Events, d)
	}
	return c, nil
}

func decodeBody(k Kind, raw json.RawMessage) (any, error) {
	dec, ok := bodies(k)
	if !ok {
		return nil, fmt.Errorf("kind %d: %w", k, ErrUnknownCommand)
	}
	body, err := dec(raw)
	if err != nil {
		return nil, fmt.Errorf("body of kind %d: %w: %w", k, ErrUnknownCommand, err)
	}
	return body, nil
}

func decodeAs[T any](raw json.RawMessage) (any, error) {
	var v T
	err := unmarshal(raw, &v)
	return v, err
}

func decodeEffect(raw json.RawMessage) (any, error) {
	var w struct {
		Steps []wireStep `json:"steps"`
	}
	if err := unmarshal(raw, &w); err != nil {
		return nil, err
	}
	var e Effect
	for _, st := range w.Steps {
		if !stepKind(st.Kind) {
			return nil, fmt.Errorf("step of kind %d", st.Kind)
		}
		b, err := decodeBody(st.Kind, st.Body)
		if err != nil {
			return nil, err
		}
		e.Steps = append(e.Steps, Step{st.Kind, b})
	}
	return e, nil
}

// bodies is the decoder of a kind's body.
func bodies(k Kind) (func(json.RawMessage) (any, error), bool) {
	switch k {
	case KindEnrol:
		return decodeAs[Enrol], true
	case KindReport:
		return decodeAs[Report], true
	case KindStatus:
		return decodeAs[SetStatus], true
	case KindRevoke:
		return decodeAs[Revoke], true
	case KindForget:
		return decodeAs[Forget], true
	case KindToken:
		return decodeAs[PutToken], true
	case KindTokenRevoke:
		return decodeAs[RevokeToken], true
	case KindAssign:
		return decodeAs[Assign], true
	case KindDaemonSwitch:
		return decodeAs[SwitchDaemon], true
	case KindEnqueue:
		return decodeAs[Enqueue], true
	case KindClaim:
		return decodeAs[ClaimWork], true
	case KindStarted:
		return decodeAs[StartWork], true
	case KindFinish:
		return decodeAs[FinishWork], true
	case KindRelease:
		return decodeAs[ReleaseWork], true
	case KindCancel:
		return decodeAs[CancelWork], true
	case KindRetry:
		return decodeAs[RetryWork], true
	case KindArtifacts:
		return decodeAs[AddArtifacts], true
	case KindReceipts:
		return decodeAs[AddReceipts], true
	case KindDropCopy:
		return decodeAs[DropCopies], true
	case KindName:
		return decodeAs[SetName], true
	case KindPosition:
		return decodeAs[SetPositions], true
	case KindNote:
		return decodeAs[PutNote], true
	case KindDeadLetter:
		return decodeAs[PutDeadLetter], true
	case KindSettings:
		return decodeAs[PutSettings], true
	case KindRaise:
		return decodeAs[Raise], true
	case KindLead:
		return decodeAs[Lead], true
	case KindEffect:
		return decodeEffect, true
	case KindRepeats:
		return decodeAs[StateRepeats], true
	case KindJoin:
		return decodeAs[JoinPacks], true
	}
	return nil, false
}

// kindOf is the kind of a body, or 0.
func kindOf(body any) Kind {
	switch body.(type) {
	case Enrol:
		return KindEnrol
	case Report:
		return KindReport
	case SetStatus:
		return KindStatus
	case Revoke:
		return KindRevoke
	case Forget:
		return KindForget
	case PutToken:
		return KindToken
	case RevokeToken:
		return KindTokenRevoke
	case Assign:
		return KindAssign
	case SwitchDaemon:
		return KindDaemonSwitch
	case Enqueue:
		return KindEnqueue
	case ClaimWork:
		return KindClaim
	case StartWork:
		return KindStarted
	case FinishWork:
		return KindFinish
	case ReleaseWork:
		return KindRelease
	case CancelWork:
		return KindCancel
	case RetryWork:
		return KindRetry
	case AddArtifacts:
		return KindArtifacts
	case AddReceipts:
		return KindReceipts
	case DropCopies:
		return KindDropCopy
	case SetName:
		return KindName
	case SetPositions:
		return KindPosition
	case PutNote:
		return KindNote
	case PutDeadLetter:
		return KindDeadLetter
	case PutSettings:
		return KindSettings
	case Raise:
		return KindRaise
	case Lead:
		return KindLead
	case Effect:
		return KindEffect
	case StateRepeats:
		return KindRepeats
	case JoinPacks:
		return KindJoin
	}
	return 0
}

// stepKind says which kinds an Effect may hold: what a singleton may cause. Only the coordinator leads, raises and assigns.
func stepKind(k Kind) bool {
	switch k {
	case KindEnqueue, KindCancel, KindRetry, KindArtifacts, KindReceipts, KindDropCopy, KindName, KindPosition, KindNote,
		KindDeadLetter, KindFinish, KindRelease, KindStatus, KindSettings:
		return true
	}
	return false
}

// marshal is JSON without escaping for HTML, so that raw messages keep their bytes when they go through it again.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

func unmarshal(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("more than one value")
	}
	return nil
}
