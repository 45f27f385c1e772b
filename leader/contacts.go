package leader

import (
	"slices"
	"sync"
	"time"

	"github.com/ringagent/ringagent/internal/id"
)

// contacts remembers, by voter, when the newest call of Raft was sent that the voter answered in the caller's own term.
// Whoever answers in a term has voted in no later one yet: once a quorum has answered calls that were sent after a moment,
// nobody else coordinated at that moment.
type contacts struct {
	changed bell

	mu     sync.Mutex
	sent   map[id.Node]contact
	signs  map[id.Node]time.Time // of nodes, such as prove nothing: see sign
	wanted time.Time             // somebody waits for calls sent after this
	late   bool                  // notes when answers came instead: the broken variant for tests
}

type contact struct {
	term uint64
	at   time.Time
	took time.Duration // until the answer came
}

func (c *contacts) answered(n id.Node, term uint64, sent time.Time) {
	took := time.Since(sent)
	if c.late {
		sent = time.Now()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sent == nil {
		c.sent = make(map[id.Node]contact)
	}
	if old := c.sent[n]; old.term > term || old.term == term && !sent.After(old.at) {
		return
	}
	c.sent[n] = contact{term, sent, took}
	c.changed.tell()
}

// fresh says that a heartbeat to n would tell nobody anything: n has answered a call in this term that was sent a moment ago,
// and nobody waits for a later one. Where answers come at once the moment may be longer: at rest these calls are most of what
// a voter does. On a busy machine or a slow link each of them is needed.
func (c *contacts) fresh(n id.Node, term uint64, heartbeat time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	k, ok := c.sent[n]
	rest := heartbeat * 3 / 20
	if k.took < heartbeat/100 {
		rest = heartbeat / 4
	}
	return ok && k.term == term && k.at.After(c.wanted) && time.Since(k.at) < rest
}

// lately says that n has answered, in this term, a call that was sent within d.
func (c *contacts) lately(n id.Node, term uint64, d time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	k, ok := c.sent[n]
	return ok && k.term == term && time.Since(k.at) < d
}

// sign takes note that n was given a seat, or takes a snapshot in, during which it answers no other call.
func (c *contacts) sign(n id.Node) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.signs == nil {
		c.signs = make(map[id.Node]time.Time)
	}
	c.signs[n] = time.Now()
}

// quiet is how long n has neither answered a call of this term nor given another sign; before the first, since the term began.
func (c *contacts) quiet(n id.Node, term uint64, began time.Time) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	last := began
	// From when the answer came: one that took long, as behind a slow disk, is a sign of life of the moment in which it came.
	if k, ok := c.sent[n]; ok && k.term == term && k.at.Add(k.took).After(last) {
		last = k.at.Add(k.took)
	}
	if at := c.signs[n]; at.After(last) {
		last = at
	}
	return time.Since(last)
}

// want has the next heartbeats sent, whatever was answered before.
func (c *contacts) want(after time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if after.After(c.wanted) {
		c.wanted = after
	}
}

// quorum says whether a majority of voters, self counted, has answered in term a call that was sent after a moment.
func (c *contacts) quorum(self id.Node, voters []id.Node, term uint64, after time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for _, v := range voters {
		if k, ok := c.sent[v]; v == self || ok && k.term == term && k.at.After(after) {
			n++
		}
	}
	return n > len(voters)/2
}

// proven is the latest moment at which nobody but self can have coordinated in a later term: a majority of voters has
// answered, in term, calls that were sent then or later. It is now for who votes alone, and zero if no majority ever answered.
func (c *contacts) proven(self id.Node, voters []id.Node, term uint64, now time.Time) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	var sent []time.Time
	for _, v := range voters {
		if k, ok := c.sent[v]; v == self {
			sent = append(sent, now)
		} else if ok && k.term == term {
			sent = append(sent, k.at)
		}
	}
	slices.SortFunc(sent, func(a, b time.Time) int { return b.Compare(a) })
	if majority := len(voters)/2 + 1; len(sent) >= majority {
		return sent[majority-1]
	}
	return time.Time{}
}
