package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/agent/worker"
	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/eventlog"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/leader"
	"github.com/ringagent/ringagent/leader/state"
)

const (
	coreA id.Node   = "aaaaaaaaaaaaaaaa"
	coreB id.Node   = "bbbbbbbbbbbbbbbb"
	edgeC id.Node   = "cccccccccccccccc"
	four  id.Config = "connect4_2p"
)

// folded is a state made by real commands.
type folded struct {
	t     *testing.T
	m     *state.Machine
	index uint64
}

// newFolded is a ring of two core nodes and an edge node.
func newFolded(t *testing.T) *folded {
	f := &folded{t: t, m: state.New()}
	f.do(state.KindLead, state.Lead{Node: coreA, Term: 1})
	f.do(state.KindEnrol, state.Enrol{Class: id.Core, Member: ring.Member{ID: coreA, Name: "a", Class: id.Core, KeyHash: "ka"}})
	f.do(state.KindSettings, state.PutSettings{Settings: ring.Settings{Timing: ring.TimingDev, Voters: 3}})
	for class, n := range map[id.Class]ring.Member{id.Core: {ID: coreB, Name: "b", KeyHash: "kb"}, id.Edge: {ID: edgeC, Name: "c", KeyHash: "kc"}} {
		n.Class = class
		f.do(state.KindToken, state.PutToken{Token: ring.Token{ID: "t" + n.Name, SecretHash: "h", Class: class, Uses: 1, Expires: f.now().Add(time.Hour)}})
		f.do(state.KindEnrol, state.Enrol{TokenID: "t" + n.Name, SecretHash: "h", Class: class, Member: n})
	}
	for _, n := range []id.Node{coreA, coreB, edgeC} {
		f.do(state.KindReport, state.Report{Member: ring.Member{ID: n, Boot: id.Boot("0" + n[1:])}})
	}
	return f
}

func (f *folded) now() time.Time { return time.Date(2026, 3, 1, 0, 0, int(f.index), 0, time.UTC) }

func (f *folded) do(k state.Kind, body any) {
	f.t.Helper()
	b, err := state.Encode(state.Command{Kind: k, At: f.now(), By: coreA, Body: body})
	if err != nil {
		f.t.Fatalf("encode %T: %v", body, err)
	}
	f.index++
	res, _, err := f.m.Apply(f.index, b)
	if err != nil || res.Code != "" {
		f.t.Fatalf("apply %T: %v, %s %s", body, err, res.Code, res.Message)
	}
}

func (f *folded) add(name string, k ring.Kind, origin id.Node, games int64, holders ...id.Node) id.Digest {
	f.t.Helper()
	d := id.DigestOf([]byte(name))
	f.do(state.KindArtifacts, state.AddArtifacts{Artifacts: []ring.Artifact{{
		Digest: d, Kind: k, Config: four, Bytes: 100, Created: f.now(), Origin: origin, Holders: holders, Counters: map[string]int64{"games": games},
	}}})
	return d
}

func (f *folded) receipt(n id.Node, d id.Digest) {
	f.t.Helper()
	f.do(state.KindReceipts, state.AddReceipts{Receipts: []ring.Receipt{{Node: n, Digest: d}}})
}

// A game that is in two packs counts once, from when that is stated.
func TestGameInTwoPacksCountsOnce(t *testing.T) {
	t.Parallel()
	f := newFolded(t)
	f.add("one", ring.KindPack, edgeC, 40, coreA, coreB)
	d := f.add("two", ring.KindPack, coreA, 10, coreA, coreB)
	if f.games() != 50 {
		t.Errorf("%d games before it is stated", f.games())
	}
	f.do(state.KindRepeats, state.StateRepeats{Repeats: []ring.Repeat{{Digest: d, Games: 3}}})
	if f.games() != 47 {
		t.Errorf("%d games after", f.games())
	}
}

// No repeated games are stated while a core node would have to end at the command.
func TestRepeatedGamesWaitForOldBuilds(t *testing.T) {
	t.Parallel()
	f := newFolded(t)
	f.add("one", ring.KindPack, edgeC, 40, coreA, coreB)
	var said int
	e := effects{self: coreA, now: time.Now, view: f.m.View, leader: proposed(func(c state.Command) {
		if c.Kind == state.KindRepeats {
			said++
		}
	})}
	for i, version := range []int{1, 2, 2} {
		n := []id.Node{coreB, coreA, coreB}[i]
		f.do(state.KindReport, state.Report{Member: ring.Member{ID: n, Boot: id.Boot("0" + n[1:]), Commands: version}})
		if err := e.StateRepeats(t.Context(), ring.Repeat{Digest: id.DigestOf([]byte("one")), Games: 1}); err != nil {
			t.Fatal(err)
		}
		if want := i / 2; said != want {
			t.Errorf("step %d: stated %d times, want %d", i, said, want)
		}
	}
}

