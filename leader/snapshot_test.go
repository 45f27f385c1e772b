package leader

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
	"github.com/rs/zerolog"

	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/leader/state"
)

// replica is an event replica that is on disk up to some seq.
type replica struct{ seq atomic.Uint64 }

func (r *replica) Durable() uint64 { return r.seq.Load() }

func bare(ports Ports) *Node {
	return &Node{machine: state.New(), log: zerolog.Nop(), cfg: Config{Ports: ports}}
}

func encode(t *testing.T, k state.Kind, body any) []byte {
	t.Helper()
	data, err := state.Encode(state.Command{Kind: k, At: time.Unix(1e9, 0), By: "0000000000000001", Body: body})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func apply(t *testing.T, n *Node, index uint64, k state.Kind, body any) {
	t.Helper()
	res, ok := fsm{n: n}.Apply(&raft.Log{Index: index, Data: encode(t, k, body)}).(state.Result)
	if !ok || res.Code != "" {
		t.Fatalf("apply: %+v", res)
	}
}

// filling is the log of a small ring, from entry 2 on.
func filling() []state.Step {
	self := ring.Member{ID: "0000000000000001", Name: "n1", KeyHash: "k"}
	booted := self
	booted.Boot = "00000000000000b1"
	return []state.Step{
		{Kind: state.KindLead, Body: state.Lead{Node: self.ID, Term: 2}},
		{Kind: state.KindSettings, Body: state.PutSettings{Settings: ring.Settings{Timing: ring.TimingDev, Voters: 3, Workload: "a <b> & c"}}},
		{Kind: state.KindEnrol, Body: state.Enrol{Class: id.Core, Member: self}},
		{Kind: state.KindReport, Body: state.Report{Member: booted}},
		{Kind: state.KindAssign, Body: state.Assign{Daemon: "AUTO_EXPORT", Node: self.ID, Boot: booted.Boot}},
		{Kind: state.KindDaemonSwitch, Body: state.SwitchDaemon{Daemon: "X", Off: true}},
	}
}

func fill(t *testing.T, n *Node) {
	t.Helper()
	for i, c := range filling() {
		apply(t, n, uint64(i+2), c.Kind, c.Body)
	}
}

// sink is a snapshot's file.
type sink struct {
	bytes.Buffer
	closed, cancelled bool
}

func (s *sink) ID() string    { return "sink" }
func (s *sink) Close() error  { s.closed = true; return nil }
func (s *sink) Cancel() error { s.cancelled = true; return nil }
func (s *sink) over() bool    { return s.closed }

func TestNoSnapshotBeforeTheEventReplicaIsOnDisk(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		durable time.Duration // when the last record is; 0 = never
		closing time.Duration // when the seat ends; 0 = never
		over    time.Duration // when another one is taken over; 0 = never
		want    bool
	}{
		{name: "a moment later", durable: 50 * time.Millisecond, want: true},
		{name: "never"},
		{name: "too late", durable: time.Minute},
		{name: "the seat ends", durable: 5 * time.Second, closing: time.Second},
		{name: "another is taken over", durable: 5 * time.Second, over: time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				gate, closing := &replica{}, make(chan struct{})
				n := bare(Ports{Replica: gate})
				fill(t, n)
				head := n.machine.View().LogHead().Seq
				if head == 0 {
					t.Fatal("no event was placed")
				}
				gate.seq.Store(head - 1)
				if c.durable > 0 {
					time.AfterFunc(c.durable, func() { gate.seq.Store(head) })
				}
				if c.closing > 0 {
					time.AfterFunc(c.closing, func() { close(closing) })
				}
				if c.over > 0 {
					time.AfterFunc(c.over, func() { n.restored.Add(1) })
				}
				s, err := (fsm{n, closing}).Snapshot()
				if err != nil {
					t.Fatal(err)
				}
				apply(t, n, 8, state.KindDaemonSwitch, state.SwitchDaemon{Daemon: "Y", Off: true}) // what comes later is not waited for
				var to sink
				began := time.Now()
				if err = s.Persist(&to); (err == nil) != c.want || to.closed != c.want || to.cancelled == c.want {
					t.Errorf("after %s: %v, closed %t", time.Since(began), err, to.closed)
				}
				if ended := c.closing + c.over; ended > 0 && time.Since(began) > ended+replicaPoll {
					t.Errorf("it waited for %s", time.Since(began))
				}
				time.Sleep(time.Hour) // the timers
			})
		})
	}
}

