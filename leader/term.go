package leader

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/leader/state"
)

const (
	queueLength    = 256
	enqueueTimeout = 5 * time.Second
)

// term is one time in office. It is made when Raft elects this node and usable once a Barrier and the Lead entry have been
// committed: everything that former coordinators decided is known then.
type term struct {
	n      *Node
	raft   *raft.Raft
	heard  *contacts
	told   *told
	number uint64
	ctx    context.Context
	cancel context.CancelFunc
	began  time.Time // when the term became usable
	wg     sync.WaitGroup

	proposals chan *proposal
	batches   chan *batchProposal
	// Closed when nothing is taken out of these any more.
	proposalsEnded, batchesEnded chan struct{}

	leaving chan struct{} // held while a node's departure is decided
	proof   proof
	leases  *leases
	claims  *claims
}

// watchLeadership turns the library's notifications into terms. LeaderCh would drop transitions; this channel blocks Raft,
// so nothing here waits.
func (n *Node) watchLeadership(s *seat) {
	var end context.CancelFunc
	for {
		elected := false
		select {
		case elected = <-s.notify:
		case <-s.again:
			if elected = s.raft.State() == raft.Leader; elected && n.term.Load() != nil {
				continue
			}
		case <-n.ended:
			if end != nil {
				end()
			}
			n.loseTerm()
			go drain(s)
			return
		case <-s.lost:
			if end != nil {
				end()
			}
			n.loseTerm()
			return
		}
		if end != nil {
			end()
			end = nil
		}
		n.loseTerm()
		n.abstain(s)
		if elected {
			var ctx context.Context
			ctx, end = context.WithCancel(context.Background())
			n.begin(func() { n.takeOffice(ctx, s) })
		}
	}
}

// drain goes on reading, since Raft blocks on the channel, until the seat is closed.
func drain(s *seat) {
	for {
		select {
		case <-s.notify:
		case <-s.lost:
			return
		}
	}
}

func (n *Node) loseTerm() {
	n.office.Lock()
	t := n.term.Swap(nil)
	n.office.Unlock()
	if t != nil {
		t.cancel()
		t.told.spoke(t.proven())
		n.log.Info().Uint64("term", t.number).Msg("no longer the coordinator")
	}
}

// proven is when this node surely coordinated last, and its copy was the ring's state: the loss is noticed later, by much
// where the process was stopped.
func (t *term) proven() time.Time {
	var list []id.Node
	if c := t.n.agreed.Load(); c != nil {
		list = votersOf(c.Servers)
	}
	return t.heard.proven(t.n.cfg.Self.Node, list, t.number, time.Now())
}

// takeOffice makes the term usable and runs it until ctx ends. While Raft still calls this node its leader a failed first
// entry is tried again. A node that is open but does not run yet proposes nothing: whoever takes what the entry places may
// not be there yet.
func (n *Node) takeOffice(ctx context.Context, s *seat) {
	select {
	case <-n.runs:
	case <-ctx.Done():
		return
	}
	t := newTerm(ctx, n, s)
	defer t.cancel()
	t.start()
	defer t.wg.Wait()
	for {
		err := t.introduce()
		if err == nil {
			break
		}
		n.log.Warn().Err(err).Msg("elected, but the first entry was not committed yet")
		select {
		case <-t.ctx.Done():
			return
		case <-time.After(n.times().Heartbeat / 4):
		}
	}
	t.began = time.Now()
	n.agreed.Store(&raft.Configuration{Servers: configuration(s.raft)}) // an entry of this term is committed behind it
	if !n.enter(t) {
		return
	}
	n.log.Info().Uint64("term", t.number).Msg("this node is the coordinator")
	n.changed.tell()
	t.serve()
	<-t.ctx.Done()
}

// enter makes t the term in office, unless it was lost in between: the loss saw no term to end, and another may have begun.
func (n *Node) enter(t *term) bool {
	n.office.Lock()
	defer n.office.Unlock()
	if t.ctx.Err() != nil {
		return false
	}
	n.term.Store(t)
	return true
}

func newTerm(ctx context.Context, n *Node, s *seat) *term {
	ctx, cancel := context.WithCancel(ctx)
	t := &term{
		n: n, raft: s.raft, heard: &s.trans.heard, told: &s.trans.told, number: s.raft.CurrentTerm(), ctx: ctx, cancel: cancel,
		proposals: make(chan *proposal, queueLength), batches: make(chan *batchProposal, queueLength),
		proposalsEnded: make(chan struct{}), batchesEnded: make(chan struct{}),
		leaving: make(chan struct{}, 1),
	}
	t.proof.t = t
	t.leases = newLeases(t)
	t.claims = newClaims(t)
	return t
}

// start runs what carries proposals.
func (t *term) start() {
	t.wg.Go(t.runProposals)
	t.wg.Go(t.runBatches)
}

// introduce commits the Barrier and the Lead entry.
func (t *term) introduce() error {
	if err := t.proof.barrier(t.ctx); err != nil {
		return err
	}
	t.number = t.raft.CurrentTerm()
	_, err := t.propose(t.ctx, state.Command{
		Kind: state.KindLead, At: time.Now(), By: t.n.cfg.Self.Node, Body: state.Lead{Node: t.n.cfg.Self.Node, Term: t.number},
	})
	// A Lead entry of this node in this term stands already if its outcome was unknown, or if the office was taken up anew.
	if s := t.n.machine.View(); errors.As(err, new(*Refused)) && s.Term() == t.number && s.Coordinator() == t.n.cfg.Self.Node {
		return nil
	}
	return err
}

// serve runs the coordinator's loops.
func (t *term) serve() {
	loops := []func(){t.runAssignments, t.runFacts, t.runVoters, t.claims.run}
	if lead := t.n.cfg.Ports.Lead; lead != nil {
		loops = append(loops, func() { lead(t.ctx) })
	}
	for _, l := range loops {
		t.wg.Go(l)
	}
}

// every runs f at once and then every d until the term ends.
func (t *term) every(d time.Duration, f func()) {
	tick := time.NewTicker(d)
	defer tick.Stop()
	for {
		f()
		select {
		case <-tick.C:
		case <-t.ctx.Done():
			return
		}
	}
}
