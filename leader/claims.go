package leader

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/leader/state"
	"github.com/ringagent/ringagent/leader/work"
)

// ClaimCall asks for work.
type ClaimCall struct {
	Boot id.Boot `json:"boot"`
	// Once names the request: asked again after a lost answer, it gets the same item.
	Once  string     `json:"once"`
	Free  ring.Slots `json:"free"`
	Types []string   `json:"types,omitempty"`
	// Configs are those that the node can run; empty = all.
	Configs []id.Config   `json:"configs,omitempty"`
	Holds   []id.Digest   `json:"holds,omitempty"` // bytes that the node has, as far as it cares to say
	Lease   ring.Duration `json:"lease_seconds"`   // wanted; 0 = the default
}

// ClaimAnswer is an item, or none.
type ClaimAnswer struct {
	Item *ring.WorkItem `json:"item,omitempty"`
}

// HeartbeatCall renews claims.
type HeartbeatCall struct {
	Claims []string `json:"claims"`
}

// HeartbeatAnswer names the claims that are no more: their runs are to be ended.
type HeartbeatAnswer struct {
	Gone []string `json:"gone,omitempty"`
}

const (
	defaultClaimLease = 60 * time.Second
	minClaimLease     = 5 * time.Second
	maxClaimLease     = 15 * time.Minute
	// longClaimLease is the least for work whose runs take long: a link that is cut for a minute must not cost hours of training.
	// A machine that is gone is found out that much later.
	longClaimLease = 5 * time.Minute
)

// leaseOf is how long a claim lives without a heartbeat. In dev, where nodes are killed for show, it is as was asked.
func leaseOf(asked time.Duration, workType string, timing ring.Timing) time.Duration {
	if asked == 0 {
		asked = defaultClaimLease
	}
	if workType != state.TypeSelfplay && timing != ring.TimingDev {
		asked = max(asked, longClaimLease)
	}
	return min(max(asked, minClaimLease), maxClaimLease)
}

// wordsRoom is the most bytes that are kept of why a run failed or was handed back: the state keeps the words of a thousand
// finished items, and each of the events that tell of it has them again.
const wordsRoom = 4 << 10

// onceRoom is the most bytes of a name under which an answer is kept.
const onceRoom = 64

// lostAfter is how long nobody may hold an input of an item that waits before the item is cancelled: longer than any restart
// of the machine that has it.
const lostAfter = 10 * time.Minute

// claims is the coordinator's memory of heartbeats. Grants and ends are entries; what lies between is kept here only, and
// a new coordinator gives every claim one full lease.
type claims struct {
	t *term

	grant chan struct{} // one choice at a time, so that no item is offered twice
	mu    sync.Mutex
	beats work.Beat

	missing work.Missing // used by run alone
}

func newClaims(t *term) *claims {
	return &claims{t: t, grant: make(chan struct{}, 1), beats: work.Beat{}}
}

// run ends what has run out.
func (c *claims) run() {
	c.t.every(time.Second, func() {
		s, now := c.t.n.machine.View(), time.Now()
		c.mu.Lock()
		c.beats = work.Adopt(s, c.beats, now)
		over := work.Expired(s, c.beats, now)
		c.mu.Unlock()
		for _, o := range over {
			c.tell(state.KindRelease, state.ReleaseWork{Work: o.Work, Claim: o.Claim, Reason: o.Reason, Timeout: true})
		}
		for _, w := range work.Overdue(s, now) {
			c.tell(state.KindCancel, state.CancelWork{Work: w, Reason: "deadline passed"})
		}
		c.missing = work.Miss(s, c.missing, now)
		for _, w := range work.Lost(s, c.missing, now, lostAfter) {
			reason := fmt.Sprintf("input lost: nobody has held %s %s for %s", w.Input.Role, w.Input.Digest.Short(), lostAfter)
			c.tell(state.KindCancel, state.CancelWork{Work: w.Work, Reason: reason})
		}
	})
}

