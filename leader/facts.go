package leader

import (
	"context"
	"fmt"
	"time"

	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/leader/state"
)

const dialBackTimeout = 2 * time.Second

// hearsay is how long gossip keeps a silent node among the living, if that is more than four times what makes it silent: gossip
// goes by way of others, and answers also where nothing else does.
const hearsay = 2 * time.Minute

// runFacts writes into the roster which nodes are gone and which are back. A node is gone when three readings agree: no
// sign of life for two leases, gossip does not call it alive, and a dial back fails. Gossip alone says nothing: neither does it
// make a node dead, nor keep it alive for ever when the other two agree.
func (t *term) runFacts() {
	t.every(t.n.times().Renew, func() {
		for m := range t.n.machine.View().Members() {
			if m.Revoked || m.Boot == "" || t.ctx.Err() != nil {
				continue
			}
			if err := t.judge(m); err != nil && t.ctx.Err() == nil {
				t.n.log.Warn().Err(err).Str("member", string(m.ID)).Msg("status not recorded")
			}
		}
	})
}

func (t *term) judge(m ring.Member) error {
	times := t.n.times()
	silent := t.leases.silent(m.ID)
	switch m.Status {
	case ring.Alive, ring.Draining:
		reach := t.n.cfg.Ports.Reach
		if reach == nil || silent < 2*times.Lease || m.ID == t.n.cfg.Self.Node {
			return nil
		}
		gossip := reach.GossipStatus(m.ID)
		if (gossip == ring.Alive || gossip == ring.Draining) && silent < max(hearsay, 8*times.Lease) {
			return nil
		}
		ctx, cancel := context.WithTimeout(t.ctx, dialBackTimeout)
		err := reach.DialBack(ctx, m.ID)
		cancel()
		if err == nil || t.ctx.Err() != nil || t.leases.silent(m.ID) < silent {
			return nil
		}
		if gossip == "" {
			gossip = "unknown"
		}
		return t.setStatus(m, ring.Failed, fmt.Sprintf("silent for %s, gossip says %s, dial back failed", silent.Round(time.Second), gossip))
	case ring.Failed:
		if t.leases.heard(m.ID, m.Boot, times.Lease) {
			return t.setStatus(m, ring.Alive, "heard again")
		}
	}
	return nil
}

func (t *term) setStatus(m ring.Member, st ring.Status, cause string) error {
	ctx, cancel := context.WithTimeout(t.ctx, proposeLimit)
	defer cancel()
	_, err := t.propose(ctx, t.command(state.KindStatus, state.SetStatus{Node: m.ID, Boot: m.Boot, Status: st, Cause: cause}))
	return err
}
