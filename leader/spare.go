package leader

import (
	"context"
	"fmt"

	"github.com/hashicorp/raft"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/leader/state"
)

// departing says which node a command takes out of the ring, by its own wish or an operator's. gone is whether it is out already:
// who asks again, since the answer was lost, is not to be told otherwise.
func (t *term) departing(c state.Command) (node id.Node, gone, ok bool) {
	switch b := c.Body.(type) {
	case state.SetStatus:
		m, _ := t.n.machine.View().Member(b.Node)
		return b.Node, m.Status == ring.Left && m.Boot == b.Boot, b.Status == ring.Left
	case state.Revoke:
		m, _ := t.n.machine.View().Member(b.Node)
		return b.Node, m.Revoked, true
	}
	return "", false, false
}

// commit is submit for the commands of nodes. Departures are decided one after the other: of two voters that each can be
// spared while the other stays, only the first may go.
func (t *term) commit(ctx context.Context, c state.Command, data []byte) (state.Result, error) {
	if err := understood(t.n.machine.View(), c.Kind); err != nil {
		return state.Result{}, err
	}
	if _, _, ok := t.departing(c); !ok {
		return t.submit(ctx, data)
	}
	select {
	case t.leaving <- struct{}{}:
		defer func() { <-t.leaving }()
	case <-t.ctx.Done():
		return state.Result{}, ErrNoCoordinator
	case <-ctx.Done():
		return state.Result{}, fmt.Errorf("%w: %w", ErrNoCoordinator, ctx.Err())
	}
	if node, gone, _ := t.departing(c); !gone {
		if err := t.spare(node); err != nil {
			return state.Result{}, err
		}
	}
	return t.submit(ctx, data)
}

// spare refuses the departure of a voter without which those that stay are no majority. Who has left counts as a voter
// until it is replaced, and as one that does not answer. Renewals alone do not tell who answers: in the first lease of a term
// nobody counts as silent.
func (t *term) spare(node id.Node) error {
	s, lease := t.n.machine.View(), t.n.times().Lease
	voters, alive, votes := 0, 0, false
	for _, v := range configuration(t.raft) {
		if v.Suffrage != raft.Voter {
			continue
		}
		voters++
		peer := id.Node(v.ID)
		if peer == node {
			votes = true
			continue
		}
		m, ok := s.Member(peer)
		here := peer == t.n.cfg.Self.Node || t.leases.silent(peer) < lease && t.heard.lately(peer, t.number, lease)
		if ok && !m.Revoked && m.Status != ring.Left && here {
			alive++
		}
	}
	if votes && alive < voters/2+1 {
		return &Refused{Code: string(state.CodeRefused), Message: fmt.Sprintf("this voter cannot be spared: %d of %d would be left", alive, voters)}
	}
	return nil
}
