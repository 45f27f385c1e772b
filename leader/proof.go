package leader

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// nudgeEvery bounds how often heartbeats are sent before their time.
const nudgeEvery = 50 * time.Millisecond

// proof shows that this node still coordinates: a quorum of voters has answered, in this term, a call that was sent after
// somebody asked. At rest that costs nothing, since heartbeats are such calls; no entry is written. The library's
// VerifyLeader is not enough, since an answer to an older message satisfies it: a coordinator that was stopped and deposed
// finds such answers in its sockets when it goes on.
type proof struct {
	t *term
	// whole is an index up to which everything committed is applied, also where it was no command.
	whole atomic.Uint64

	mu     sync.Mutex
	nudged time.Time // when the last nudge was, or will be

	nudging atomic.Bool // the library takes none while its loop hangs
}

// now returns nil once this node has surely coordinated at a moment after the call, and has applied what was committed
// before it. Without hurry it waits for the next heartbeats, which come anyway.
func (p *proof) now(ctx context.Context, hurry bool) error {
	t := p.t
	if s := t.n.seat.Load(); s == nil || s.guard.stalled() > t.n.times().Lease {
		return fmt.Errorf("%w: its disk hangs", ErrNoCoordinator) // it is heard still, but can decide nothing
	}
	index, asked := t.raft.CommitIndex(), time.Now()
	if hurry {
		t.heard.want(asked)
		if len(voters(t.raft)) > 1 {
			p.nudge()
		}
	}
	if err := p.heard(ctx, asked); err != nil {
		return err
	}
	// It counts itself among those that answered, which is right only while it has followed nobody else since: the library
	// raises the term before it answers a vote, also of the one to whom this node hands over.
	if t.ctx.Err() != nil || t.raft.State() != raft.Leader || t.raft.CurrentTerm() != t.number {
		return ErrNoCoordinator
	}
	if t.n.machine.View().Index() >= index || p.whole.Load() >= index {
		return nil
	}
	return p.barrier(ctx)
}

func (p *proof) heard(ctx context.Context, asked time.Time) error {
	t := p.t
	if f := t.n.cfg.Faults.prove; f != nil {
		return f(t.raft)
	}
	for {
		more := t.heard.changed.wait()
		if t.heard.quorum(t.n.cfg.Self.Node, voters(t.raft), t.number, asked) {
			return nil
		}
		select {
		case <-more:
		case <-t.ctx.Done():
			return ErrNoCoordinator
		case <-ctx.Done():
			return fmt.Errorf("%w: no quorum: %w", ErrNoCoordinator, ctx.Err())
		}
	}
}

// nudge has heartbeats sent at once. That is all the library's VerifyLeader is good for: its verdict is not listened to.
func (p *proof) nudge() {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if p.nudged.After(now) {
		return // one is to come
	}
	send := func() {
		if p.t.ctx.Err() == nil && p.nudging.CompareAndSwap(false, true) {
			p.t.raft.VerifyLeader()
			p.nudging.Store(false)
		}
	}
	if wait := p.nudged.Add(nudgeEvery).Sub(now); wait > 0 {
		p.nudged = now.Add(wait)
		time.AfterFunc(wait, send)
		return
	}
	p.nudged = now
	go send()
}

// barrier waits until everything that is committed by now is applied. It is needed when the newest entry was no command,
// which the state machine never sees.
func (p *proof) barrier(ctx context.Context) error {
	t := p.t
	index := uint64(0) // of the barrier itself
	done := make(chan error, 1)
	go func() {
		f := t.raft.Barrier(enqueueTimeout)
		err := f.Error()
		if f, ok := f.(raft.IndexFuture); ok && err == nil {
			index = f.Index()
		}
		done <- err
	}()
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("%w: barrier: %w", ErrNoCoordinator, err)
		}
	case <-t.ctx.Done(): // the library may forget to answer when it is shut down
		return ErrNoCoordinator
	case <-ctx.Done():
		return fmt.Errorf("%w: no quorum: %w", ErrNoCoordinator, ctx.Err())
	}
	for old := p.whole.Load(); old < index && !p.whole.CompareAndSwap(old, index); old = p.whole.Load() {
	}
	return nil
}
