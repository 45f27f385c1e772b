package leader

import (
	"bytes"
	"testing"

	"github.com/hashicorp/raft"
	"github.com/rs/zerolog"

	"github.com/ringagent/ringagent/leader/state"
)

// A log with an end that nobody else has is as long as the snapshot that is taken over for it, or longer: the library goes on by
// its end, and refuses what follows the snapshot. A shorter one needs no new beginning.
func TestSnapshotThatTheLibraryCannotGoOnFrom(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		last  uint64
		stuck bool
	}{"none": {0, false}, "shorter": {6, false}, "as long": {7, true}, "longer": {9, true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			other := bare(Ports{})
			fill(t, other) // up to index 7
			var content bytes.Buffer
			if err := state.WriteSnapshot(&content, other.machine.View()); err != nil {
				t.Fatal(err)
			}
			n := bare(Ports{})
			n.overtaken = make(chan struct{}, 1)
			r, peer := follower(t, n, c.last)
			s := &seat{raft: r, trans: &Transport{}}
			n.seat.Store(s)
			_, trans := raft.NewInmemTransport("two")
			trans.Connect("one", peer)
			head := raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte("two"), Addr: []byte("two")}
			servers := raft.EncodeConfiguration(raft.Configuration{Servers: []raft.Server{{ID: "two", Address: "two"}}})
			var installed raft.InstallSnapshotResponse
			err := trans.InstallSnapshot("one", "one", &raft.InstallSnapshotRequest{RPCHeader: head, SnapshotVersion: raft.SnapshotVersionMax, Term: 2,
				LastLogIndex: 7, LastLogTerm: 2, Configuration: servers, ConfigurationIndex: 1, Size: int64(content.Len())}, &installed, bytes.NewReader(content.Bytes()))
			if err != nil || !installed.Success {
				t.Fatalf("%+v, %v", installed, err)
			}
			if again := len(n.overtaken) > 0; again != c.stuck || s.trans.over.Load() != c.stuck {
				t.Errorf("begins anew: %v", again)
			}
			var answer raft.AppendEntriesResponse
			err = trans.AppendEntries("one", "one", &raft.AppendEntriesRequest{RPCHeader: head, Term: 2, PrevLogEntry: 7, PrevLogTerm: 2,
				Entries: []*raft.Log{{Index: 8, Term: 2, Type: raft.LogNoop}}}, &answer)
			if err != nil || answer.Success == c.stuck {
				t.Errorf("the library goes on: %v, %v", answer.Success, err)
			}
		})
	}
}

// follower has a log of entries that were never committed.
func follower(t *testing.T, n *Node, last uint64) (*raft.Raft, raft.LoopbackTransport) {
	t.Helper()
	store := raft.NewInmemStore()
	for i := range last {
		if err := store.StoreLog(&raft.Log{Index: i + 1, Term: 1, Type: raft.LogNoop}); err != nil {
			t.Fatal(err)
		}
	}
	_, trans := raft.NewInmemTransport("one")
	conf := raft.DefaultConfig()
	conf.LocalID, conf.Logger, conf.NoLegacyTelemetry = "one", newRaftLogger(zerolog.Nop()), true
	r, err := raft.NewRaft(conf, fsm{n: n}, store, store, raft.NewInmemSnapshotStore(), trans)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Shutdown().Error() }) // nothing is kept
	return r, trans
}