func (c *claims) tell(k state.Kind, body any) {
	ctx, cancel := context.WithTimeout(c.t.ctx, proposeLimit)
	defer cancel()
	if _, err := c.t.propose(ctx, c.t.command(k, body)); err != nil && c.t.ctx.Err() == nil {
		c.t.n.log.Warn().Err(err).Msg("claim not ended")
	}
}

// claim grants the item that fits the node best.
func (c *claims) claim(ctx context.Context, from id.Node, in ClaimCall) (ClaimAnswer, error) {
	holds := make(map[id.Digest]bool, len(in.Holds))
	for _, d := range in.Holds {
		holds[d] = true
	}
	if in.Once == "" || len(in.Once) > onceRoom {
		return ClaimAnswer{}, &Refused{Code: string(state.CodeInvalid), Message: fmt.Sprintf("a claim needs a name of its own, of at most %d bytes", onceRoom)}
	}
	claimID := string(from) + "-" + in.Once
	// The node's own view of what is pending must not be older than what it has just finished: decisions are made here.
	select {
	case c.grant <- struct{}{}:
		defer func() { <-c.grant }()
	case <-ctx.Done():
		return ClaimAnswer{}, fmt.Errorf("%w: %w", ErrNoCoordinator, ctx.Err())
	}
	if w, ok := claimed(c.t.n.machine.View(), claimID); ok {
		return ClaimAnswer{Item: &w}, nil
	}
	now := time.Now()
	item, inputs, ok := work.Next(c.t.n.machine.View(), work.Offer{
		Node: from, Boot: in.Boot, Free: in.Free, Types: in.Types, Configs: in.Configs, Now: now,
		Holds: func(d id.Digest) bool { return holds[d] },
	})
	if !ok {
		return ClaimAnswer{}, nil
	}
	settings, _ := c.t.n.machine.View().Settings()
	lease := leaseOf(time.Duration(in.Lease), item.Type, settings.Timing)
	cmd := c.t.command(state.KindClaim, state.ClaimWork{
		Work: item.ID, Inputs: inputs,
		Claim: ring.Claim{ID: claimID, Node: from, Boot: in.Boot, At: now, Lease: ring.Duration(lease)},
	})
	cmd.At = now
	res, err := c.t.propose(ctx, cmd)
	if err != nil {
		return ClaimAnswer{}, err
	}
	c.mu.Lock()
	c.beats[claimID] = time.Now()
	c.mu.Unlock()
	w, ok := res.Value.(ring.WorkItem)
	if !ok {
		return ClaimAnswer{}, fmt.Errorf("the state machine answers a claim with %T", res.Value)
	}
	return ClaimAnswer{Item: &w}, nil
}

func claimed(s *state.State, claimID string) (ring.WorkItem, bool) {
	for w := range s.WorkIn(ring.WorkClaimed, ring.WorkRunning) {
		if w.Claim != nil && w.Claim.ID == claimID {
			return w, true
		}
	}
	return ring.WorkItem{}, false
}

// heartbeat renews the node's own claims.
func (c *claims) heartbeat(from id.Node, in HeartbeatCall) (HeartbeatAnswer, error) {
	live := make(map[string]bool)
	for w := range c.t.n.machine.View().WorkIn(ring.WorkClaimed, ring.WorkRunning) {
		if w.Claim != nil && w.Claim.Node == from {
			live[w.Claim.ID] = true
		}
	}
	var a HeartbeatAnswer
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, claim := range in.Claims {
		if live[claim] {
			c.beats[claim] = now
		} else {
			a.Gone = append(a.Gone, claim)
		}
	}
	return a, nil
}

// own refuses words about another node's claim.
func (c *claims) own(from id.Node, workID string) error {
	if w, ok := c.t.n.machine.View().Work(workID); ok && w.Claim != nil && w.Claim.Node != from {
		return &Refused{Code: string(state.CodeConflict), Message: fmt.Sprintf("work %s is claimed by %s", workID, w.Claim.Node)}
	}
	return nil
}

