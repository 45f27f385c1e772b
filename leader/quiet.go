package leader

import (
	"time"

	"github.com/ringagent/ringagent/internal/id"
)

// A node that has a seat lives by what Raft brings it. One whose link to the coordinator alone is cut still renews, by way of
// a third node; but its copy stands still, nothing that it decides can come to an end, and as a voter it is none. So whoever
// has a seat is there only if Raft reaches it as well.

// unreached are those that have a seat and that Raft has not reached for longer than d.
func (t *term) unreached(d time.Duration) map[id.Node]bool {
	var out map[id.Node]bool
	for _, v := range configuration(t.raft) {
		if n := id.Node(v.ID); n != t.n.cfg.Self.Node && t.heard.quiet(n, t.number, t.began) > d {
			if out == nil {
				out = make(map[id.Node]bool)
			}
			out[n] = true
		}
	}
	return out
}

// silence is how long a node that has a seat has been missing: it has not renewed, or Raft has not reached it.
func (t *term) silence(node id.Node) time.Duration {
	if node == t.n.cfg.Self.Node {
		return 0
	}
	return max(t.leases.silent(node), t.heard.quiet(node, t.number, t.began))
}