type proposed func(state.Command)

func (p proposed) Propose(_ context.Context, c state.Command) (state.Result, error) {
	p(c)
	return state.Result{}, nil
}

func (f *folded) reading() reading {
	return reading{s: f.m.View(), fresh: leader.Freshness{Known: true, AsOf: time.Now()}}
}

func (f *folded) games() int64 {
	f.t.Helper()
	rows := f.reading().games("", nil, false)
	if len(rows) != 1 || rows[0].Config != four || rows[0].Unsynced != nil {
		f.t.Fatalf("rows %+v", rows)
	}
	return rows[0].Games
}

// A game counts once it has its copies elsewhere than on the rented node that played it, and from then on for ever.
func TestGamesCountWithTheirReceipts(t *testing.T) {
	t.Parallel()
	f := newFolded(t)
	d := f.add("pack", ring.KindPack, edgeC, 40, edgeC)
	copies := func() int {
		a, _ := f.m.View().Artifact(d)
		return f.reading().copies(a)
	}
	if f.games() != 0 || copies() != 0 {
		t.Errorf("with the player's own copy alone: %d games, %d copies", f.games(), copies())
	}
	f.receipt(coreA, d)
	if f.games() != 0 || copies() != 1 {
		t.Errorf("with one of two copies: %d games, %d copies", f.games(), copies())
	}
	f.receipt(coreB, d)
	if f.games() != 40 || copies() != 2 {
		t.Errorf("with both: %d games, %d copies", f.games(), copies())
	}
	status := func(s ring.Status) {
		f.do(state.KindStatus, state.SetStatus{Node: coreB, Boot: id.Boot("0" + coreB[1:]), Status: s, Cause: "test"})
	}
	for _, s := range []ring.Status{ring.Failed, ring.Left} {
		status(s)
		if got := f.reading().underReplicated("", ""); len(got) != 1 || copies() != 1 || f.games() != 40 {
			t.Errorf("with a holder that is %s: %d copies, under-replicated %+v, %d games", s, copies(), got, f.games())
		}
		status(ring.Alive)
	}
	f.do(state.KindRevoke, state.Revoke{Node: coreB})
	if f.games() != 40 {
		t.Errorf("after the loss of a holder %d games are counted, 40 were", f.games())
	}
	if got := f.reading().underReplicated(ring.KindPack, four); len(got) != 1 || got[0].SHA256 != d {
		t.Errorf("under-replicated: %+v", got)
	}
}

func TestUnsyncedIsKnownOrNot(t *testing.T) {
	t.Parallel()
	r := newFolded(t).reading()
	rows := r.games("", map[id.Config]int64{four: 7}, true)
	if len(rows) != 1 || rows[0].Unsynced == nil || *rows[0].Unsynced != 7 {
		t.Errorf("known: %+v", rows)
	}
	if rows := r.games("", map[id.Config]int64{four: 7}, false); len(rows) != 1 || rows[0].Unsynced != nil {
		t.Errorf("unknown must be null: %+v", rows)
	}
	if rows := r.games("hex8_2p", map[id.Config]int64{four: 7}, true); len(rows) != 0 {
		t.Errorf("another config's rows: %+v", rows)
	}
}

func TestPrefixMeansOneArtifact(t *testing.T) {
	t.Parallel()
	f := newFolded(t)
	var all []string
	for i := range 40 {
		all = append(all, string(f.add(string(rune('A'+i)), ring.KindFile, coreA, 0, coreA)))
	}
	slices.Sort(all)
	r := f.reading()
	var e *api.Error
	if a, err := r.prefixed(all[7]); err != nil || string(a.Digest) != all[7] {
		t.Errorf("whole digest: %v, %v", a.Digest, err)
	}
	if a, err := r.prefixed(all[39][:12]); err != nil || string(a.Digest) != all[39] {
		t.Errorf("last one by prefix: %v, %v", a.Digest, err)
	}
	if _, err := r.prefixed("zz"); !errors.As(err, &e) || e.Code != api.CodeNotFound {
		t.Errorf("nobody's prefix: %v", err)
	}
	for i := range len(all) - 1 { // forty digests share first digits somewhere
		if all[i][:1] == all[i+1][:1] {
			if _, err := r.prefixed(all[i][:1]); !errors.As(err, &e) || e.Code != api.CodeInvalid {
				t.Errorf("prefix %q of two: %v", all[i][:1], err)
			}
			return
		}
	}
}