func (c *claims) started(ctx context.Context, from id.Node, in state.StartWork) (state.Result, error) {
	return c.settle(ctx, from, in.Work, state.KindStarted, in)
}

func (c *claims) finish(ctx context.Context, from id.Node, in state.FinishWork) (state.Result, error) {
	if item, ok := c.t.n.machine.View().Work(in.Work); ok {
		var err error
		if in.Artifacts, err = made(item, from, in.Artifacts); err != nil {
			return state.Result{}, err
		}
	}
	in.Error = shorten(in.Error, wordsRoom)
	return c.settle(ctx, from, in.Work, state.KindFinish, in)
}

func (c *claims) release(ctx context.Context, from id.Node, in state.ReleaseWork) (state.Result, error) {
	in.Timeout, in.Reason = false, shorten(in.Reason, wordsRoom)
	return c.settle(ctx, from, in.Work, state.KindRelease, in)
}

func (c *claims) settle(ctx context.Context, from id.Node, workID string, k state.Kind, body any) (state.Result, error) {
	if err := c.own(from, workID); err != nil {
		return state.Result{}, err
	}
	cmd := c.t.command(k, body)
	cmd.By = from
	return c.t.propose(ctx, cmd)
}

// The callers' side.

// Claim asks the coordinator for work. An unknown outcome may be asked again with the same Once.
func (n *Node) Claim(ctx context.Context, c ClaimCall) (*ring.WorkItem, error) {
	if c.Boot == "" {
		c.Boot = n.cfg.Self.Boot
	}
	var a ClaimAnswer
	err := n.toCoordinator(ctx, methodClaim, c, &a, func(ctx context.Context, t *term) error {
		var err error
		a, err = t.claims.claim(ctx, n.cfg.Self.Node, c)
		return err
	})
	return a.Item, err
}

// Heartbeat renews this node's claims and returns those that are no more.
func (n *Node) Heartbeat(ctx context.Context, claims ...string) ([]string, error) {
	var a HeartbeatAnswer
	in := HeartbeatCall{Claims: claims}
	err := n.toCoordinator(ctx, methodHeartbeat, in, &a, func(_ context.Context, t *term) error {
		var err error
		a, err = t.claims.heartbeat(n.cfg.Self.Node, in)
		return err
	})
	return a.Gone, err
}

// Started says that a claimed run really runs. Saying it twice is harmless.
func (n *Node) Started(ctx context.Context, in state.StartWork) (ring.WorkItem, error) {
	return settleWork(ctx, n, methodStarted, in, (*claims).started)
}

// Finish ends a claim. Saying it twice is harmless; a stale claim is *Refused with code conflict.
func (n *Node) Finish(ctx context.Context, in state.FinishWork) (ring.WorkItem, error) {
	in.Error = shorten(in.Error, wordsRoom)
	if b, err := json.Marshal(in); err != nil || len(b) > finishRoom { // said, it would be refused unread, again and again
		return ring.WorkItem{}, &Refused{Code: string(state.CodeRefused), Message: fmt.Sprintf("the answer of the run has %d bytes, more than %d", len(b), finishRoom)}
	}
	return settleWork(ctx, n, methodFinish, in, (*claims).finish)
}

// Release hands an item back without blame.
func (n *Node) Release(ctx context.Context, in state.ReleaseWork) (ring.WorkItem, error) {
	return settleWork(ctx, n, methodRelease, in, (*claims).release)
}

func settleWork[T any](ctx context.Context, n *Node, method string, in T, f func(*claims, context.Context, id.Node, T) (state.Result, error)) (ring.WorkItem, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	for {
		var r struct {
			Value ring.WorkItem `json:"value"`
		}
		err := n.toCoordinator(ctx, method, in, &r, func(ctx context.Context, t *term) error {
			res, err := f(t.claims, ctx, n.cfg.Self.Node, in)
			if w, ok := res.Value.(ring.WorkItem); ok {
				r.Value = w
			}
			return err
		})
		if !errors.Is(err, ErrUnknownOutcome) || !sleep(ctx, retryPause) {
			return r.Value, err
		}
	}
}
