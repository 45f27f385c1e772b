package leader

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// roundEvery bounds how often a quorum is asked: each round is an entry, and an fsync on every voter.
const roundEvery = 250 * time.Millisecond

// gatherFor is how long a round waits for company when all who wait are in no hurry. Nodes whose renewals were answered
// together ask together again, so that an idle ring soon has one round a renewal period instead of one for each node.
const gatherFor = 250 * time.Millisecond

// rounds proves to many waiters at once that this node still coordinates: by committing an entry that was written after
// they asked. The library's VerifyLeader is not enough, since an answer to an older message satisfies it: a coordinator
// that was stopped and deposed finds such answers in its sockets when it goes on.
type rounds struct {
	t     *term
	prove func(*raft.Raft) error

	mu      sync.Mutex
	waiters []chan error
	wake    chan struct{}
	urgent  chan struct{} // somebody who waits is in a hurry
}

func newRounds(t *term) *rounds {
	r := &rounds{t: t, wake: make(chan struct{}, 1), urgent: make(chan struct{}, 1), prove: func(r *raft.Raft) error { return r.Barrier(enqueueTimeout).Error() }}
	if p := t.n.cfg.Faults.prove; p != nil {
		r.prove = p
	}
	return r
}

// wait returns nil after a round that began after the call.
func (r *rounds) wait(ctx context.Context) error { return r.join(ctx, true) }

// share is wait for who is in no hurry.
func (r *rounds) share(ctx context.Context) error { return r.join(ctx, false) }

func (r *rounds) join(ctx context.Context, hurry bool) error {
	done := make(chan error, 1)
	r.mu.Lock()
	r.waiters = append(r.waiters, done)
	if hurry {
		select {
		case r.urgent <- struct{}{}:
		default:
		}
	}
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
	select {
	case err := <-done:
		return err
	case <-r.t.ctx.Done():
		return ErrNoCoordinator
	case <-ctx.Done():
		return fmt.Errorf("%w: no quorum: %w", ErrNoCoordinator, ctx.Err())
	}
}

func (r *rounds) run() {
	for {
		select {
		case <-r.wake:
		case <-r.t.ctx.Done():
			return
		}
		select {
		case <-r.urgent:
		case <-time.After(gatherFor):
		case <-r.t.ctx.Done():
			return
		}
		began := time.Now()
		r.mu.Lock()
		waiters := r.waiters
		r.waiters = nil
		select { // whoever was in a hurry meanwhile is among the waiters
		case <-r.urgent:
		default:
		}
		r.mu.Unlock()
		if len(waiters) == 0 {
			continue // the round before took them along
		}
		err := r.prove(r.t.raft)
		if err == nil && r.t.ctx.Err() != nil {
			err = errors.New("office lost meanwhile")
		}
		if err != nil {
			err = fmt.Errorf("%w: %w", ErrNoCoordinator, err)
		}
		for _, w := range waiters {
			w <- err
		}
		if !sleep(r.t.ctx, roundEvery-time.Since(began)) {
			return
		}
	}
}
