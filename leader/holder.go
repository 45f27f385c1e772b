package leader

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/ringagent/ringagent/internal/pace"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/leader/state"
)

// leasePoll is how often the clock is looked at at least while something is held: timers stand still with the machine, so
// that after a sleep only a reading tells that a lease is over.
const leasePoll = 500 * time.Millisecond

// askEvery bounds how often a node asks for the leases of new assignments.
const askEvery = 250 * time.Millisecond

// idleRenewals is how many renewal periods a node that holds nothing lets pass between its signs of life.
const idleRenewals = 2

// Held is a singleton that this node may run now.
type Held struct {
	ring.Assignment
	// Ctx ends when the lease does, at the latest one margin before the coordinator may give the daemon to somebody else.
	// Its Err looks at the clock, so that it tells the truth also in the first moment after the machine has slept.
	Ctx context.Context
}

// Fence is the right under which the holder acts.
func (h Held) Fence() ring.Fence { return ring.Fence{Daemon: h.Daemon, Epoch: h.Epoch} }

// Holder keeps this node's leases: it renews them while there is a coordinator that answers, and lets go of them by its own
// clock, whatever else is going on. A lease is counted from when the request was sent that the coordinator answered.
type Holder struct {
	n       *Node
	changed bell

	mu   sync.Mutex
	held map[string]*lease
	wake chan struct{}
}

type lease struct {
	ring.Assignment
	clock  Clock
	cancel context.CancelCauseFunc
	ctx    context.Context

	mu    sync.Mutex
	from  moment        // when the answered request was sent
	limit time.Duration // how long it is good for
}

// ErrLeaseOver is the cause with which a held singleton's context ends when its lease was not renewed.
var ErrLeaseOver = errors.New("lease is over")

// ErrAssignmentOver is the cause when the coordinator has taken the assignment away.
var ErrAssignmentOver = errors.New("assignment is over")

func newHolder(n *Node) *Holder {
	return &Holder{n: n, held: make(map[string]*lease), wake: make(chan struct{}, 1)}
}

func (l *lease) alive() bool { return l.ctx.Err() == nil && l.left() > 0 }

// left is for how long the lease is good if it is not renewed.
func (l *lease) left() time.Duration {
	l.mu.Lock()
	from, limit := l.from, l.limit
	l.mu.Unlock()
	return limit - from.since(l.clock)
}

func (l *lease) renewed(sent moment, limit time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if sent.elapsed > l.from.elapsed {
		l.from, l.limit = sent, limit
	}
}

// leaseContext is a context whose Err asks the clock.
type leaseContext struct {
	context.Context
	l *lease
}

func (c leaseContext) Err() error {
	if err := c.Context.Err(); err != nil {
		return err
	}
	if !c.l.alive() {
		c.l.cancel(ErrLeaseOver)
		return context.Canceled
	}
	return nil
}

// Leases is what this node may run now.
func (h *Holder) Leases() []Held {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []Held
	for _, l := range h.held {
		if l.alive() {
			out = append(out, Held{l.Assignment, leaseContext{l.ctx, l}})
		}
	}
	return out
}

// Held says whether this node may run a singleton now, under which fence, and until when.
func (h *Holder) Held(daemon string) (ring.Fence, context.Context, bool) {
	h.mu.Lock()
	l, ok := h.held[daemon]
	h.mu.Unlock()
	if !ok || !l.alive() {
		return ring.Fence{}, nil, false
	}
	return ring.Fence{Daemon: daemon, Epoch: l.Epoch}, leaseContext{l.ctx, l}, true
}

// Changes returns a channel that is closed when what is held has changed after the call.
func (h *Holder) Changes() <-chan struct{} { return h.changed.wait() }

// GiveBack lets go of singletons that have been stopped, so that they need not wait for their leases to pass. It is best
// effort: without a coordinator the leases pass by themselves.
func (h *Holder) GiveBack(ctx context.Context, daemons ...string) {
	call := giveBackCall{Boot: h.n.cfg.Self.Boot}
	h.mu.Lock()
	for _, d := range daemons {
		if l, ok := h.held[d]; ok {
			call.Daemons = append(call.Daemons, ring.Fence{Daemon: d, Epoch: l.Epoch})
			delete(h.held, d)
			l.cancel(ErrAssignmentOver)
		}
	}
	h.mu.Unlock()
	if len(call.Daemons) == 0 {
		return
	}
	h.changed.tell()
	err := h.n.toCoordinator(ctx, methodGiveBack, call, nil, func(_ context.Context, t *term) error {
		t.leases.giveBack(h.n.cfg.Self.Node, call)
		return nil
	})
	if err != nil {
		h.n.log.Debug().Err(err).Msg("the coordinator was not told of singletons that were stopped")
	}
}

