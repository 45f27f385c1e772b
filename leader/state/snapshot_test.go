package state

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

func restored(t testing.TB, s *State) *State {
	t.Helper()
	var b bytes.Buffer
	if err := WriteSnapshot(&b, s); err != nil {
		t.Fatal(err)
	}
	out, err := ReadSnapshot(&b)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// randomEntries makes n entries that touch every part of the state, good ones and bad ones.
func randomEntries(rt *rapid.T, n int) [][]byte {
	nodes := []id.Node{nodeA, nodeB, nodeC, nodeD}
	daemons := []string{"EVALUATION", "AUTO_PROMOTION"}
	pick := func(what string, list []string) string { return rapid.SampledFrom(list).Draw(rt, what) }
	num := func(what string, most int) int { return rapid.IntRange(0, most).Draw(rt, what) }
	node := func() id.Node { return rapid.SampledFrom(nodes).Draw(rt, "node") }
	name := func() string { return fmt.Sprint("x", num("name", 5)) }
	kinds := []ring.Kind{ring.KindPack, ring.KindModel, ring.KindDataset, ring.KindMatches}
	m := New() // guesses from the state make more commands succeed
	outboxes := map[id.Node]*outbox{}
	at := epochStart
	var out [][]byte
	anyWork := func() ring.WorkItem {
		list := slices.Collect(m.View().WorkIn(ring.WorkClaimed, ring.WorkRunning))
		if len(list) == 0 || num("any", 1) == 1 {
			list = slices.Collect(m.View().WorkItems())
		}
		if len(list) == 0 {
			return ring.WorkItem{ID: "w0", Claim: &ring.Claim{}}
		}
		w := list[num("work", len(list)-1)]
		if w.Claim == nil {
			w.Claim = &ring.Claim{ID: name()}
		}
		return w
	}
	bodies := []func() any{
		func() any { return Lead{Node: node(), Term: m.View().Term() + uint64(num("term", 1))} },
		func() any {
			return PutToken{ring.Token{ID: name(), SecretHash: "hash", Class: id.Core, Uses: 4, Expires: at.Add(time.Hour)}}
		},
		func() any { return enrolment(node(), name(), id.Core) },
		func() any { return enrolment(node(), name(), id.Core) },
		func() any { return RevokeToken{name()} },
		func() any {
			n := node()
			mem, _ := m.View().Member(n)
			if mem.Boot == "" || mem.Status == ring.Left || num("restart", 9) == 0 {
				mem.Boot = id.Boot(fmt.Sprint("boot", num("boot", 999)))
			}
			return Report{ring.Member{ID: n, Boot: mem.Boot, Addresses: []string{name()}, Labels: map[string]string{name(): "b", "a": name()}}}
		},
		func() any {
			n := node()
			mem, _ := m.View().Member(n)
			if num("really", 2) > 0 {
				return Report{ring.Member{ID: n, Boot: mem.Boot, Version: name()}}
			}
			return SetStatus{Node: n, Boot: mem.Boot, Status: rapid.SampledFrom([]ring.Status{ring.Alive, ring.Alive, ring.Failed, ring.Left}).Draw(rt, "status"), Cause: "x"}
		},
		func() any {
			if num("really", 5) > 0 {
				for mem := range m.View().Members() {
					if mem.Revoked || mem.Status == ring.Left {
						return Forget{mem.ID}
					}
				}
				return Forget{node()}
			}
			return Revoke{Node: nodeD, Prune: num("prune", 1) == 1}
		},
		func() any {
			d, n := pick("daemon", daemons), node()
			a, _ := m.View().Assignment(d)
			mem, _ := m.View().Member(n)
			return Assign{Daemon: d, Node: n, Boot: mem.Boot, Previous: a.Epoch}
		},
		func() any { return SwitchDaemon{Daemon: pick("daemon", daemons), Off: num("off", 9) == 1} },
		func() any {
			var items []ring.WorkItem
			for range num("items", 6) {
				items = append(items, item(pick("type", []string{"selfplay", "train", "other"}), fmt.Sprint("k", num("key", 40))))
			}
			return Enqueue{items}
		},
		func() any {
			n := node()
			mem, _ := m.View().Member(n)
			c := claimBy(n, fmt.Sprint("c", num("claim", 99)))
			c.Boot, c.Lease = mem.Boot, ring.Duration(1_234_567_891)
			return ClaimWork{Work: anyWork().ID, Claim: c, Params: map[string]string{"seed": name(), "z": "1"}}
		},
		func() any { w := anyWork(); return StartWork{Work: w.ID, Claim: w.Claim.ID} },
		func() any {
			w := anyWork()
			if num("good", 1) == 1 {
				return FinishWork{Work: w.ID, Claim: w.Claim.ID, Result: &ring.WorkResult{Counters: map[string]int64{"games": 3, "b": 1}, Seconds: 1.0 / 3}}
			}
			return FinishWork{Work: w.ID, Claim: w.Claim.ID, Error: "<broken> & more", Permanent: num("permanent", 3) == 0}
		},
		func() any {
			w := anyWork()
			return ReleaseWork{Work: w.ID, Claim: w.Claim.ID, Reason: "x", Timeout: num("timeout", 1) == 1}
		},
		func() any { return CancelWork{Work: anyWork().ID, Reason: "x"} },
		func() any { return RetryWork{anyWork().ID} },
		func() any {
			return AddArtifacts{[]ring.Artifact{{Digest: digest(name()), Kind: rapid.SampledFrom(kinds).Draw(rt, "kind"), Config: c4, Bytes: 7,
				Holders: []id.Node{node(), node()}, Counters: map[string]int64{"games": 3, "a": 1}, Labels: map[string]string{"z": "ü<", "b": "2"}}}}
		},
		func() any { return AddReceipts{[]ring.Receipt{{Node: node(), Digest: digest(name())}}} },
		func() any {
			return DropCopies{Receipts: []ring.Receipt{{Node: node(), Digest: digest(name())}}, Lost: num("lost", 1) == 1}
		},
		func() any {
			key := ring.ModelName(c4)
			have, _ := m.View().Name(key)
			return SetName{Key: key, Expect: have.Version, Digest: digest(name()), Values: map[string]float64{"elo": 1.0 / float64(1+num("elo", 9)), "a": 1}}
		},
		func() any {
			return SetPositions{[]ring.Position{{Consumer: pick("daemon", daemons), Seq: uint64(num("seq", 30))}}}
		},
		func() any {
			return PutNote{Key: name(), Value: []byte(pick("note", []string{"", ` {"b" : "<&>", "a":1}`, "[1, 2]"}))}
		},
		func() any {
			return PutDeadLetter{Letter: ring.DeadLetter{ID: name(), Handler: pick("daemon", daemons), FirstFailed: at}, Drop: num("drop", 2) == 0}
		},
		func() any {
			_, version := m.View().Settings()
			return PutSettings{Expect: version, Settings: ring.Settings{Timing: ring.TimingDev, Voters: 3, Copies: map[ring.Kind]int{ring.KindPack: 1, ring.KindModel: 1},
				Daemons: map[string]json.RawMessage{"EVALUATION": json.RawMessage(`{ "x": "<" }`)}, Retention: ring.Retention{Age: 1_000_000_001}}}
		},
		func() any { return Raise{Generation: num("generation", 9) == 7, Commands: 1} },
		func() any {
			return StateRepeats{[]ring.Repeat{{Digest: digest(name()), Games: int64(num("repeats", 4))}}}
		},
		func() any {
			return AddArtifacts{[]ring.Artifact{{Digest: digest(name()), Kind: ring.KindFile, Config: c4, Bytes: 7, Holders: []id.Node{node(), node()},
				Labels: map[string]string{ring.LabelJoins: string(c4)}}}}
		},
		func() any {
			var packs []id.Digest
			for a := range m.View().Artifacts(ring.KindPack, c4, 0) {
				if len(packs) < 2 && a.Safe {
					packs = append(packs, a.Digest)
				}
			}
			for a := range m.View().Artifacts(ring.ListJoined, c4, 0) {
				if joining(a) {
					return JoinPacks{a.Digest, 6, packs}
				}
			}
			return JoinPacks{digest(name()), int64(num("joined", 9)), packs}
		},
		func() any {
			return Effect{[]Step{{KindNote, PutNote{Key: name(), Value: []byte("1")}}, {KindPosition, SetPositions{[]ring.Position{{Consumer: daemons[0], Seq: uint64(num("seq", 20))}}}}}}
		},
	}
	step := func(entry []byte) {
		if _, _, err := m.Apply(uint64(len(out)+1), entry); err != nil {
			rt.Fatal(err)
		}
		out = append(out, entry)
	}
	begin := []any{Lead{Node: nodeA, Term: 1}, PutToken{ring.Token{ID: "x0", SecretHash: "hash", Class: id.Core, Uses: 9, Expires: at.Add(time.Hour)}}}
	for _, n := range nodes[:3] {
		begin = append(begin, enrolment(n, "x0", id.Core), Report{ring.Member{ID: n, Boot: "boot0"}})
	}
	begin = append(begin, Assign{Daemon: daemons[0], Node: nodeA, Boot: "boot0"}, Assign{Daemon: daemons[1], Node: nodeB, Boot: "boot0"})
	for _, b := range begin {
		entry, err := Encode(Command{Kind: kindOf(b), At: at, Body: b})
		if err != nil {
			rt.Fatal(err)
		}
		step(entry)
	}
	bodies = append(bodies, bodies[8], bodies[8], bodies[5], bodies[5]) // the daemons assigned and the nodes alive
	order := make([]int, len(bodies)+2)
	for i := range order {
		order[i] = i
	}
	for range n {
		at = at.Add(time.Duration(num("seconds", 40)) * time.Second)
		var entry []byte
		// Not drawn by IntRange, which favours small numbers.
		if i := rapid.SampledFrom(order).Draw(rt, "kind"); i < len(bodies) {
			c := Command{At: at, By: "", Body: bodies[i]()}
			c.Kind = kindOf(c.Body)
			if num("fenced", 1) == 1 || c.Kind == KindNote || c.Kind == KindEffect {
				d := pick("daemon", daemons)
				a, _ := m.View().Assignment(d)
				c.Fence = &ring.Fence{Daemon: d, Epoch: a.Epoch}
			}
			if num("once", 3) == 0 {
				c.Once = name()
			}
			var err error
			if entry, err = Encode(c); err != nil {
				rt.Fatal(err)
			}
		} else {
			n := node()
			if outboxes[n] == nil {
				outboxes[n] = &outbox{origin: event.Origin("o" + n), node: n}
			}
			d := note(i)
			d.Daemon = pick("daemon", daemons)
			entry = AppendEvents(at, []EventBatch{outboxes[n].batch(d, note(2)), {Origin: "bad", Node: n, First: 1, Drafts: [][]byte{nil}}})
		}
		step(entry)
	}
	return out
}

func TestReplayEqualsRestoreAndRest(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		entries := randomEntries(rt, rapid.IntRange(10, 60).Draw(rt, "entries"))
		cut := rapid.IntRange(0, len(entries)).Draw(rt, "cut")
		whole, parts := New(), New()
		for i, e := range entries {
			if i == cut {
				parts.Restore(restored(t, parts.View()))
			}
			resA, placedA, errA := whole.Apply(uint64(i+1), e)
			resB, placedB, errB := parts.Apply(uint64(i+1), e)
			if errA != nil || errB != nil {
				rt.Fatal(errA, errB)
			}
			a, _ := marshal(resA)
			b, _ := marshal(resB)
			if !bytes.Equal(a, b) {
				rt.Fatalf("entry %d is answered %s and %s", i+1, a, b)
			}
			if !slices.EqualFunc(placedA, placedB, func(x, y Placed) bool { return x.Seq == y.Seq && x.Hash == y.Hash && bytes.Equal(x.Bytes, y.Bytes) }) {
				rt.Fatalf("entry %d placed other records", i+1)
			}
		}
		if a, b := Digest(whole.View()), Digest(parts.View()); a != b {
			rt.Fatalf("digest %s after replay, %s after a snapshot at %d", a, b, cut)
		}
		again := restored(t, whole.View())
		if Digest(again) != Digest(whole.View()) {
			rt.Fatal("a restored state has another digest")
		}
		checkDerived(rt, whole.View(), again)
	})
}

