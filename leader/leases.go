package leader

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/leader/state"
)

// renewCall is a node's sign of life, and its request to go on holding what is assigned to it.
type renewCall struct {
	Boot id.Boot `json:"boot"`
}

// renewal is the answer: what the node's boot holds for a lease counted from when it sent the request.
type renewal struct {
	Generation uint64            `json:"generation"`
	Index      uint64            `json:"index"`
	Held       []ring.Assignment `json:"held,omitempty"`
	Lease      time.Duration     `json:"lease"`
	Renew      time.Duration     `json:"renew"`
	Margin     time.Duration     `json:"margin"`
	// Unknown says that the roster does not have this boot yet: the node must report itself.
	Unknown bool `json:"unknown,omitempty"`
}

// giveBackCall ends leases early: the daemons have stopped.
type giveBackCall struct {
	Boot    id.Boot      `json:"boot"`
	Daemons []ring.Fence `json:"daemons"`
}

// leases is the coordinator's memory of whom it has answered. A renewal and a decision to move a singleton exclude each
// other: an answer never names a daemon that is being moved, and a daemon is never moved before its last answer is over.
type leases struct {
	t      *term
	mu     sync.Mutex
	nodes  map[id.Node]seen
	until  map[string]answered // by daemon: the last answer that named it
	moving map[string]bool     // by daemon: not answered any more
}

// seen is the last sign of life of a node in this term.
type seen struct {
	boot id.Boot
	at   time.Time
}

// answered is who was told last that it may run a daemon, and when it has surely stopped if it is told no more.
type answered struct {
	node id.Node
	boot id.Boot
	over time.Time
}

func newLeases(t *term) *leases {
	return &leases{t: t, nodes: make(map[id.Node]seen), until: make(map[string]answered), moving: make(map[string]bool)}
}

// renew answers a node after a quorum has answered calls that were sent after the request had arrived.
func (t *term) renew(ctx context.Context, from id.Node, c renewCall) (renewal, error) {
	hurry := !t.leases.regular(t.n.machine.View(), from, c.Boot, t.n.times())
	if err := t.proof.now(ctx, hurry); err != nil {
		return renewal{}, err
	}
	return t.leases.answer(from, c, !t.unreached(t.n.times().Lease)[from])
}

// answer names what a node's boot may hold. The state is read while nothing can be moved: in an older one a daemon may still
// be with the node from which it has just been taken. A node that Raft does not reach is heard, but told nothing: what it was told
// before ends in its own time, and goes on if Raft reaches it before that.
func (l *leases) answer(from id.Node, c renewCall, reached bool) (renewal, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s, times, now := l.t.n.machine.View(), l.t.n.times(), time.Now()
	m, ok := s.Member(from)
	if !ok || m.Revoked {
		return renewal{}, &Refused{Code: "unauthorised", Message: fmt.Sprintf("%s is not in the roster", from)}
	}
	r := renewal{Generation: s.Generation(), Index: s.Index(), Lease: times.Lease, Renew: times.Renew, Margin: times.Margin}
	l.nodes[from] = seen{c.Boot, now}
	if m.Boot != c.Boot {
		r.Unknown = true
		return r, nil
	}
	if !reached {
		r.Index, r.Generation = 0, 0 // what is not named is over as of an index, and this says nothing of any
		return r, nil
	}
	for a := range s.Assignments() {
		if a.Node != from || a.Boot != c.Boot || l.moving[a.Daemon] || l.another(s, a, times, now) {
			continue
		}
		l.until[a.Daemon] = answered{from, c.Boot, now.Add(times.Lease + times.Margin)}
		r.Held = append(r.Held, a)
	}
	return r, nil
}

// another says that somebody else than whom a names was told that it may run the daemon, and may still do so.
func (l *leases) another(s *state.State, a ring.Assignment, times ring.Times, now time.Time) bool {
	u, ok := l.until[a.Daemon]
	return ok && (u.node != a.Node || u.boot != a.Boot) && now.Before(l.over(s, a, times))
}

// lately says whether any boot of a node has given a sign of life in this term within d.
func (l *leases) lately(n id.Node, d time.Duration) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	s, ok := l.nodes[n]
	return ok && time.Since(s.at) <= d
}

// regular says that a renewal brings a node nothing new and comes in good time: then it need not hurry.
func (l *leases) regular(s *state.State, from id.Node, boot id.Boot, times ring.Times) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n, ok := l.nodes[from]; !ok || n.boot != boot {
		return false
	}
	for a := range s.Assignments() {
		if a.Node != from || a.Boot != boot || l.moving[a.Daemon] {
			continue
		}
		if u, ok := l.until[a.Daemon]; !ok || u.node != from || u.boot != boot || time.Until(u.over) < times.Lease/2 {
			return false
		}
	}
	return true
}

