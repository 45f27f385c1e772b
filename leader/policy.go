package leader

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/leader/state"
)

func servePropose(ctx context.Context, t *term, from id.Node, in []byte) ([]byte, error) {
	c, err := state.Decode(in)
	if err != nil {
		return nil, &Refused{Code: string(state.CodeInvalid), Message: err.Error()}
	}
	if err := permit(t.n.machine.View(), from, c); err != nil {
		return nil, err
	}
	c, in, err = t.stamped(from, c, in, time.Now())
	if err != nil {
		return nil, &Refused{Code: string(state.CodeInvalid), Message: err.Error()}
	}
	res, err := t.commit(ctx, c, in)
	if err != nil {
		return nil, err
	}
	t.noteStale(c, res)
	return json.Marshal(res)
}

// understood refuses a command that a core node of an older version could not apply, and would have to end at, for good.
// Whoever proposes may have asked an older copy of the roster.
func understood(s *state.State, k state.Kind) error {
	if k.Since() <= 1 {
		return nil
	}
	if have := s.CoreCommands(); k.Since() > have {
		return &Refused{Code: string(state.CodeRefused),
			Message: fmt.Sprintf("a command of version %d: not all core nodes understand more than version %d", k.Since(), have)}
	}
	return nil
}

// noteStale logs that a former holder was refused.
func (t *term) noteStale(c state.Command, res state.Result) {
	if res.Code == state.CodeStale && c.Fence != nil {
		t.n.log.Info().Str("from", string(c.By)).Str("daemon", c.Fence.Daemon).Uint64("epoch", uint64(c.Fence.Epoch)).
			Msg("refused an effect under an epoch that is over")
	}
}

func decodeAnswer(k state.Kind, b []byte) (state.Result, error) { return state.DecodeResult(k, b) }

// permit says whether an authenticated node may propose a command. Core nodes act for operators and for nodes that enrol.
// An edge node speaks for itself only, and acts on the ring only as the holder of a singleton, whose fence the state
// machine checks against the node that the command names as its author. Work is claimed and finished by methods of its own.
func permit(s *state.State, from id.Node, c state.Command) error {
	no := func(why string) error {
		return &Refused{Code: string(state.CodeUnauth), Message: fmt.Sprintf("%s may not propose a command of kind %d: %s", from, c.Kind, why)}
	}
	if c.By != from {
		return no("it names another author")
	}
	switch c.Kind {
	case state.KindAssign, state.KindClaim, state.KindLead, state.KindEvents:
		return no("only the coordinator decides this")
	}
	m, ok := s.Member(from)
	switch {
	case !ok || m.Revoked:
		return no("it is not in the roster")
	case m.Class == id.Core:
		return nil
	case c.Fence != nil && effectOnly(c.Kind, c.Body):
		return nil
	}
	if err := modest(s, m, c); err != nil {
		return err
	}
	switch b := c.Body.(type) {
	case state.Report:
		if b.Member.ID == from {
			return nil
		}
	case state.SetStatus:
		if b.Node == from && (b.Status == ring.Left || b.Status == ring.Draining || b.Status == ring.Alive) {
			return nil
		}
	case state.AddArtifacts:
		for _, a := range b.Artifacts {
			if a.Origin != from || !only(a.Holders, from) {
				return no("artifact of another node")
			}
		}
		return nil
	case state.AddReceipts:
		return own(b.Receipts, from, no)
	case state.DropCopies:
		return own(b.Receipts, from, no)
	}
	return no("edge nodes speak for themselves only")
}

// effectOnly says that a command is one of those by which a singleton does its work. Settings, statuses and claims are not,
// whoever holds what.
func effectOnly(k state.Kind, body any) bool {
	switch k {
	case state.KindEnqueue, state.KindCancel, state.KindRetry, state.KindArtifacts, state.KindReceipts, state.KindDropCopy,
		state.KindName, state.KindPosition, state.KindNote, state.KindDeadLetter:
		return true
	case state.KindEffect:
		e, ok := body.(state.Effect)
		for _, st := range e.Steps {
			ok = ok && st.Kind != state.KindEffect && effectOnly(st.Kind, st.Body)
		}
		return ok
	}
	return false
}

func only(nodes []id.Node, n id.Node) bool {
	for _, h := range nodes {
		if h != n {
			return false
		}
	}
	return true
}

func own(rs []ring.Receipt, n id.Node, no func(string) error) error {
	for _, r := range rs {
		if r.Node != n {
			return no("receipt of another node")
		}
	}
	return nil
}
