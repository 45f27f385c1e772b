package leader

import (
	"context"

	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

type originCall struct {
	Origin event.Origin `json:"origin"`
}

// originAnswer is empty for an origin that is unknown.
type originAnswer struct {
	Pos *ring.OriginPos `json:"pos,omitempty"`
}

// Origin is how far the log has got with an outbox, as new as the ring's state when it was called; false if the ring does
// not know it. A node without the whole state asks for this row alone: every outbox asks whenever a connection begins, and
// after an election all of them do so at once. Of other nodes' outboxes an edge node is told nothing.
func (n *Node) Origin(ctx context.Context, o event.Origin) (ring.OriginPos, bool, error) {
	if n.cfg.Self.Class == id.Core {
		s, err := n.Read(ctx)
		if err != nil {
			return ring.OriginPos{}, false, err
		}
		p, ok := s.Origin(o)
		return p, ok, nil
	}
	var a originAnswer
	call := originCall{Origin: o}
	err := n.toCoordinator(ctx, methodOrigin, call, &a, func(ctx context.Context, t *term) error {
		var err error
		a, err = serveOrigin(ctx, t, n.cfg.Self.Node, call)
		return err
	})
	if err != nil || a.Pos == nil {
		return ring.OriginPos{}, false, wrap("ask for origin", err)
	}
	return *a.Pos, true, nil
}

// serveOrigin answers an edge node that asks for another's origin as if there were none. An outbox that was copied from
// another machine then begins a new origin, which a refusal would keep it from for ever.
func serveOrigin(ctx context.Context, t *term, from id.Node, in originCall) (originAnswer, error) {
	if err := t.proof.now(ctx, true); err != nil {
		return originAnswer{}, err
	}
	s := t.n.machine.View()
	p, ok := s.Origin(in.Origin)
	if m, known := s.Member(from); !ok || p.Node != from && (!known || m.Class != id.Core) {
		return originAnswer{}, nil
	}
	return originAnswer{&p}, nil
}
