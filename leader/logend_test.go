package leader

import (
	"testing"

	"github.com/hashicorp/raft"
	"github.com/rs/zerolog"

	"github.com/ringagent/ringagent/leader/state"
)

// A log of a later term was cleared for a snapshot of an earlier one: what that term had is gone.
func TestLogEndIsThatOfTheSnapshotTakenOver(t *testing.T) {
	t.Parallel()
	n := bare(Ports{})
	store := raft.NewInmemStore()
	for i := range uint64(90) {
		term := uint64(5)
		if i >= 85 {
			term = 6
		}
		if err := store.StoreLog(&raft.Log{Index: i + 1, Term: term, Type: raft.LogNoop}); err != nil {
			t.Fatal(err)
		}
	}
	_, trans := raft.NewInmemTransport("one")
	conf := raft.DefaultConfig()
	conf.LocalID, conf.Logger, conf.NoLegacyTelemetry = "one", newRaftLogger(zerolog.Nop()), true
	snaps, err := raft.NewFileSnapshotStoreWithLogger(t.TempDir(), 2, newRaftLogger(zerolog.Nop()))
	if err != nil {
		t.Fatal(err)
	}
	r, err := raft.NewRaft(conf, fsm{n: n}, monotonic{store}, store, snaps, trans)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Shutdown().Error() }()
	other := bare(Ports{})
	fill(t, other)
	for i := uint64(8); i <= 100; i++ {
		apply(t, other, i, state.KindDaemonSwitch, state.SwitchDaemon{Daemon: "Y", Off: i%2 == 0})
	}
	n.finder.n = n
	n.overtaken = make(chan struct{}, 1)
	seat := &seat{raft: r, snaps: snaps}
	var b sink
	if err := state.WriteSnapshot(&b, other.machine.View()); err != nil {
		t.Fatal(err)
	}
	_, from := raft.NewInmemTransport("two")
	from.Connect("one", trans)
	var resp raft.InstallSnapshotResponse
	err = from.InstallSnapshot("one", "one", &raft.InstallSnapshotRequest{
		RPCHeader: raft.RPCHeader{ProtocolVersion: 3, Addr: []byte("two"), ID: []byte("two")}, SnapshotVersion: 1,
		Term: 7, LastLogIndex: 100, LastLogTerm: 5, Size: int64(b.Len()),
		Configuration:      raft.EncodeConfiguration(raft.Configuration{Servers: []raft.Server{{ID: "one", Address: "one"}, {ID: "two", Address: "two"}}}),
		ConfigurationIndex: 1,
	}, &resp, &b)
	if err != nil || !resp.Success {
		t.Fatal(err, resp)
	}
	n.seat.Store(seat)
	if end := n.logEnd(); end.Term != 5 || end.Index != 100 {
		t.Errorf("it says that it ends at %d of term %d, and has 100 of term 5", end.Index, end.Term)
	}
}

type monotonic struct{ *raft.InmemStore }

func (monotonic) IsMonotonic() bool { return true }
