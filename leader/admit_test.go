package leader

import (
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/ringagent/ringagent/internal/id"
)

func TestAdmit(t *testing.T) {
	t.Parallel()
	const old = "a" // the coordinator
	servers := []raft.Server{server(old), server("b"), {Suffrage: raft.Nonvoter, ID: "c", Address: "c"}}
	stands := func(term, logTerm, index uint64, voting bool) standing {
		return standing{at: time.Unix(1, 0), term: term, logTerm: logTerm, index: index, voting: voting}
	}
	// All that asks is at term 7 with a log that ends at (6, 40); this node is b.
	for _, c := range []struct {
		name                        string
		peer                        id.Node
		servers                     []raft.Server
		silent                      bool
		own                         standing
		preID, preAddr, voteID      string
		voteWhileCoordinatorIsKnown bool
	}{
		{"a voter is left to the library", "a", servers, false, standing{}, "a", "a", "a", false},
		{"a voter that is not known to be one may stand", "c", servers, false, standing{}, "b", "c", "", false},
		{"a voter that is not known at all may stand", "d", servers, false, standing{}, "b", "d", "", false},
		{"without a configuration all is the library's", "d", nil, false, standing{}, "d", "d", "", false},
		{"the coordinator is silent", "d", servers, true, standing{}, "b", "a", "", true},
		{"both stand: the smaller gives way", "a", servers, false, stands(7, 6, 40, false), "", "a", "a", false},
		{"both stand: the larger does not", "c", servers, false, stands(7, 6, 40, false), "b", "c", "", false},
		{"this node has voted for itself", "c", servers, false, stands(7, 6, 40, true), "", "c", "", false},
		{"the candidate is a term ahead", "a", servers, false, stands(6, 6, 40, true), "a", "a", "a", false},
		{"the candidate has the longer log", "a", servers, false, stands(7, 6, 39, true), "a", "a", "a", false},
		{"the candidate has the newer log", "a", servers, false, stands(7, 5, 50, true), "a", "a", "a", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			header := raft.RPCHeader{ID: []byte(c.peer), Addr: []byte(c.peer)}
			pre := &raft.RequestPreVoteRequest{RPCHeader: header, Term: 7, LastLogTerm: 6, LastLogIndex: 40}
			vote := &raft.RequestVoteRequest{RPCHeader: header, Term: 7, LastLogTerm: 6, LastLogIndex: 40}
			e := electorate{self: "b", servers: c.servers, coordinator: old, silent: c.silent, own: c.own}
			e.admit(pre, c.peer)
			e.admit(vote, c.peer)
			if string(pre.ID) != c.preID || string(pre.Addr) != c.preAddr {
				t.Errorf("the pre-vote comes from %q at %q, want %q at %q", pre.ID, pre.Addr, c.preID, c.preAddr)
			}
			if string(vote.ID) != c.voteID || string(vote.Addr) != string(c.peer) {
				t.Errorf("the vote comes from %q at %q, want %q at %q", vote.ID, vote.Addr, c.voteID, c.peer)
			}
			if vote.LeadershipTransfer != c.voteWhileCoordinatorIsKnown {
				t.Errorf("a remembered coordinator is overlooked: %v", vote.LeadershipTransfer)
			}
			if pre.Term != 7 || pre.LastLogTerm != 6 || pre.LastLogIndex != 40 || vote.Term != 7 || vote.LastLogTerm != 6 || vote.LastLogIndex != 40 {
				t.Error("term or log were touched")
			}
		})
	}
}