// checkDerived holds the indexes that were kept up step by step against those that a restore builds.
func checkDerived(rt *rapid.T, a, b *State) {
	same := func(what string, x, y any) {
		if fmt.Sprint(x) != fmt.Sprint(y) {
			rt.Fatalf("%s: %v kept, %v rebuilt", what, x, y)
		}
	}
	same("names", maps.Collect(a.nameIndex.all()), maps.Collect(b.nameIndex.all()))
	same("bad keys", maps.Collect(a.badKeys.all()), maps.Collect(b.badKeys.all()))
	same("work keys", maps.Collect(a.workKeys.all()), maps.Collect(b.workKeys.all()))
	same("work order", maps.Collect(a.workOrder.all()), maps.Collect(b.workOrder.all()))
	same("done order", maps.Collect(a.doneOrder.all()), maps.Collect(b.doneOrder.all()))
	same("depth", maps.Collect(a.depth.all()), maps.Collect(b.depth.all()))
	same("kinds", maps.Collect(a.byKind.all()), maps.Collect(b.byKind.all()))
	same("open packs", maps.Collect(a.openPacks.all()), maps.Collect(b.openPacks.all()))
	same("once", maps.Collect(a.onceOrder.all()), maps.Collect(b.onceOrder.all()))
	for d, n := range a.notesBytes.all() {
		m, _ := b.notesBytes.get(d)
		same("bytes of notes of "+d, n, m)
	}
}