func (h *Holder) run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { h.expire(ctx) })
	wg.Go(func() { h.listen(ctx) })
	for ctx.Err() == nil {
		pause := h.renew(ctx)
		select {
		case <-time.After(pause):
		case <-h.wake:
		case <-ctx.Done():
		}
	}
	h.drop(ErrLeaseOver)
}

// renew sends one renewal and says when the next is due.
func (h *Holder) renew(ctx context.Context) time.Duration {
	times := h.n.times()
	sent := readClock(h.n.cfg.Clock)
	call := renewCall{Boot: h.n.cfg.Self.Boot}
	// A request that is not answered within a renewal period is not worth more waiting: its lease would be that much older.
	ctx, cancel := context.WithTimeout(ctx, max(times.Renew, times.Lease/3))
	defer cancel()
	var r renewal
	err := h.n.toCoordinator(ctx, methodRenew, call, &r, func(ctx context.Context, t *term) error {
		var err error
		r, err = t.renew(ctx, h.n.cfg.Self.Node, call)
		return err
	})
	if err != nil {
		h.n.log.Debug().Err(err).Msg("no renewal")
		return times.Renew / 2
	}
	if r.Unknown && h.n.cfg.Ports.Introduce != nil {
		h.n.cfg.Ports.Introduce(ctx)
		return times.Renew
	}
	if h.take(r, sent) {
		return r.Renew
	}
	return idleRenewals * r.Renew
}

// take brings what is held in line with an answer and says whether anything is held.
func (h *Holder) take(r renewal, sent moment) bool {
	limit := r.Lease - r.Margin
	h.mu.Lock()
	if sent.since(h.n.cfg.Clock) >= limit { // the answer came too late to be worth anything
		defer h.mu.Unlock()
		return len(h.held) > 0
	}
	changed := false
	named := make(map[string]bool, len(r.Held))
	for _, a := range r.Held {
		named[a.Daemon] = true
		l, ok := h.held[a.Daemon]
		switch {
		case ok && l.Epoch > a.Epoch:
			continue // an answer that was overtaken
		case ok && l.Epoch == a.Epoch && l.alive():
			l.renewed(sent, limit)
			continue
		case ok:
			l.cancel(ErrAssignmentOver)
		}
		ctx, cancel := context.WithCancelCause(context.Background())
		h.held[a.Daemon] = &lease{Assignment: a, clock: h.n.cfg.Clock, ctx: ctx, cancel: cancel, from: sent, limit: limit}
		changed = true
	}
	for d, l := range h.held {
		if !named[d] && l.Epoch.Index() <= r.Index && l.Epoch.Generation() <= r.Generation {
			l.cancel(ErrAssignmentOver)
			delete(h.held, d)
			changed = true
		}
	}
	any := len(h.held) > 0
	h.mu.Unlock()
	if changed {
		h.changed.tell()
	}
	return any
}

// expire ends leases by the clock.
func (h *Holder) expire(ctx context.Context) {
	for {
		h.mu.Lock()
		changed := false
		pause := leasePoll
		for d, l := range h.held {
			if !l.alive() {
				l.cancel(ErrLeaseOver)
				delete(h.held, d)
				changed = true
				continue
			}
			pause = min(pause, max(l.left(), time.Millisecond))
		}
		if len(h.held) == 0 {
			pause = 0
		}
		h.mu.Unlock()
		if changed {
			h.changed.tell()
		}
		if pause > 0 {
			if !sleep(ctx, pace.Until(pause)) {
				return
			}
			continue
		}
		more := h.changed.wait()
		h.mu.Lock()
		empty := len(h.held) == 0
		h.mu.Unlock()
		if !empty {
			continue
		}
		select {
		case <-more:
		case <-ctx.Done():
			return
		}
	}
}

// listen asks for the lease of a new assignment at once, instead of at the next sign of life.
func (h *Holder) listen(ctx context.Context) {
	for {
		more := h.n.changed.wait()
		if h.wanted(h.n.machine.View()) {
			select {
			case h.wake <- struct{}{}:
			default:
			}
			if !sleep(ctx, askEvery) {
				return
			}
		}
		select {
		case <-more:
		case <-ctx.Done():
			return
		}
	}
}

func (h *Holder) wanted(s *state.State) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for a := range s.Assignments() {
		if a.Node != h.n.cfg.Self.Node || a.Boot != h.n.cfg.Self.Boot {
			continue
		}
		if l, ok := h.held[a.Daemon]; !ok || l.Epoch < a.Epoch {
			return true
		}
	}
	return false
}

func (h *Holder) drop(cause error) {
	h.mu.Lock()
	for d, l := range h.held {
		l.cancel(cause)
		delete(h.held, d)
	}
	h.mu.Unlock()
	h.changed.tell()
}
