package leader

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/leader/state"
)

// The methods that nodes call on each other.
const (
	methodWho       = "leader.who"
	methodPropose   = "leader.propose"
	methodEvents    = "leader.events"
	methodRead      = "leader.read"
	methodOrigin    = "leader.origin"
	methodRenew     = "leader.renew"
	methodGiveBack  = "leader.giveback"
	methodPull      = "leader.pull"
	methodDigest    = "leader.digest"
	methodStats     = "leader.stats"
	methodTransfer  = "leader.transfer"
	methodFaulty    = "leader.faulty"
	methodLogEnd    = "leader.logend"
	methodRelay     = "leader.relay"
	methodForward   = "leader.forward"
	methodClaim     = "work.claim"
	methodHeartbeat = "work.heartbeat"
	methodStarted   = "work.started"
	methodFinish    = "work.finish"
	methodRelease   = "work.release"
)

// Handler serves one method. All answers are bytes whose first says how they are to be read; callers use this package.
type Handler struct {
	Edge  bool // edge nodes may call it; core nodes may call everything
	MaxIn int  // bytes
	// Long says that the call may be held open for up to a minute before it is answered.
	Long bool
	// Relayed says that one node makes the call for many others.
	Relayed bool
	// Former says that nodes of a former generation may call it: it is how they learn of the present one.
	Former bool
	Serve  func(ctx context.Context, from id.Node, in []byte) ([]byte, error)
}

const smallCall = 64 << 10

// Handlers are the methods of this node, for the mesh to register. from must be the authenticated caller.
func (n *Node) Handlers() map[string]Handler {
	plain := func(edge bool, limit int, f func(ctx context.Context, from id.Node, in []byte) ([]byte, error)) Handler {
		return Handler{Edge: edge, MaxIn: limit, Serve: func(ctx context.Context, from id.Node, in []byte) ([]byte, error) {
			b, err := f(ctx, from, in)
			return seal1(b, err), nil
		}}
	}
	h := map[string]Handler{
		methodWho:     plain(true, 0, func(context.Context, id.Node, []byte) ([]byte, error) { return json.Marshal(n.who()) }),
		methodRelay:   {Edge: true, MaxIn: 2 * state.MaxEntry, Serve: n.serveRelay},
		methodForward: {MaxIn: 3 * state.MaxEntry, Relayed: true, Serve: n.serveForward},
		methodDigest:  plain(false, smallCall, n.serveDigest),
		methodStats:   plain(true, 0, func(context.Context, id.Node, []byte) ([]byte, error) { return json.Marshal(n.Stats()) }),
		methodPull:    plain(true, smallCall, n.serveExcerpt),
		methodLogEnd:  plain(false, 0, func(context.Context, id.Node, []byte) ([]byte, error) { return json.Marshal(n.logEnd()) }),
	}
	pull := h[methodPull]
	pull.Long = true
	h[methodPull] = pull
	for name, c := range n.coordinatorMethods() {
		h[name] = plain(c.edge, c.limit, func(ctx context.Context, from id.Node, in []byte) ([]byte, error) {
			t := n.term.Load()
			if t == nil {
				return nil, ErrNoCoordinator
			}
			return c.serve(ctx, t, from, in)
		})
	}
	// An edge node learns of the present generation by a pull. A core node does by Raft, into which the coordinator takes whom
	// it hears; and one that is asked to recover must hear of a recovery that was.
	for _, name := range []string{methodWho, methodPull, methodRenew, methodLogEnd} {
		learning := h[name]
		learning.Former = true
		h[name] = learning
	}
	return h
}

// coordinatorMethod is served only by the coordinator; anybody else answers where nothing was done.
type coordinatorMethod struct {
	edge  bool
	limit int
	serve func(ctx context.Context, t *term, from id.Node, in []byte) ([]byte, error)
}

func (n *Node) coordinatorMethods() map[string]coordinatorMethod {
	return map[string]coordinatorMethod{
		methodPropose: {true, state.MaxEntry, servePropose},
		methodEvents:  {true, 2 * state.MaxEntry, serveEvents},
		methodRead:    {true, 0, serveRead},
		methodOrigin:  {true, smallCall, jsonMethod(serveOrigin)},
		methodRenew: {true, smallCall, jsonMethod(func(ctx context.Context, t *term, from id.Node, in renewCall) (renewal, error) {
			return t.renew(ctx, from, in)
		})},
		methodGiveBack: {true, smallCall, jsonMethod(func(_ context.Context, t *term, from id.Node, in giveBackCall) (struct{}, error) {
			t.leases.giveBack(from, in)
			return struct{}{}, nil
		})},
		methodTransfer: {false, smallCall, jsonMethod(func(_ context.Context, t *term, _ id.Node, in transferCall) (struct{}, error) {
			return struct{}{}, t.n.transfer(in.To)
		})},
		methodFaulty: {false, smallCall, jsonMethod(func(ctx context.Context, t *term, from id.Node, _ struct{}) (faultyAnswer, error) {
			return t.removeFaulty(ctx, from)
		})},
		methodClaim: {true, smallCall, jsonMethod(func(ctx context.Context, t *term, from id.Node, in ClaimCall) (ClaimAnswer, error) {
			return t.claims.claim(ctx, from, in)
		})},
		methodHeartbeat: {true, smallCall, jsonMethod(func(_ context.Context, t *term, from id.Node, in HeartbeatCall) (HeartbeatAnswer, error) {
			return t.claims.heartbeat(from, in)
		})},
		methodStarted: {true, smallCall, jsonMethod(func(ctx context.Context, t *term, from id.Node, in state.StartWork) (state.Result, error) {
			return t.claims.started(ctx, from, in)
		})},
		methodFinish: {true, finishRoom, jsonMethod(func(ctx context.Context, t *term, from id.Node, in state.FinishWork) (state.Result, error) {
			return t.claims.finish(ctx, from, in)
		})},
		methodRelease: {true, smallCall, jsonMethod(func(ctx context.Context, t *term, from id.Node, in state.ReleaseWork) (state.Result, error) {
			return t.claims.release(ctx, from, in)
		})},
	}
}