func TestSnapshotDoesNotMoveWithTheMachine(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	v := r.m.View()
	want := Digest(v)
	done := make(chan string)
	go func() {
		var d string
		for range 20 {
			d = Digest(v)
		}
		done <- d
	}()
	for i := range 200 {
		r.enqueue(item("selfplay", fmt.Sprint(i)))
	}
	if got := <-done; got != want {
		t.Fatalf("a view changed under its reader")
	}
}

func TestDamagedSnapshotIsRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.enqueue(item("selfplay", "k"))
	var b bytes.Buffer
	if err := WriteSnapshot(&b, r.m.View()); err != nil {
		t.Fatal(err)
	}
	whole := b.Bytes()
	try := func(what string, data []byte) {
		if _, err := ReadSnapshot(bytes.NewReader(data)); !errors.Is(err, ErrBadSnapshot) {
			t.Fatalf("%s: %v", what, err)
		}
	}
	for i := 0; i < len(whole); i += 3 {
		data := bytes.Clone(whole)
		data[i] ^= 1 << (i % 8)
		try(fmt.Sprint("byte ", i, " altered"), data)
	}
	for i := 0; i < len(whole); i += 29 {
		try(fmt.Sprint("cut at ", i), whole[:i])
	}
	try("longer", append(bytes.Clone(whole), 0))
}

func TestArtifactsAreLight(t *testing.T) {
	r := newRig(t)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	const n, batch = 5_000, 250
	for i := 0; i < n; i += batch {
		list := make([]ring.Artifact, batch)
		for j := range list {
			list[j] = ring.Artifact{Digest: digest(fmt.Sprint(i + j)), Kind: ring.KindPack, Config: c4, Bytes: 1000, Origin: nodeA,
				Holders: []id.Node{nodeA, nodeB}, Counters: map[string]int64{"games": 40}}
		}
		r.ok(AddArtifacts{list}, nil)
		r.entries = nil
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	used := (after.HeapAlloc - before.HeapAlloc) / n
	begin := time.Now()
	d := Digest(r.m.View())
	t.Logf("%d artifacts of %d bytes each, digest in %s (%s)", n, used, time.Since(begin), d[:8])
	if used > 600 { // design: below 64 MiB with a hundred thousand
		t.Errorf("%d bytes an artifact", used)
	}
}
