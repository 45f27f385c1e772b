package leader

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/ringagent/ringagent/internal/id"
)

// ballot decides which candidacies reach the library, and corrects three of its answers. Term and log are judged by the
// library as ever, so that nothing here touches what makes Raft safe.
//
// A candidate that is no voter in this node's configuration may stand. A configuration entry commits with a majority of
// the new configuration: of A, B and the new C only A and C need hold it, or B may even lack the entry that made itself a
// voter. If A dies then, B can elect nobody else, and C wins only with B's vote; the library refuses it, and the two wait
// for A. Raft grants a vote without asking the receiver's own configuration (Ongaro's dissertation, 4.1): a majority of the
// candidate's configuration cannot be had by one whose log lacks what was committed, so that a voter that was removed, and
// comes back with an old configuration, wins nothing by this.
//
// A candidate may stand while this node still remembers a coordinator that is silent. The library forgets one only when
// its own timer runs out, which is drawn up to three times as long as the shortest; of two survivors the first to stand is
// then refused by the other, and a failover lasts as long as the longer of two draws. Here a coordinator is forgotten when
// it was not heard for three fifths of that, longer than its calls are apart. The rule is there (4.2.3) to keep a disturber from
// deposing a coordinator that is heard.
//
// Of two that stand at the same moment with the same log one gives way. The library lets both win the pre-vote and split
// the votes, which costs both an election timeout; this happens the more often the slower the machine.
type ballot struct {
	self    id.Node
	raft    atomic.Pointer[raft.Raft] // nil until it has started
	silence time.Duration
	busy    func() bool // the library's loop is in a write: calls of the coordinator may wait behind it
	off     bool        // for tests: as the library has it

	mu  sync.Mutex
	own standing
}

// standing is a node's own last candidacy.
type standing struct {
	at             time.Time
	term           uint64
	logTerm, index uint64
	voting         bool // beyond the pre-vote: this node has given its vote to itself
}

// electorate is what a candidacy is judged by besides term and log.
type electorate struct {
	self        id.Node
	servers     []raft.Server
	coordinator raft.ServerAddress // that this node remembers
	silent      bool               // it was not heard for long enough
	own         standing           // zero if this node does not stand at this moment
}

// RequestPreVote notes that this node stands.
func (t *Transport) RequestPreVote(n raft.ServerID, a raft.ServerAddress, req *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	t.ballot.stand(standing{term: req.Term, logTerm: req.LastLogTerm, index: req.LastLogIndex})
	return t.overNew(func() error { return t.NetworkTransport.RequestPreVote(n, a, req, resp) })
}

// RequestVote notes that this node has voted for itself.
func (t *Transport) RequestVote(n raft.ServerID, a raft.ServerAddress, req *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	t.ballot.stand(standing{term: req.Term, logTerm: req.LastLogTerm, index: req.LastLogIndex, voting: true})
	return t.overNew(func() error { return t.NetworkTransport.RequestVote(n, a, req, resp) })
}

// overNew makes a call again that fails at once, until it went over a new connection. The library keeps connections of the time when
// this node coordinated, and learns of each only by a call that fails whether the peer was started again since: each would cost a
// candidate an election, if it needs that peer's vote. A vote asked for twice is one vote.
func (t *Transport) overNew(call func() error) error {
	for range poolSize {
		began := time.Now()
		if err := call(); err == nil || errors.Is(err, errDial) || time.Since(began) > t.beat/10 {
			return err
		}
	}
	return call()
}

func (b *ballot) stand(s standing) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s.at = time.Now(); s.term > b.own.term || s.voting || !b.own.voting {
		b.own = s
	}
}

// admit changes a call so that the library answers it as it should.
func (b *ballot) admit(command any, peer id.Node) {
	r := b.raft.Load()
	if r == nil || b.off {
		return
	}
	e := electorate{self: b.self, servers: configuration(r)}
	e.coordinator, _ = r.LeaderWithID()
	e.silent = r.State() == raft.Follower && time.Since(r.LastContact()) >= b.silence && !b.busy()
	b.mu.Lock()
	if time.Since(b.own.at) < b.silence { // else it failed, and has no claim on anybody's patience
		e.own = b.own
	}
	b.mu.Unlock()
	e.admit(command, peer)
}

func (e electorate) admit(command any, peer id.Node) {
	known, voter := false, raft.ServerID("")
	for _, s := range e.servers {
		if s.Suffrage == raft.Voter {
			known, voter = known || id.Node(s.ID) == peer, s.ID
		}
	}
	switch c := command.(type) {
	case *raft.RequestVoteRequest:
		if !known {
			c.ID = nil // as from a version that did not name itself: the library then asks for no place in the configuration
		}
		if e.silent {
			c.LeadershipTransfer = true // which only says that a coordinator is no reason to refuse
		}
	case *raft.RequestPreVoteRequest:
		if !known && voter != "" {
			c.ID = []byte(voter) // looked at for its place in the configuration only
		}
		if e.silent && e.coordinator != "" {
			c.Addr = []byte(e.coordinator) // compared with the coordinator only
		}
		if e.givesWay(c, peer) {
			c.ID = nil // has no place in the configuration
		}
	}
}

// givesWay says that a candidate has to leave the field to this node, which stands itself and can win with its vote.
func (e electorate) givesWay(c *raft.RequestPreVoteRequest, peer id.Node) bool {
	o := e.own
	if o.at.IsZero() || c.Term > o.term || c.LastLogTerm != o.logTerm || c.LastLogIndex != o.index {
		return false
	}
	return o.voting || peer < e.self
}
