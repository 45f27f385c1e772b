package leader

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/leader/state"
)

const (
	votersEvery = time.Second
	// caughtUpLag is how many entries a non-voter may be behind and still count as caught up: what is committed while it is
	// being asked.
	caughtUpLag   = 100
	configTimeout = 5 * time.Second
)

// runVoters keeps the right nodes voting until the term ends.
func (t *term) runVoters() {
	since := make(map[id.Node]time.Time) // non-voters: caught up since
	t.every(votersEvery, func() {
		r := t.roll(since)
		for _, c := range planVoters(r) {
			if err := t.reseat(c); err != nil {
				if t.ctx.Err() == nil {
					t.n.log.Warn().Err(err).Str("voter", string(c.Node)).Str("change", string(c.Kind)).Msg("voters not changed")
				}
				return
			}
			t.n.log.Info().Str("voter", string(c.Node)).Str("change", string(c.Kind)).Msg("voters changed")
		}
	})
}

func (t *term) reseat(c change) error {
	sid, addr := raft.ServerID(c.Node), raft.ServerAddress(c.Node)
	switch c.Kind {
	case addNonvoter:
		t.heard.sign(c.Node) // it cannot have answered before
		return t.raft.AddNonvoter(sid, addr, 0, configTimeout).Error()
	case promote:
		return t.raft.AddVoter(sid, addr, 0, configTimeout).Error()
	case remove:
		return t.raft.RemoveServer(sid, 0, configTimeout).Error()
	}
	return fmt.Errorf("change %q is unknown", c.Kind)
}

// roll gathers what the planner looks at. since keeps, from look to look, how long non-voters have been caught up.
func (t *term) roll(since map[id.Node]time.Time) roll {
	s, times := t.n.machine.View(), t.n.times()
	settings, _ := s.Settings()
	r := roll{Self: t.n.cfg.Self.Node, Target: settings.Voters, Dead: times.VoterDead, Stable: times.VoterStable}
	seated := make(map[id.Node]bool)
	short := 0
	servers := configuration(t.raft)
	for _, v := range servers {
		node := id.Node(v.ID)
		seated[node] = true
		c := chair{Node: node, Voter: v.Suffrage == raft.Voter}
		m, ok := s.Member(node)
		c.Domain = m.Domain()
		c.Gone = s.IsRevoked(node) || (ok && (m.Revoked || m.Status == ring.Left || m.Class != id.Core))
		if node != r.Self {
			c.Silent = t.leases.silent(node)
		}
		// Who does not vote keeps its seat as long as it is heard at all: it would only be given another one.
		if c.Voter {
			c.Silent = t.silence(node)
		}
		if c.Voter && (c.Gone || c.Silent >= times.Lease) {
			short++
		}
		r.Seats = append(r.Seats, c)
	}
	count := 0
	for _, c := range r.Seats {
		if c.Voter {
			count++
		}
	}
	if count-short < r.Target { // only then is it worth asking who could vote
		for i := range r.Seats {
			if c := &r.Seats[i]; !c.Voter && !c.Gone {
				c.Ready = t.readyFor(c.Node, since)
			}
		}
	}
	for m := range s.Members() {
		// A new boot, or one that was given up, need not be in the roster yet: who is of a former generation cannot report itself
		// before it has read this one.
		here := m.Boot != "" && (m.Status == ring.Alive || m.Status == ring.Failed) && !m.Revoked
		if m.Class == id.Core && here && !seated[m.ID] && t.leases.lately(m.ID, times.Lease) {
			r.Spares = append(r.Spares, m.ID)
		}
	}
	return r
}

// readyFor is how long a non-voter has been caught up and complete without a break.
func (t *term) readyFor(node id.Node, since map[id.Node]time.Time) time.Duration {
	ctx, cancel := context.WithTimeout(t.ctx, askTimeout)
	defer cancel()
	index := t.raft.CommitIndex()
	b, err := t.n.cfg.Caller.CallRaw(ctx, node, methodStats, nil)
	if err == nil {
		b, err = open1(b)
	}
	var st Stats
	if err == nil {
		err = json.Unmarshal(b, &st)
	}
	complete := t.n.cfg.Ports.Complete
	if err != nil || st.CommitIndex+caughtUpLag < index || (complete != nil && !complete(ctx, node)) {
		delete(since, node)
		return 0
	}
	if _, ok := since[node]; !ok {
		since[node] = time.Now()
	}
	return max(time.Since(since[node]), 1)
}

// faultyAnswer says that a removal is committed, and up to which index the ring had come by then.
type faultyAnswer struct {
	Removed bool   `json:"removed"`
	Index   uint64 `json:"index,omitempty"`
}

