package agent

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/ringagent/ringagent/daemons"
	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/eventlog"
	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/leader"
	"github.com/ringagent/ringagent/leader/state"
)

// proposeLater proposes through a leader that is opened after whoever needs it.
type proposeLater struct{ a *Agent }

func (p proposeLater) Propose(ctx context.Context, c state.Command) (state.Result, error) {
	return p.a.leader.Propose(ctx, c)
}

// Read is the state as new as the coordinator's.
func (p proposeLater) Read(ctx context.Context) (*state.State, error) { return p.a.leader.Read(ctx) }

// vet is the catalogue's verdict on the bytes of a draft, given once by the coordinator; "" lets it pass. Whose word the
// publisher was is not asked again here: the node that published has checked it, and facts of the state machine are refused
// by the machine itself.
func vet(draft []byte) string {
	if err := event.Catalogue().Vet(draft); err != nil {
		return err.Error()
	}
	return ""
}

// placed hands on what each applied entry placed in the log. It never blocks.
func (a *Agent) placed(records []state.Placed, head ring.LogHead) {
	if len(records) == 0 {
		a.replica.Expect(head.Seq)
		return
	}
	out := make([]eventlog.Encoded, len(records))
	for i, r := range records {
		out[i] = eventlog.Encoded{Seq: r.Seq, Hash: r.Hash, Bytes: r.Bytes}
	}
	a.replica.OfferPlaced(out)
}

// singletons are the cluster-scope daemons as the coordinator places them.
func (a *Agent) singletons() []leader.Singleton {
	var out []leader.Singleton
	for _, s := range a.specs {
		if s.Scope != kit.ScopeCluster || s.AliasOf != "" {
			continue
		}
		out = append(out, leader.Singleton{
			Name: s.Name,
			Eligible: func(m ring.Member) string {
				if !s.RunsOn(m) {
					return "class " + string(m.Class) + " or its slots do not allow it"
				}
				return ""
			},
			Enabled: func(r ring.Settings) bool { return daemons.Enabled(r, s.Name) },
		})
	}
	return out
}

// coreNodes are the nodes that may coordinate, this one left out.
func (a *Agent) coreNodes() []id.Node {
	var out []id.Node
	for _, m := range a.roster.file().Members {
		if m.Class == id.Core && !m.Revoked && m.ID != a.node.ID {
			out = append(out, m.ID)
		}
	}
	return out
}

// likelyCores are the core nodes that seem to be there, for whoever asks one after the other, and one of those that seem to be gone, each
// time another: what is known here may be old. Each of the gone may take ten seconds, and machines that vanish stay in the
// roster.
func (a *Agent) likelyCores() []id.Node {
	seen := map[id.Node]ring.Status{}
	for _, m := range a.mesh.Members() {
		seen[m.ID] = statusOf(m)
	}
	return likely(a.roster.file().Members, a.node.ID, seen, rand.N[int]) //nolint:gosec // order
}

// likely chooses among the members by what gossip has seen of them, and for those that it has not, by what the roster says.
func likely(members []ring.Member, self id.Node, seen map[id.Node]ring.Status, pick func(int) int) []id.Node {
	var there, gone []id.Node
	for _, m := range members {
		if m.Class != id.Core || m.Revoked || m.ID == self {
			continue
		}
		status, ok := seen[m.ID]
		if !ok {
			status = m.Status
		}
		if status == ring.Failed || status == ring.Left {
			gone = append(gone, m.ID)
		} else {
			there = append(there, m.ID)
		}
	}
	switch {
	case len(there) == 0:
		return gone
	case len(gone) > 0:
		there = append(there, gone[pick(len(gone))])
	}
	return there
}

// replicaComplete asks a node whether its copy of the log has everything that the state knows now. While events come in, a
// sound copy is always a write or two behind, so it is asked until it has come as far as the state was, or ctx ends.
func (a *Agent) replicaComplete(ctx context.Context, n id.Node) bool {
	const again = 50 * time.Millisecond
	want := a.leader.View().LogHead().Seq
	durable := func() (uint64, bool) {
		if n == a.node.ID {
			return a.replica.Durable(), true
		}
		var st replicaState
		err := a.mesh.Call(ctx, n, methodReplica, struct{}{}, &st)
		// A voter must be able to take newcomers in, too, so that the loss of the others does not close the ring.
		return st.Durable, err == nil && st.Authority
	}
	for {
		seq, ok := durable()
		if !ok || seq >= want {
			return ok
		}
		select {
		case <-time.After(again):
		case <-ctx.Done():
			return false
		}
	}
}