// overwritten has another snapshot be taken over while it is written.
type overwritten struct {
	sink
	n *Node
}

func (s *overwritten) Write(b []byte) (int, error) {
	s.n.restored.Add(1)
	return s.sink.Write(b)
}

func TestSnapshotThatIsOvertakenWhileItIsWritten(t *testing.T) {
	t.Parallel()
	n := bare(Ports{})
	fill(t, n)
	s, err := fsm{n: n}.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	to := &overwritten{n: n}
	if err := s.Persist(to); err == nil || to.closed || !to.cancelled {
		t.Errorf("it counts: %v, %t", err, to.closed)
	}
}

func TestNoSnapshotOnABadDisk(t *testing.T) {
	t.Parallel()
	n := bare(Ports{})
	fill(t, n)
	n.idle.Store(true)
	if _, err := (fsm{n: n}).Snapshot(); !errors.Is(err, raft.ErrNothingNewToSnapshot) {
		t.Error(err)
	}
}

func TestUnfinishedSnapshotsAreRemoved(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "a [strange name")
	if err := sweep(dir); err != nil {
		t.Fatal("without a folder: ", err)
	}
	kept, left := filepath.Join(dir, snapshotFolder, "2-7-1"), filepath.Join(dir, snapshotFolder, "2-9-1.tmp")
	for _, d := range []string{kept, left} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := sweep(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(kept); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(left); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
}

func TestRestoreNeverGoesBack(t *testing.T) {
	t.Parallel()
	n := bare(Ports{})
	fill(t, n)
	var old bytes.Buffer
	if err := state.WriteSnapshot(&old, n.machine.View()); err != nil {
		t.Fatal(err)
	}
	apply(t, n, 8, state.KindDaemonSwitch, state.SwitchDaemon{Daemon: "Y", Off: true})
	if err := (fsm{n: n}).Restore(io.NopCloser(&old)); err != nil {
		t.Fatal(err)
	}
	if got := n.machine.View().Index(); got != 8 {
		t.Fatalf("the view went back to %d", got)
	}
}

