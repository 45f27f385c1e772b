package leader

import (
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/ringagent/ringagent/internal/id"
)

// holdMost bounds how long a call to a peer that is gone is kept.
const holdMost = 5 * time.Minute

// answers remembers, by peer, when the newest call of entries or heartbeats was sent that it answered, whatever it said. That
// it is there is all that this tells; what an answer proves is contacts' matter.
type answers struct {
	changed bell

	mu   sync.Mutex
	sent map[id.Node]time.Time
}

func (a *answers) note(n id.Node, sent time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.sent == nil {
		a.sent = make(map[id.Node]time.Time)
	}
	if sent.After(a.sent[n]) {
		a.sent[n] = sent
		a.changed.tell()
	}
}

// after says that n has answered a call that was sent after a moment.
func (a *answers) after(n id.Node, moment time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.sent[n].After(moment)
}

// await waits, after a call to n that failed, until heartbeats find n there again; true means that the call is worth another
// try. The library counts failed calls and pauses twice as long after each of them, up to 10 s, also when the peer is back at
// once: so a peer that is gone costs it one call that takes long. A peer that has answered a moment ago is left to the library.
// The wait ends with the office, with the peer's membership, before Raft is shut down, which waits for its calls, and after
// holdMost, whatever else of the library's may wait for the call. A second transfer of the office to one peer would, with all
// proposals refused meanwhile, so that nothing is handed over to a peer for which calls may be kept: see Node.transfer.
func (t *Transport) await(n id.Node, term uint64) bool {
	failed := time.Now()
	if t.answers.after(n, failed.Add(-t.beat)) {
		return false
	}
	look := time.NewTicker(t.beat)
	defer look.Stop()
	for time.Since(failed) < holdMost && t.owes(n, term) {
		more := t.answers.changed.wait()
		if t.answers.after(n, failed) {
			return true
		}
		select {
		case <-more:
		case <-look.C:
		case <-t.holds.Done():
			return false
		}
	}
	return false
}

// owes says that this node coordinates in term, and that n is one of those that it replicates to.
func (t *Transport) owes(n id.Node, term uint64) bool {
	r := t.ballot.raft.Load()
	return r != nil && r.State() == raft.Leader && r.CurrentTerm() == term &&
		slices.ContainsFunc(configuration(r), func(s raft.Server) bool { return id.Node(s.ID) == n })
}

// here are those of some peers that have answered a moment ago.
func (t *Transport) here(peers []id.Node) []id.Node {
	since := time.Now().Add(-t.beat)
	return slices.DeleteFunc(slices.Clone(peers), func(n id.Node) bool { return !t.answers.after(n, since) })
}