// removeFaulty takes a voter whose files are bad out of the configuration, if the others are a majority without it. It
// answers only once that is committed: the voter wipes what it holds then.
func (t *term) removeFaulty(ctx context.Context, node id.Node) (faultyAnswer, error) {
	seated, count, alive := t.without(node)
	switch {
	case !seated:
		// Raft goes by its newest configuration, which may yet be taken back.
		if err := t.proof.barrier(ctx); err != nil {
			return faultyAnswer{}, err
		}
		if seated, _, _ = t.without(node); seated || t.ctx.Err() != nil {
			return faultyAnswer{}, ErrNoCoordinator
		}
	case alive < count/2+1:
		return faultyAnswer{}, &Refused{Code: string(state.CodeRefused),
			Message: fmt.Sprintf("without %s only %d of %d voters would be alive", node, alive, count)}
	default:
		if err := t.raft.RemoveServer(raft.ServerID(node), 0, configTimeout).Error(); err != nil {
			return faultyAnswer{}, fmt.Errorf("remove faulty voter: %w: %w", ErrUnknownOutcome, err)
		}
		t.n.log.Warn().Str("voter", string(node)).Msg("a voter with bad files was removed")
	}
	return faultyAnswer{Removed: true, Index: t.raft.CommitIndex()}, nil
}

// without counts the voters other than node, and those of them that are alive.
func (t *term) without(node id.Node) (seated bool, count, alive int) {
	for _, v := range configuration(t.raft) {
		switch {
		case id.Node(v.ID) == node:
			seated = true
		case v.Suffrage == raft.Voter:
			count++
			if id.Node(v.ID) == t.n.cfg.Self.Node || t.silence(id.Node(v.ID)) < t.n.times().Lease {
				alive++
			}
		}
	}
	return seated, count, alive
}

// spoilt is called by the guard when a seat's files are bad.
func (n *Node) spoilt(err error) {
	n.log.Error().Err(err).Msg("the raft files of this node are bad: it stops voting")
	select {
	case n.bad <- err:
	default:
	}
}

// mendSeats gives the place of a voter with bad files back and begins anew with empty ones, as a node that does not vote.
// If the majority cannot spare it, it ends Run: then an operator must decide.
func (n *Node) mendSeats(ctx context.Context) {
	n.catchUp(ctx) // what a former start began
	for {
		var cause error
		select {
		case cause = <-n.bad:
		case c := <-n.recoveries:
			c.done <- n.succeed(ctx, c.lost)
			continue
		case <-n.overtaken:
			if !n.reopen(ctx) {
				return
			}
			continue
		case <-ctx.Done():
			return
		}
		if n.damage.Load() == nil {
			n.damaged(cause)
		}
		if s := n.seat.Swap(nil); s != nil {
			n.loseTerm()
			if err := s.close(closePatience); errors.Is(err, ErrStuck) {
				n.fail(err)
				return
			}
		}
		index, err := n.giveUpVote(ctx)
		if err != nil {
			if ctx.Err() == nil {
				n.fail(fmt.Errorf("this voter's files are bad (%w) and it cannot be spared: %w", cause, err))
			}
			return
		}
		// The entries come again from the first one on.
		if err = n.fallBehind(max(index, n.machine.View().Index())); err == nil {
			err = wipe(n.cfg.Dir)
		}
		if err != nil {
			n.fail(err)
			return
		}
		s, err := n.openSeat(false)
		if err != nil {
			n.fail(fmt.Errorf("begin anew as a node that does not vote: %w", err))
			return
		}
		if !n.sit(s) {
			return
		}
		n.damage.Store(nil)
		n.log.Warn().Msg("the raft files were wiped; this node begins anew without a vote")
		n.catchUp(ctx)
	}
}

// reopen begins the seat anew after it has taken over a snapshot: see takenOver.
func (n *Node) reopen(ctx context.Context) bool {
	if s := n.seat.Swap(nil); s != nil {
		n.loseTerm()
		s.finish(closePatience)
		if err := s.close(closePatience); errors.Is(err, ErrStuck) {
			n.fail(err)
			return false
		}
	}
	s, err := n.openSeat(false)
	if err != nil {
		n.fail(fmt.Errorf("open raft behind a snapshot: %w", err))
		return false
	}
	if !n.sit(s) {
		return false
	}
	n.catchUp(ctx)
	return true
}

// sit makes a seat the node's, or closes it if Close has passed by while it was being opened.
func (n *Node) sit(s *seat) bool {
	n.seat.Store(s)
	n.mu.Lock()
	closing := n.closing
	n.mu.Unlock()
	if !closing {
		return true
	}
	if s := n.seat.Swap(nil); s != nil {
		if err := s.close(closePatience); err != nil {
			n.log.Warn().Err(err).Msg("raft was not ended in order")
		}
	}
	return false
}

// giveUpVote asks the coordinator to remove this node until it answers. The patience is that with which a dead voter is
// waited for: if nobody has answered by then there is no majority without this node. index is how far the ring had come
// when it was removed, or later. A coordinator that refuses since too few others are alive is asked again until then: one whose
// disk stalls for some seconds counts as dead, and is back soon.
func (n *Node) giveUpVote(ctx context.Context) (index uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, max(n.times().VoterDead, 30*time.Second))
	defer cancel()
	for {
		var a faultyAnswer
		var refused *Refused
		last := err
		err = n.toCoordinator(ctx, methodFaulty, struct{}{}, &a, func(context.Context, *term) error { return ErrNoCoordinator })
		if err == nil && a.Removed {
			return a.Index, nil
		}
		if errors.As(err, &refused) && refused.Code != string(state.CodeRefused) {
			return 0, err
		}
		if ctx.Err() != nil && last != nil {
			return 0, last // this attempt had no time to end
		}
		if !sleep(ctx, time.Second) {
			return 0, err
		}
	}
}
