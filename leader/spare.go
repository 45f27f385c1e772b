package leader

import (
	"context"
	"fmt"

	"github.com/hashicorp/raft"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/leader/state"
)

// commit is submit for the commands of nodes. Departures are decided one after the other: of two voters that each can be
// spared while the other stays, only the first may go.
func (t *term) commit(ctx context.Context, c state.Command, data []byte) (state.Result, error) {
	b, ok := c.Body.(state.SetStatus)
	if !ok || b.Status != ring.Left {
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
	if err := t.spare(b.Node); err != nil {
		return state.Result{}, err
	}
	return t.submit(ctx, data)
}

// spare refuses the departure of a voter without which those that stay are no majority. Who has left counts as a voter
// until it is replaced, and as one that does not answer.
func (t *term) spare(node id.Node) error {
	s := t.n.machine.View()
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
		here := peer == t.n.cfg.Self.Node || t.leases.silent(peer) < t.n.times().Lease
		if ok && !m.Revoked && m.Status != ring.Left && here {
			alive++
		}
	}
	if votes && alive < voters/2+1 {
		return &Refused{Code: string(state.CodeRefused), Message: fmt.Sprintf("this voter cannot be spared: %d of %d would be left", alive, voters)}
	}
	return nil
}
