package gossip

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/ringagent/ringagent/internal/id"
)

// Status is a member as this node's gossip sees it.
type Status string

// The statuses. Suspect means that this node's own last probe got no answer, and gossip has not decided yet.
const (
	Alive   Status = "alive"
	Suspect Status = "suspect"
	Left    Status = "left"
	Failed  Status = "failed"
)

// Member is one node as this node's gossip sees it.
type Member struct {
	ID      id.Node
	Name    string // people's name, where the roster knows it
	Address string // host:port under which it was last reached or wants to be; may be empty
	Status  Status
	Class   id.Class
	Boot    id.Boot
	Meta    Meta
	Since   time.Time // of the status, by this node's clock
}

// forgetAfter is how long a member that failed or left and is no known peer any more is remembered.
const forgetAfter = 24 * time.Hour

// farewell is how long before or after gossip declares a node dead its goodbye may arrive.
const farewell = time.Minute

// table is what the callbacks of memberlist write to: a map under a lock that nobody holds for long.
type table struct {
	mu      sync.Mutex
	members map[id.Node]*Member
	byes    map[id.Node]goodbye
	changed chan struct{}
	joins   int // counts joins of others
}

type goodbye struct {
	boot id.Boot
	at   time.Time
}

func newTable() *table {
	return &table{
		members: make(map[id.Node]*Member), byes: make(map[id.Node]goodbye),
		changed: make(chan struct{}),
	}
}

// notify wakes everybody who waits for a change. The lock is held.
func (t *table) notify() {
	close(t.changed)
	t.changed = make(chan struct{})
}

func (t *table) changes() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.changed
}

func (t *table) list() []Member {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make([]Member, 0, len(t.members))
	for _, m := range t.members {
		out = append(out, *m)
	}
	slices.SortFunc(out, func(a, b Member) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// set notes a member that is there.
func (t *table) set(node id.Node, meta Meta, joined bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	m := t.members[node]
	if m == nil {
		m = &Member{ID: node}
		t.members[node] = m
	}
	if m.Status != Alive || m.Boot != meta.Boot {
		m.Since = time.Now()
	}
	m.Status, m.Meta, m.Class, m.Boot = Alive, meta, meta.Class, meta.Boot
	if joined {
		t.joins++
		if bye, ok := t.byes[node]; ok && bye.boot != meta.Boot {
			delete(t.byes, node)
		}
	}
	t.notify()
}

// gone notes a member that left or failed: which of the two, only its own goodbye tells.
func (t *table) gone(node id.Node) {
	t.mu.Lock()
	defer t.mu.Unlock()
	m := t.members[node]
	if m == nil {
		return
	}
	status := Failed
	if bye, ok := t.byes[node]; ok && bye.boot == m.Boot && time.Since(bye.at) < farewell {
		status = Left
	}
	m.Status, m.Since = status, time.Now()
	t.notify()
}

// bye notes a goodbye, which may come after gossip has found the node dead.
func (t *table) bye(node id.Node, boot id.Boot) {
	t.mu.Lock()
	defer t.mu.Unlock()
	m := t.members[node]
	if m == nil || m.Boot != boot {
		return
	}
	t.byes[node] = goodbye{boot: boot, at: time.Now()}
	if m.Status == Failed && time.Since(m.Since) < farewell {
		m.Status = Left
		t.notify()
	}
}

// doubt marks a member whose probe failed; trust takes the mark away.
func (t *table) doubt(node id.Node) { t.mark(node, Alive, Suspect) }
func (t *table) trust(node id.Node) { t.mark(node, Suspect, Alive) }

func (t *table) mark(node id.Node, from, to Status) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if m := t.members[node]; m != nil && m.Status == from {
		m.Status, m.Since = to, time.Now()
		t.notify()
	}
}

// forget removes a node; without one, those that are long gone and not known.
func (t *table) forget(node id.Node) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.members, node)
	delete(t.byes, node)
	t.notify()
}

func (t *table) prune(known []id.Node) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for node, m := range t.members {
		if (m.Status == Failed || m.Status == Left) && time.Since(m.Since) > forgetAfter && !slices.Contains(known, node) {
			delete(t.members, node)
			delete(t.byes, node)
		}
	}
}

// present lists members other than self that gossip takes for being there.
func (t *table) present(self id.Node) []id.Node {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []id.Node
	for node, m := range t.members {
		if node != self && (m.Status == Alive || m.Status == Suspect) {
			out = append(out, node)
		}
	}
	slices.Sort(out)
	return out
}

func (t *table) joinCount() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.joins
}
