package leader

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/leader/state"
)

const (
	askTimeout  = time.Second     // for "who coordinates?"
	askPause    = 2 * time.Second // at most, from one such question to the next
	vainPause   = 250 * time.Millisecond
	callTimeout = 5 * time.Second // for one attempt at the coordinator; commits take milliseconds
)

// remote is a coordinator on another node, reached directly or through a voter.
type remote struct {
	n    *Node
	node id.Node
	via  id.Node // "" = directly
	// found counts the answers by which it was found: what fails late does not speak against what was found since.
	found uint64
}

// errUnsent is that of a call which the other node has never seen.
var errUnsent = errors.New("not reached")

// errElsewhere is the answer of a node that does not coordinate: nothing was done.
var errElsewhere = errors.New("not the coordinator")

// raw calls the coordinator. Errors are told apart by what may have happened: *Refused and ErrNoCoordinator, nothing;
// ErrUnknownOutcome, anything.
func (r remote) raw(ctx context.Context, method string, in []byte) ([]byte, error) {
	return r.within(ctx, callTimeout, method, in)
}

// within is raw with a time of its own.
func (r remote) within(ctx context.Context, limit time.Duration, method string, in []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	to := r.node
	if r.via != "" {
		b, err := json.Marshal(relayed{Method: method, Body: in})
		if err != nil {
			return nil, fmt.Errorf("wrap call: %w", err)
		}
		to, method, in = r.via, methodRelay, b
	}
	out, err := r.n.cfg.Caller.CallRaw(ctx, to, method, in)
	if err != nil {
		var refusal interface{ NotAllowed() bool }
		if errors.As(err, &refusal) && refusal.NotAllowed() {
			return nil, &Refused{Code: string(state.CodeUnauth), Message: err.Error()}
		}
		if unsent(err) {
			return nil, fmt.Errorf("call %s at %s: %w: %w: %w", method, to, ErrNoCoordinator, errUnsent, err)
		}
		return nil, fmt.Errorf("call %s at %s: %w: %w", method, to, ErrUnknownOutcome, err)
	}
	return open1(out)
}

// unsent says that a call has surely not arrived.
func unsent(err error) bool {
	var e interface{ Unsent() bool }
	return errors.As(err, &e) && e.Unsent()
}

// Every answer of a handler begins with one byte: what follows is the answer, or why there is none.
const (
	answerOK        = 0
	answerElsewhere = 1
	answerUnknown   = 2
	answerRefused   = 3
	answerError     = 4
)

func open1(b []byte) ([]byte, error) {
	if len(b) == 0 {
		return nil, fmt.Errorf("%w: empty answer", ErrUnknownOutcome)
	}
	rest := b[1:]
	switch b[0] {
	case answerOK:
		return rest, nil
	case answerElsewhere:
		return nil, fmt.Errorf("%w: %w: %s", ErrNoCoordinator, errElsewhere, rest)
	case answerUnknown:
		return nil, fmt.Errorf("%w: %s", ErrUnknownOutcome, rest)
	case answerRefused:
		var r Refused
		if err := json.Unmarshal(rest, &r); err != nil {
			return nil, fmt.Errorf("decode refusal: %w", err)
		}
		return nil, &r
	}
	return nil, fmt.Errorf("the coordinator answers: %s", rest)
}

// seal1 is the answer of a handler that ended with b or err.
func seal1(b []byte, err error) []byte {
	var refused *Refused
	switch {
	case err == nil:
		return append([]byte{answerOK}, b...)
	case errors.Is(err, ErrNoCoordinator):
		return append([]byte{answerElsewhere}, err.Error()...)
	case errors.Is(err, ErrUnknownOutcome):
		return append([]byte{answerUnknown}, err.Error()...)
	case errors.As(err, &refused):
		j, _ := json.Marshal(refused) // two strings: cannot fail
		return append([]byte{answerRefused}, j...)
	}
	return append([]byte{answerError}, err.Error()...)
}

// atCoordinator runs here if this node coordinates, or else there for the coordinator's node. What was surely not done is
// tried again until ctx ends; the last error is then ErrNoCoordinator.
func (n *Node) atCoordinator(ctx context.Context, here func(context.Context, *term) error, there func(context.Context, remote) error) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	for {
		var err error
		if t := n.term.Load(); t != nil {
			err = here(ctx, t)
		} else if r, ok := n.finder.find(ctx); ok {
			if err = there(ctx, r); err != nil {
				n.finder.doubt(r, err)
			}
		} else {
			err = ErrNoCoordinator
		}
		if !errors.Is(err, ErrNoCoordinator) {
			return err
		}
		if !sleep(ctx, retryPause) {
			return fmt.Errorf("%w: %w", err, ctx.Err())
		}
	}
}

// toCoordinator is atCoordinator for methods in JSON. An unknown outcome is not tried again.
func (n *Node) toCoordinator(ctx context.Context, method string, in, out any, here func(context.Context, *term) error) error {
	return n.atCoordinator(ctx, here, func(ctx context.Context, r remote) error {
		b, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("encode call: %w", err)
		}
		if b, err = r.raw(ctx, method, b); err != nil || out == nil {
			return err
		}
		return wrap("decode answer", json.Unmarshal(b, out))
	})
}