type transferCall struct {
	To id.Node `json:"to,omitempty"`
}

func jsonMethod[In, Out any](f func(context.Context, *term, id.Node, In) (Out, error)) func(context.Context, *term, id.Node, []byte) ([]byte, error) {
	return func(ctx context.Context, t *term, from id.Node, b []byte) ([]byte, error) {
		var in In
		if len(b) > 0 {
			if err := json.Unmarshal(b, &in); err != nil {
				return nil, &Refused{Code: string(state.CodeInvalid), Message: fmt.Sprintf("decode call: %v", err)}
			}
		}
		out, err := f(ctx, t, from, in)
		if err != nil {
			return nil, err
		}
		return json.Marshal(out)
	}
}

// relayed is a call that travels through a voter, since its caller cannot reach the coordinator itself.
type relayed struct {
	Method string  `json:"method"`
	From   id.Node `json:"from,omitempty"` // set by the voter
	Body   []byte  `json:"body"`
}

// serveRelay hands an edge or core node's call on to the coordinator, naming its authenticated sender.
func (n *Node) serveRelay(ctx context.Context, from id.Node, in []byte) ([]byte, error) {
	var r relayed
	if err := json.Unmarshal(in, &r); err != nil {
		return nil, fmt.Errorf("decode relayed call: %w", err)
	}
	r.From = from
	if n.term.Load() != nil {
		return n.serveRelayed(ctx, r)
	}
	s := n.seat.Load()
	if s == nil {
		return seal1(nil, ErrNoCoordinator), nil
	}
	_, leader := s.raft.LeaderWithID()
	if leader == "" || id.Node(leader) == n.cfg.Self.Node {
		return seal1(nil, ErrNoCoordinator), nil
	}
	b, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode relayed call: %w", err)
	}
	out, err := n.cfg.Caller.CallRaw(ctx, id.Node(leader), methodForward, b)
	switch {
	case err == nil:
		return out, nil
	case unsent(err):
		return seal1(nil, fmt.Errorf("relay to the coordinator: %w: %w", ErrNoCoordinator, err)), nil
	}
	return seal1(nil, fmt.Errorf("relay to the coordinator: %w: %w", ErrUnknownOutcome, err)), nil
}

// serveForward takes a call from a voter that has authenticated the sender. Voters are believed: a hostile one breaks a
// Raft group anyway.
func (n *Node) serveForward(ctx context.Context, from id.Node, in []byte) ([]byte, error) {
	if m, ok := n.machine.View().Member(from); !ok || m.Class != id.Core || m.Revoked {
		return seal1(nil, &Refused{Code: string(state.CodeUnauth), Message: fmt.Sprintf("%s may not forward", from)}), nil
	}
	var r relayed
	if err := json.Unmarshal(in, &r); err != nil {
		return nil, fmt.Errorf("decode forwarded call: %w", err)
	}
	return n.serveRelayed(ctx, r)
}

func (n *Node) serveRelayed(ctx context.Context, r relayed) ([]byte, error) {
	c, ok := n.coordinatorMethods()[r.Method]
	if r.Method == methodStats { // which everybody answers for himself, and everybody may ask the coordinator for
		c, ok = coordinatorMethod{edge: true, limit: smallCall, serve: serveStats}, true
	}
	m, member := n.machine.View().Member(r.From)
	if !ok || !member || m.Revoked || (m.Class != id.Core && !c.edge) || (c.limit > 0 && len(r.Body) > c.limit) {
		return seal1(nil, &Refused{Code: string(state.CodeUnauth), Message: fmt.Sprintf("%s may not call %s", r.From, r.Method)}), nil
	}
	t := n.term.Load()
	if t == nil {
		return seal1(nil, ErrNoCoordinator), nil
	}
	b, err := c.serve(ctx, t, r.From, r.Body)
	return seal1(b, err), nil
}