func TestFindPrefersNames(t *testing.T) {
	t.Parallel()
	r := newFolded(t).reading()
	for who, want := range map[string]id.Node{"a": coreA, "c": edgeC, string(coreB): coreB} {
		if m, err := r.find(who); err != nil || m.ID != want {
			t.Errorf("find %q: %v, %v", who, m.ID, err)
		}
	}
	var e *api.Error
	if _, err := r.find("d"); !errors.As(err, &e) || e.Code != api.CodeNotFound {
		t.Errorf("stranger: %v", err)
	}
}

func TestRosterCopy(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "roster.json")
	r, err := openRoster(path)
	if err != nil || r.Loaded() {
		t.Fatalf("empty: %v, loaded %v", err, r.Loaded())
	}
	f := newFolded(t)
	before := f.m.View()
	if revoked, err := r.take(before); err != nil || len(revoked) != 0 || len(r.Nodes()) != 3 {
		t.Fatalf("take: %v, %v, nodes %v", revoked, err, r.Nodes())
	}
	f.do(state.KindRevoke, state.Revoke{Node: edgeC})
	if revoked, err := r.take(f.m.View()); err != nil || !slices.Equal(revoked, []id.Node{edgeC}) {
		t.Errorf("revoked %v, %v", revoked, err)
	}
	shut := func(r *roster) {
		t.Helper()
		e, ok := r.Lookup(edgeC)
		if !ok || !e.Revoked || slices.Contains(r.Nodes(), edgeC) {
			t.Errorf("revoked node: %+v, %v, nodes %v", e, ok, r.Nodes())
		}
		if e, ok := r.Lookup(coreA); !ok || e.Revoked || e.Class != id.Core || e.Key != "ka" {
			t.Errorf("core node: %+v, %v", e, ok)
		}
	}
	shut(r)
	// An older state, as a node that restarts replays it, lets nobody in again; nor does the empty one before it.
	for _, old := range []*state.State{before, state.New().View()} {
		if revoked, err := r.take(old); err != nil || len(revoked) != 0 {
			t.Errorf("older state: %v, %v", revoked, err)
		}
		shut(r)
	}
	again, err := openRoster(path)
	if err != nil {
		t.Fatal(err)
	}
	shut(again)

	if err := os.WriteFile(path, []byte(`{"index":`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openRoster(path); err == nil {
		t.Error("a damaged copy was taken for an empty one")
	}
	if with := r.file().with(ring.Member{ID: coreA, Name: "new"}); len(with.Members) != 3 || r.file().Members[0].Name == "new" {
		t.Errorf("with: %+v", with.Members)
	}
}

// What the coordinator refuses comes to daemons, and to the worker, in the words that they branch on.
func TestRefusalsInTheDaemonsWords(t *testing.T) {
	t.Parallel()
	for code, want := range map[state.Code]error{
		state.CodeStale: kit.ErrStaleEpoch, state.CodeConflict: kit.ErrConflict, state.CodeNotFound: kit.ErrNotFound,
	} {
		err := kitError("retry work", fmt.Errorf("call: %w", &leader.Refused{Code: string(code), Message: "work w1"}))
		if !errors.Is(err, want) {
			t.Errorf("%s becomes %v, want %v", code, err, want)
		}
	}
	for code, want := range map[state.Code]error{
		state.CodeConflict: worker.ErrConflict, state.CodeNotFound: worker.ErrConflict,
		state.CodeInvalid: worker.ErrRefused, state.CodeRefused: worker.ErrRefused,
	} {
		if err := workError(fmt.Errorf("call: %w", &leader.Refused{Code: string(code), Message: "work w1"})); !errors.Is(err, want) {
			t.Errorf("%s becomes %v for the worker, want %v", code, err, want)
		}
	}
}

// What will never be published is set aside; what may pass is tried again.
func TestFaultsOfSpooledFiles(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		err      error
		hopeless bool
	}{
		{api.Errorf(api.CodeInvalid, "x"), true}, {api.Errorf(api.CodeRefused, "x"), true},
		{publishError(fmt.Errorf("key: %w", eventlog.ErrKeyTaken)), true},
		{fmt.Errorf("read spool: %w", &os.PathError{Op: "open", Err: syscall.EACCES}), true},
		{fmt.Errorf("read spool: %w", syscall.EIO), false}, {syscall.ENOSPC, false}, {context.Canceled, false},
	} {
		if _, hopeless := fault(test.err); hopeless != test.hopeless {
			t.Errorf("%v: %v", test.err, hopeless)
		}
	}
}
