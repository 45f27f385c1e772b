package mesh

import (
	"context"
	"slices"
)

// lookIntoClaims dials where gossip says that another agent uses this node's identity. Gossip is advice, and one rented
// machine can spread any: only an agent there that holds this node's own key is the proof on which this one gives up.
func (m *Mesh) lookIntoClaims(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case claimed := <-m.claims:
			m.lookForTwin(ctx, claimed)
		}
	}
}

func (m *Mesh) lookForTwin(ctx context.Context, claimed string) {
	var addresses []string
	if claimed != "" {
		addresses = append(addresses, claimed)
	}
	// A double that the others heard of may have put its own address there.
	if entry, ok := m.cfg.Roster.Lookup(m.ID()); ok {
		addresses = append(addresses, entry.Addresses...)
	}
	slices.Sort(addresses)
	for _, address := range slices.Compact(addresses) {
		boot, err := m.endpoint.Twin(ctx, address)
		if boot != "" {
			m.cfg.OnRefused("", Errorf(CodeDuplicate, "another agent, boot %s at %s, uses this node's identity", boot, address).
				WithHint("stop one of the two machines, wipe it and join it anew"))
			return
		}
		m.cfg.Log.Debug().Err(err).Str("address", address).Msg("no other agent of this node answers")
	}
	m.cfg.Log.Warn().Str("address", claimed).Msg("others say that another agent uses this node's identity; none was found")
}
