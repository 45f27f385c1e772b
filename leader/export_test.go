package leader

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/ringagent/ringagent/internal/id"
)

// UseVerifyLeader makes a coordinator prove itself by the library's VerifyLeader instead of the calls that voters answered: the broken variant.
// While stopped is set nothing is begun, as in a stopped process.
func UseVerifyLeader(c *Config, stopped *atomic.Bool) {
	c.Faults.prove = func(r *raft.Raft) error {
		if stopped.Load() {
			return ErrNoCoordinator
		}
		return r.VerifyLeader().Error()
	}
}

// UseStrictBallot leaves it to the library alone who may stand for election: the broken variant.
func UseStrictBallot(c *Config) { c.Faults.strictBallot = true }

// CountLateAnswers makes a coordinator count an answer from when it came, not from when its call was sent: the other broken
// variant.
func CountLateAnswers(c *Config) { c.Faults.late = true }

// LeaveSignsOut has followers hear of commits from the library alone: the broken variant.
func LeaveSignsOut(c *Config) { c.Faults.unsigned = true }

// KeepOverBoots leaves the assignments of a node to its new boot, under their old epochs: the broken variant.
func KeepOverBoots(c *Config) { c.Faults.keepOverBoots = true }

// PreVote says whether the transport of this node's seat can do pre-votes.
func (n *Node) PreVote() bool {
	_, ok := any(n.seat.Load().trans).(raft.WithPreVote)
	return ok
}

// Raft is the running library.
func (n *Node) Raft() *raft.Raft { return n.seat.Load().raft }

// Behind is up to which index this node must read before it may stand for election, 0 if it may or has no files at present.
func (n *Node) Behind() uint64 {
	if n.seat.Load() == nil {
		return 0
	}
	return n.behind.Load()
}

// RenewHere has this node answer a renewal as if it had just arrived here.
func (n *Node) RenewHere(ctx context.Context, from id.Node, boot id.Boot) error {
	t := n.term.Load()
	if t == nil {
		return ErrNoCoordinator
	}
	_, err := t.renew(ctx, from, renewCall{Boot: boot})
	return err
}

// HoldWholeReads takes all the room there is for edge nodes that read the whole state, until the function it returns is
// called.
func (n *Node) HoldWholeReads() (release func()) {
	for range wholeReads {
		n.whole <- struct{}{}
	}
	return func() {
		for range wholeReads {
			<-n.whole
		}
	}
}

// RemoveFaultyHere has this node answer a voter that asks to be removed.
func (n *Node) RemoveFaultyHere(ctx context.Context, from id.Node) (bool, error) {
	t := n.term.Load()
	if t == nil {
		return false, ErrNoCoordinator
	}
	a, err := t.removeFaulty(ctx, from)
	return a.Removed, err
}

// RetakeOffice has this node lose its term while Raft still calls it the leader, and take office again, as after its disk was
// bad for a while.
func (n *Node) RetakeOffice() {
	n.loseTerm()
	n.seat.Load().again <- struct{}{}
}

// Doubts says whether a node is taken for one that cannot be reached directly.
func (n *Node) Doubts(of id.Node) bool {
	n.finder.mu.Lock()
	defer n.finder.mu.Unlock()
	_, ok := n.finder.doubted[of]
	return ok
}

// Trailing is how many entries stay behind a snapshot.
var Trailing = trailing

// LogBytes is how many bytes of data the entries of this node's log have.
func (n *Node) LogBytes(tb testing.TB) (sum int64) {
	tb.Helper()
	s := n.seat.Load().store
	first, err1 := s.FirstIndex()
	last, err2 := s.LastIndex()
	if err := errors.Join(err1, err2); err != nil {
		tb.Fatal(err)
	}
	for i := first; i != 0 && i <= last; i++ {
		var l raft.Log
		switch err := s.GetLog(i, &l); {
		case err == nil:
			sum += int64(len(l.Data))
		case !errors.Is(err, raft.ErrLogNotFound): // cut meanwhile
			tb.Fatal(err)
		}
	}
	return sum
}

// AskForVote asks a voter whether it would vote for this node in an old term, which it would not.
func (n *Node) AskForVote(of id.Node) error {
	t := n.seat.Load().trans
	self := []byte(n.cfg.Self.Node)
	req := raft.RequestPreVoteRequest{RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: self, Addr: self}}
	return t.RequestPreVote(raft.ServerID(of), raft.ServerAddress(of), &req, new(raft.RequestPreVoteResponse))
}
