package state

import (
	"fmt"

	"github.com/ringagent/ringagent/internal/ring"
)

// healthyShare is the part of the nodes that must be there, in percent, for the ring to count as healthy.
const healthyShare = 80

// muster counts the nodes that should be there, and those that are. Nodes that left or were shut out should not, and one
// that has enrolled and never reported cannot be missed yet.
func (s *State) muster() (alive, total int64) {
	for _, m := range s.members.all() {
		if m.Revoked || m.Status == ring.Left || m.Boot == "" {
			continue
		}
		total++
		if m.Status != ring.Failed {
			alive++
		}
	}
	return alive, total
}

func healthy(alive, total int64) bool { return alive*100 >= total*healthyShare }

// tellCluster states that the ring has become healthy or unhealthy by an entry of the roster.
func (t *txn) tellCluster(before *State) {
	wasAlive, wasTotal := before.muster()
	alive, total := t.s.muster()
	was, is := healthy(wasAlive, wasTotal), healthy(alive, total)
	if was == is {
		return
	}
	typ := evHealthy
	if !is {
		typ = evUnhealthy
	}
	t.fact(typ, t.by(), map[string]any{
		"node_id": t.by(), "alive": alive, "total": total, "reason": fmt.Sprintf("%d of %d nodes are there, %d %% are needed", alive, total, healthyShare),
	})
}
