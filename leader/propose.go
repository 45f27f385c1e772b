package leader

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/ringagent/ringagent/leader/state"
)

// proposal is one entry on its way.
type proposal struct {
	data  []byte
	done  chan outcome // buffered
	taken bool         // out of the queue: it is answered
}

type outcome struct {
	res state.Result
	err error
}

// waiting is a proposal that Raft has taken.
type waiting struct {
	future raft.ApplyFuture
	done   func(state.Result, error)
}

// Propose commits a command and returns the state machine's answer. A command that the state machine refuses is returned
// as *Refused. Without a coordinator within ctx (or 10 s) the error is ErrNoCoordinator; when the answer is lost it is
// ErrUnknownOutcome, but for a command with Once, which is proposed again until ctx ends.
func (n *Node) Propose(ctx context.Context, c state.Command) (state.Result, error) {
	if c.By == "" {
		c.By = n.cfg.Self.Node
	}
	if c.At.IsZero() {
		c.At = time.Now()
	}
	data, err := state.Encode(c)
	if err != nil {
		return state.Result{}, err
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	for {
		var res state.Result
		err = n.atCoordinator(ctx, func(ctx context.Context, t *term) error {
			if res, err = t.commit(ctx, c, data); err == nil {
				t.noteStale(c, res)
			}
			return err
		}, func(ctx context.Context, r remote) error {
			b, err := r.raw(ctx, methodPropose, data)
			if err != nil {
				return err
			}
			res, err = decodeAnswer(c.Kind, b)
			return err
		})
		if c.Once != "" && errors.Is(err, ErrUnknownOutcome) && ctx.Err() == nil {
			if sleep(ctx, retryPause) {
				continue
			}
		}
		if err == nil && res.Code != "" {
			return res, &Refused{Code: string(res.Code), Message: res.Message}
		}
		return res, err
	}
}

// propose commits a command of the coordinator's own.
func (t *term) propose(ctx context.Context, c state.Command) (state.Result, error) {
	data, err := state.Encode(c)
	if err != nil {
		return state.Result{}, err
	}
	res, err := t.submit(ctx, data)
	if err == nil && res.Code != "" {
		err = &Refused{Code: string(res.Code), Message: res.Message}
	}
	return res, err
}

// command is a command of the coordinator itself.
func (t *term) command(k state.Kind, body any) state.Command {
	return state.Command{Kind: k, At: time.Now(), By: t.n.cfg.Self.Node, Body: body}
}

// submit hands an entry to Raft and waits. Once it is queued its outcome is unknown until it is known.
func (t *term) submit(ctx context.Context, data []byte) (state.Result, error) {
	p := &proposal{data: data, done: make(chan outcome, 1)}
	select {
	case t.proposals <- p:
	case <-t.ctx.Done():
		return state.Result{}, ErrNoCoordinator
	case <-ctx.Done():
		return state.Result{}, fmt.Errorf("%w: %w", ErrNoCoordinator, ctx.Err())
	}
	o, err := reply(ctx, p.done, t.proposalsEnded, &p.taken)
	if err != nil {
		return state.Result{}, err
	}
	return o.res, o.err
}

// reply waits for the answer to what was put into a queue. ended is closed when nothing is taken out of it any more: what was
// put there after the last look was surely not proposed, and nobody would answer it.
func reply[T any](ctx context.Context, done <-chan T, ended <-chan struct{}, taken *bool) (answer T, err error) {
	for {
		select {
		case answer = <-done:
			return answer, nil
		case <-ctx.Done():
			return answer, fmt.Errorf("%w: %w", ErrUnknownOutcome, ctx.Err())
		case <-ended:
			if !*taken {
				return answer, ErrNoCoordinator
			}
			ended = nil
		}
	}
}

// runProposals feeds Raft and hands its futures to one waiter: they end in the order in which they were taken.
func (t *term) runProposals() {
	taken := make(chan waiting, queueLength)
	go await(taken)
	defer close(taken)
	defer close(t.proposalsEnded)
	for {
		select {
		case p := <-t.proposals:
			p.taken = true
			taken <- waiting{t.raft.Apply(p.data, enqueueTimeout), func(r state.Result, err error) { p.done <- outcome{r, err} }}
		case <-t.ctx.Done():
			for {
				select {
				case p := <-t.proposals:
					p.taken = true
					p.done <- outcome{err: ErrNoCoordinator}
				default:
					return
				}
			}
		}
	}
}

// await answers what Raft has taken.
func await(taken <-chan waiting) {
	for w := range taken {
		if err := w.future.Error(); err != nil {
			w.done(state.Result{}, applyError(err))
			continue
		}
		res, ok := w.future.Response().(state.Result)
		if !ok {
			w.done(state.Result{}, fmt.Errorf("%w: the state machine has stopped", ErrUnknownOutcome))
			continue
		}
		w.done(res, nil)
	}
}

// applyError says whether an entry that Raft gave up can still take effect. Only what was refused before it was written
// cannot.
func applyError(err error) error {
	switch {
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrEnqueueTimeout), errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return fmt.Errorf("%w: %w", ErrNoCoordinator, err)
	}
	return fmt.Errorf("%w: %w", ErrUnknownOutcome, err)
}

const (
	proposeLimit = 10 * time.Second
	retryPause   = 50 * time.Millisecond
)

// bounded gives a context without a deadline one.
func bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, proposeLimit)
}

// sleep waits for d and says whether ctx is still alive.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