// giveBack takes a node's word that it has stopped daemons.
func (l *leases) giveBack(from id.Node, c giveBackCall) {
	s := l.t.n.machine.View()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range c.Daemons {
		if a, ok := s.Assignment(f.Daemon); ok && a.Node == from && a.Boot == c.Boot && a.Epoch == f.Epoch {
			l.moving[f.Daemon] = true
			l.until[f.Daemon] = answered{node: from, boot: c.Boot}
		}
	}
}

// silent is how long a node has given no sign of life; before its first one in this term, since the term began.
func (l *leases) silent(n id.Node) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return time.Since(l.lastSeen(n))
}

func (l *leases) lastSeen(n id.Node) time.Time {
	if s, ok := l.nodes[n]; ok {
		return s.at
	}
	return l.t.began
}

// heard says whether a node's boot has given a sign of life in this term within d.
func (l *leases) heard(n id.Node, boot id.Boot, d time.Duration) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	s, ok := l.nodes[n]
	return ok && s.boot == boot && time.Since(s.at) <= d
}

// over is when whoever may hold a daemon has surely stopped it. A term counts from its own beginning what a former
// coordinator may have answered, and from a change of timing what was answered under the former one. A boot that another has
// replaced is over by that. One that has left is not: the node says so first and stops what it runs then, at its next renewal
// at the latest.
func (l *leases) over(s *state.State, a ring.Assignment, times ring.Times) time.Time {
	u, ok := l.until[a.Daemon]
	switch m, known := s.Member(u.node); {
	case ok && known && !m.Revoked && m.Boot != u.boot:
		return time.Time{}
	case ok:
		return u.over
	case a.Epoch == 0: // never assigned
		return time.Time{}
	}
	first := l.t.began.Add(times.Lease + times.Margin)
	if former := l.t.n.former.Load(); former != nil && former.After(first) {
		return *former
	}
	return first
}

// noteTiming takes note of a change of timing since a former state. What was asked for before it may have been answered with
// the former one's lease, by this coordinator or by one before it; what is asked for later is not, since a coordinator
// answers by a state that holds what was committed before it was asked. Whoever starts from files sees the change as an
// entry, or all is over: see fsm.Snapshot.
func (n *Node) noteTiming(before *state.State) {
	old, version := before.Settings()
	now, changed := n.machine.View().Settings()
	if version == 0 || changed == version || now.Timing == old.Timing {
		return
	}
	times := old.Timing.Times()
	over := time.Now().Add(times.Lease + times.Margin)
	if last := n.former.Load(); last == nil || over.After(*last) {
		n.former.Store(&over)
	}
}

// take starts moving a daemon if its last lease is over. From then on no renewal names it, until settle.
func (l *leases) take(s *state.State, a ring.Assignment, times ring.Times) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if time.Now().Before(l.over(s, a, times)) {
		return false
	}
	l.moving[a.Daemon] = true
	return true
}

// withdraw stops answering for a daemon, so that its holder stops it within a lease, or gives it back before.
func (l *leases) withdraw(daemon string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.moving[daemon] = true
}

// settle ends a move. A new holder gets the time of a lease to ask for its first renewal.
func (l *leases) settle(a ring.Assignment, times ring.Times) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.moving, a.Daemon)
	if a.Node != "" {
		l.until[a.Daemon] = answered{a.Node, a.Boot, time.Now().Add(times.Lease + times.Margin)}
	}
}

// keep ends a move that is no more: its reason has passed while the holder still runs, or its outcome was unknown and the
// state shows that it was made. It says whether the holder goes on; if not, the move must be brought to its end.
func (l *leases) keep(a ring.Assignment, times ring.Times) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.moving[a.Daemon] {
		return true
	}
	now := time.Now()
	switch u := l.until[a.Daemon]; {
	case u.node != a.Node || u.boot != a.Boot:
		l.until[a.Daemon] = answered{a.Node, a.Boot, now.Add(times.Lease + times.Margin)}
	case !now.Before(u.over):
		return false
	}
	delete(l.moving, a.Daemon)
	return true
}

// lastNode is where a daemon ran last, as far as this term knows.
func (l *leases) lastNode(daemon string) id.Node {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.until[daemon].node
}

// givenBack says that the holder has stopped the daemon by itself.
func (l *leases) givenBack(a ring.Assignment) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	u, ok := l.until[a.Daemon]
	return ok && l.moving[a.Daemon] && u.node == a.Node && u.boot == a.Boot && u.over.IsZero()
}

// release lets the present holder go on after a move that found no better place.
func (l *leases) release(daemon string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.moving, daemon)
}