// The excerpt is written in the snapshot's form by hand: whoever changes that form must see it fail here.
func TestExcerptIsAStateWithoutItsLargeParts(t *testing.T) {
	t.Parallel()
	n := bare(Ports{})
	fill(t, n)
	s := n.machine.View()
	x, err := makeExcerpt(s)
	if err != nil {
		t.Fatal(err)
	}
	got, err := state.ReadSnapshot(bytes.NewReader(x.bytes))
	if err != nil {
		t.Fatal(err)
	}
	show := func(s *state.State) string {
		settings, version := s.Settings()
		m, _ := s.MemberByName("n1")
		a, _ := s.Assignment("AUTO_EXPORT")
		b, err := json.Marshal([]any{s.Index(), s.Generation(), s.ActiveCommands(), s.Term(), s.Coordinator(), settings, version, m, a, s.DaemonOff("X"), s.LogHead()})
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	if show(got) != show(s) {
		t.Fatalf("got  %s\nwant %s", show(got), show(s))
	}
	// What changes nothing for an edge node must not wake it.
	apply(t, n, 8, state.KindToken, state.PutToken{Token: ring.Token{ID: "t", SecretHash: "s", Class: id.Edge, Uses: 1, Expires: time.Unix(2e9, 0)}})
	if y, err := makeExcerpt(n.machine.View()); err != nil || y.sum != x.sum {
		t.Fatalf("a token woke the edge: %v", err)
	}
	apply(t, n, 9, state.KindDaemonSwitch, state.SwitchDaemon{Daemon: "X"})
	if y, err := makeExcerpt(n.machine.View()); err != nil || y.sum == x.sum {
		t.Fatalf("a switch did not: %v", err)
	}
}

func TestEdgeSpeaksForItselfOnly(t *testing.T) {
	t.Parallel()
	n := bare(Ports{})
	fill(t, n)
	const core, edge id.Node = "0000000000000001", "0000000000000002"
	apply(t, n, 8, state.KindToken, state.PutToken{Token: ring.Token{ID: "t", SecretHash: "s", Class: id.Edge, Uses: 1, Expires: time.Unix(2e9, 0)}})
	apply(t, n, 9, state.KindEnrol, state.Enrol{TokenID: "t", SecretHash: "s", Class: id.Edge, Member: ring.Member{ID: edge, Name: "n2", KeyHash: "k2"}})
	adding := func(from id.Node, a ring.Artifact) state.Command {
		a.Origin, a.Holders = from, []id.Node{from}
		return state.Command{Kind: state.KindArtifacts, By: from, Body: state.AddArtifacts{Artifacts: []ring.Artifact{a}}}
	}
	pack := ring.Artifact{Kind: ring.KindPack, Bytes: 1 << 20, Counters: map[string]int64{"games": 50}, Created: time.Unix(1e9, 0)}
	labels := map[string]string{} // as many as a config may have, of full size
	for i := range 32 {
		labels[fmt.Sprintf("%0128d", i)] = strings.Repeat("x", 128)
	}
	noYear := time.Date(9999, 12, 31, 23, 59, 59, 0, time.FixedZone("", -23*3600))
	for name, c := range map[string]struct {
		from id.Node
		cmd  state.Command
		may  bool
	}{
		"its report":             {edge, state.Command{Kind: state.KindReport, By: edge, Body: state.Report{Member: ring.Member{ID: edge}}}, true},
		"another's report":       {edge, state.Command{Kind: state.KindReport, By: edge, Body: state.Report{Member: ring.Member{ID: core}}}, false},
		"in another's name":      {edge, state.Command{Kind: state.KindReport, By: core, Body: state.Report{Member: ring.Member{ID: edge}}}, false},
		"its receipt":            {edge, state.Command{Kind: state.KindReceipts, By: edge, Body: state.AddReceipts{Receipts: []ring.Receipt{{Node: edge}}}}, true},
		"another's receipt":      {edge, state.Command{Kind: state.KindReceipts, By: edge, Body: state.AddReceipts{Receipts: []ring.Receipt{{Node: core}}}}, false},
		"repeated games":         {edge, state.Command{Kind: state.KindRepeats, By: edge, Body: state.StateRepeats{}}, false},
		"the same from core":     {core, state.Command{Kind: state.KindRepeats, By: core, Body: state.StateRepeats{}}, true},
		"the same under a fence": {edge, state.Command{Kind: state.KindRepeats, By: edge, Fence: &ring.Fence{}, Body: state.StateRepeats{}}, false},
		"joined packs":           {edge, state.Command{Kind: state.KindJoin, By: edge, Body: state.JoinPacks{}}, false},
		"joined under a fence":   {edge, state.Command{Kind: state.KindJoin, By: edge, Fence: &ring.Fence{}, Body: state.JoinPacks{}}, false},
		"joined by core":         {core, state.Command{Kind: state.KindJoin, By: core, Body: state.JoinPacks{}}, true},
		"settings":               {edge, state.Command{Kind: state.KindSettings, By: edge, Body: state.PutSettings{}}, false},
		"settings from core":     {core, state.Command{Kind: state.KindSettings, By: core, Body: state.PutSettings{}}, true},
		"an assignment":          {core, state.Command{Kind: state.KindAssign, By: core, Body: state.Assign{}}, false},
		"a stranger's report":    {"00000000000000ff", state.Command{Kind: state.KindReport, By: "00000000000000ff", Body: state.Report{}}, false},
		"revoking from edge":     {edge, state.Command{Kind: state.KindRevoke, By: edge, Body: state.Revoke{Node: core}}, false},
		"another's departure":    {edge, state.Command{Kind: state.KindStatus, By: edge, Body: state.SetStatus{Node: core, Status: ring.Left}}, false},
		"a note under a fence":   {edge, state.Command{Kind: state.KindNote, By: edge, Fence: &ring.Fence{}, Body: state.PutNote{}}, true},
		"revoking under a fence": {edge, state.Command{Kind: state.KindRevoke, By: edge, Fence: &ring.Fence{}, Body: state.Revoke{Node: core}}, false},
		"settings in an effect": {edge, state.Command{Kind: state.KindEffect, By: edge, Fence: &ring.Fence{}, Body: state.Effect{
			Steps: []state.Step{{Kind: state.KindSettings, Body: state.PutSettings{}}}}}, false},
		"its pack":               {edge, adding(edge, pack), true},
		"a file of its operator": {edge, adding(edge, ring.Artifact{Kind: ring.KindFile}), true},
		"a model of its own":     {edge, adding(edge, ring.Artifact{Kind: ring.KindModel}), false},
		"a model by core":        {core, adding(core, ring.Artifact{Kind: ring.KindModel}), true},
		"matches of its own":     {edge, adding(edge, ring.Artifact{Kind: ring.KindMatches}), false},
		"a dataset of its own":   {edge, adding(edge, ring.Artifact{Kind: ring.KindDataset}), false},
		"a pack of 4e18 games":   {edge, adding(edge, ring.Artifact{Kind: ring.KindPack, Counters: map[string]int64{"games": 4e18}}), false},
		"a pack of 16 GiB":       {edge, adding(edge, ring.Artifact{Kind: ring.KindPack, Bytes: 16 << 30, Created: time.Unix(1e9, 0)}), true},
		"a pack of 64 GiB":       {edge, adding(edge, ring.Artifact{Kind: ring.KindPack, Bytes: 64 << 30, Created: time.Unix(1e9, 0)}), false},
		"a pack of no year":      {edge, adding(edge, ring.Artifact{Kind: ring.KindPack, Created: noYear}), false},
		"a counter of 200 KB":    {edge, adding(edge, ring.Artifact{Kind: ring.KindPack, Counters: map[string]int64{strings.Repeat("x", 200_000): 1}}), false},
		"a report of 200 KB":     {edge, state.Command{Kind: state.KindReport, By: edge, Body: state.Report{Member: ring.Member{ID: edge, Addresses: []string{strings.Repeat("x", 200_000)}}}}, false},
		"all labels it may have": {edge, state.Command{Kind: state.KindReport, By: edge, Body: state.Report{Member: ring.Member{ID: edge, Labels: labels}}}, true},
		"a core node's name":     {edge, state.Command{Kind: state.KindReport, By: edge, Body: state.Report{Member: ring.Member{ID: edge, Name: "n1"}}}, false},
		"its own name":           {edge, state.Command{Kind: state.KindReport, By: edge, Body: state.Report{Member: ring.Member{ID: edge, Name: "n2"}}}, true},
		"a name of 200 KB":       {edge, state.Command{Kind: state.KindReport, By: edge, Once: strings.Repeat("x", 200_000), Body: state.Report{Member: ring.Member{ID: edge}}}, false},
		"events with a report": {edge, state.Command{Kind: state.KindReport, By: edge, Body: state.Report{Member: ring.Member{ID: edge}},
			Events: []event.Draft{{Type: "P2P_CLUSTER_HEALTHY"}}}, false},
		"its departure": {edge, state.Command{Kind: state.KindStatus, By: edge, Body: state.SetStatus{Node: edge, Status: ring.Left}}, true},
	} {
		if err := permit(n.machine.View(), c.from, c.cmd); (err == nil) != c.may {
			t.Errorf("%s: %v", name, err)
		}
	}
}
