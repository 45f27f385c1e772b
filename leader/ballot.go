package leader

import (
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/ringagent/ringagent/internal/id"
)

// ballot lets candidates stand where the library turns them away, though Raft as it is proven does not.
//
// A candidate that is no voter in this node's configuration: a configuration entry commits with a majority of the new
// configuration, so that the voter which was just made may hold the entry when an older voter does not. Of A, B and the new
// C only A and C need have it. If A dies, B has nobody else to vote for, and C can win only with B's vote; the library
// refuses it, and the two wait for A. Raft grants a vote by term and log alone, without asking the receiver's own
// configuration (Ongaro's dissertation, 4.1): a majority of the candidate's configuration cannot be had by one whose log
// lacks what was committed, so a voter that was removed, and comes back with an old configuration, wins nothing by this.
//
// A candidate that asks while this node remembers a coordinator: the library forgets a silent coordinator only when its
// own timer runs out, which is drawn up to twice as long as the shortest. Of two survivors the first to stand is then
// refused by the other, and a failover lasts as long as the longer of the two draws. Here a coordinator counts as
// forgotten when it was not heard for the time after which it steps down itself when no majority answers it. (4.2.3 asks
// for nothing longer: the rule is there to keep a disturber from deposing a coordinator that is heard.)
type ballot struct {
	raft    atomic.Pointer[raft.Raft] // nil until it has started
	silence time.Duration
	off     bool // for tests: as the library has it
}

// admit returns the call as Raft is to see it.
func (b *ballot) admit(command any, peer id.Node) any {
	r := b.raft.Load()
	if r == nil || b.off {
		return command
	}
	coordinator, _ := r.LeaderWithID()
	forgotten := coordinator != "" && time.Since(r.LastContact()) >= b.silence && r.State() == raft.Follower
	return admit(command, peer, configuration(r), coordinator, forgotten)
}

// admit changes a candidate's call so that the library's checks of configuration and coordinator let it by; term and log
// are judged as ever. coordinator is the one that this node remembers.
func admit(command any, peer id.Node, servers []raft.Server, coordinator raft.ServerAddress, forgotten bool) any {
	known, voter := false, raft.ServerID("")
	for _, s := range servers {
		if s.Suffrage == raft.Voter {
			known, voter = known || id.Node(s.ID) == peer, s.ID
		}
	}
	switch c := command.(type) {
	case *raft.RequestVoteRequest:
		if !known {
			c.ID = nil // as from a version that did not name itself: the library then asks for no place in the configuration
		}
		c.LeadershipTransfer = c.LeadershipTransfer || forgotten
	case *raft.RequestPreVoteRequest:
		if !known && voter != "" {
			c.ID = []byte(voter) // looked at for its place in the configuration only
		}
		if forgotten {
			c.Addr = []byte(coordinator) // compared with the coordinator only
		}
	}
	return command
}
