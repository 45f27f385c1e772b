package leader

import (
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/ringagent/ringagent/internal/id"
)

const (
	// signWait is how long a coordinator leaves it to the next entry to tell a follower what is committed: at a hundred entries a second
	// and more no sign is ever needed.
	signWait = 10 * time.Millisecond
	// signTries bounds how often it looks whether the last entry is committed yet, after twice as long each time; by then the library
	// has told.
	signTries = 6
)

// signs tell a follower that its last entry is committed. It had the entry before that, and hears of the commit with the next entry, or
// from the library at the latest after twice the commitTimeout: so an event that comes alone was in the copies of other voters, and
// with their singletons, up to half a second late.
//
// A sign is an ordinary call without entries. It is sent only while its entry is the follower's last and everything that is committed: what it
// says is true of the follower's log, and of the ring (see told).
type signs struct {
	// now says in which term this node is, how far its log is committed, and whether it coordinates.
	now  func() (term, commit uint64, leads bool)
	send func(n raft.ServerID, target raft.ServerAddress, args *raft.AppendEntriesRequest)

	mu      sync.Mutex
	peers   map[id.Node]*sign
	closed  bool
	sending sync.WaitGroup
}

// sign is what one follower is to be told.
type sign struct {
	timer   *time.Timer // nil: nothing
	commit  uint64
	sending bool
}

func newSigns(now func() (term, commit uint64, leads bool), send func(raft.ServerID, raft.ServerAddress, *raft.AppendEntriesRequest)) *signs {
	return &signs{now: now, send: send, peers: make(map[id.Node]*sign)}
}

// call notes that the library calls a follower. What it tells, or will tell once its entries are stored, needs no sign.
func (s *signs) call(n raft.ServerID, args *raft.AppendEntriesRequest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.peers[id.Node(n)]; p != nil && (len(args.Entries) > 0 || args.LeaderCommitIndex >= p.commit) {
		s.drop(id.Node(n))
	}
}

func (s *signs) drop(n id.Node) {
	if p := s.peers[n]; p != nil && p.timer != nil {
		p.timer.Stop()
		p.timer = nil
	}
}

// stored notes that a follower has what a call brought.
func (s *signs) stored(n raft.ServerID, target raft.ServerAddress, args *raft.AppendEntriesRequest) {
	last := args.PrevLogEntry + uint64(len(args.Entries))
	if len(args.Entries) == 0 || args.LeaderCommitIndex >= last {
		return
	}
	req := &raft.AppendEntriesRequest{
		RPCHeader: args.RPCHeader, Term: args.Term, Leader: args.Leader,
		PrevLogEntry: last, PrevLogTerm: args.Entries[len(args.Entries)-1].Term, LeaderCommitIndex: last,
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	p := s.peers[id.Node(n)]
	if p == nil {
		p = &sign{}
		s.peers[id.Node(n)] = p
	}
	s.drop(id.Node(n))
	p.commit = last
	s.arm(p, signWait, signTries, func() { s.send(n, target, req) }, req)
}

// arm looks after a while whether the sign can be given. The caller holds mu.
func (s *signs) arm(p *sign, wait time.Duration, tries int, send func(), req *raft.AppendEntriesRequest) {
	var timer *time.Timer
	timer = time.AfterFunc(wait, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if p.timer != timer || s.closed { // something newer has been said
			return
		}
		p.timer = nil
		term, commit, leads := s.now()
		switch {
		case !leads || term != req.Term || commit > req.LeaderCommitIndex || p.sending:
		case commit == req.LeaderCommitIndex:
			p.sending = true
			s.sending.Add(1)
			s.mu.Unlock()
			send()
			s.mu.Lock()
			p.sending = false
			s.sending.Done()
		case tries > 1:
			s.arm(p, 2*wait, tries-1, send, req)
		}
	})
	p.timer = timer
}

// close ends everything; what is being sent must end by itself.
func (s *signs) close() {
	s.mu.Lock()
	s.closed = true
	for n := range s.peers {
		s.drop(n)
	}
	s.mu.Unlock()
	s.sending.Wait()
}
