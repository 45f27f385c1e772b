package work

import (
	"iter"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/leader/state"
)

var (
	_   View = (*state.State)(nil)
	now      = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
)

const (
	a    id.Node   = "aaaaaaaaaaaaaaaa"
	b    id.Node   = "bbbbbbbbbbbbbbbb"
	c4   id.Config = "connect4_2p"
	hex8 id.Config = "hex8_2p"
)

type fake struct {
	items     []ring.WorkItem
	members   []ring.Member
	artifacts map[id.Digest]ring.Artifact
	names     map[string]ring.Name
}

func (f *fake) WorkItems() iter.Seq[ring.WorkItem] { return slices.Values(f.items) }
func (f *fake) Members() iter.Seq[ring.Member]     { return slices.Values(f.members) }
func (f *fake) Member(n id.Node) (ring.Member, bool) {
	i := slices.IndexFunc(f.members, func(m ring.Member) bool { return m.ID == n })
	if i < 0 {
		return ring.Member{}, false
	}
	return f.members[i], true
}
func (f *fake) Artifact(d id.Digest) (ring.Artifact, bool) { x, ok := f.artifacts[d]; return x, ok }
func (f *fake) Name(key string) (ring.Name, bool)          { x, ok := f.names[key]; return x, ok }

func twoNodes(items ...ring.WorkItem) *fake {
	f := &fake{items: items, artifacts: map[id.Digest]ring.Artifact{}, names: map[string]ring.Name{}}
	for _, n := range []id.Node{a, b} {
		f.members = append(f.members, ring.Member{ID: n, Boot: "1", Status: ring.Alive, Slots: ring.Slots{CPU: 8, GPU: 1}})
	}
	return f
}

func (f *fake) has(digests ...id.Digest) *fake {
	for _, d := range digests {
		f.artifacts[d] = ring.Artifact{Digest: d, Holders: []id.Node{a}}
	}
	return f
}

func (f *fake) champion(c id.Config, d id.Digest) *fake {
	f.names[ring.ModelName(c)] = ring.Name{Digest: d, Version: 1}
	return f.has(d)
}

func pending(workID, typ string, c id.Config, change ...func(*ring.WorkItem)) ring.WorkItem {
	w := ring.WorkItem{ID: workID, Type: typ, Config: c, State: ring.WorkPending, Needs: ring.Slots{CPU: 1}}
	for _, f := range change {
		f(&w)
	}
	return w
}

func claimed(workID, typ string, c id.Config, claim string) ring.WorkItem {
	return pending(workID, typ, c, func(w *ring.WorkItem) {
		w.State, w.Claim = ring.WorkRunning, &ring.Claim{ID: claim, Node: b, Lease: ring.Duration(time.Minute)}
	})
}

func priority(p int) func(*ring.WorkItem) { return func(w *ring.WorkItem) { w.Priority = p } }

func TestNext(t *testing.T) {
	t.Parallel()
	offer := Offer{Node: a, Boot: "1", Free: ring.Slots{CPU: 2}, Now: now}
	with := func(f func(*Offer)) Offer { o := offer; f(&o); return o }
	input := func(role string, d id.Digest) func(*ring.WorkItem) {
		return func(w *ring.WorkItem) { w.Inputs = append(w.Inputs, ring.Input{Role: role, Digest: d}) }
	}
	for _, test := range []struct {
		name  string
		view  *fake
		offer Offer
		want  string
	}{
		{"empty queue", twoNodes(), offer, ""},
		{"oldest first", twoNodes(pending("1", "selfplay", c4), pending("2", "selfplay", c4)), offer, "1"},
		{"priority first", twoNodes(pending("1", "selfplay", c4), pending("2", "train", c4, priority(50))), offer, "2"},
		{"what is not pending is not chosen", twoNodes(claimed("1", "selfplay", c4, "c"), pending("2", "selfplay", c4)), offer, "2"},
		{"unknown node", twoNodes(pending("1", "selfplay", c4)), with(func(o *Offer) { o.Node = "c" }), ""},
		{"former boot", twoNodes(pending("1", "selfplay", c4)), with(func(o *Offer) { o.Boot = "0" }), ""},
		{"too large", twoNodes(pending("1", "train", c4, func(w *ring.WorkItem) { w.Needs.GPU = 1 }), pending("2", "selfplay", c4)), offer, "2"},
		{"stage that the node cannot run", twoNodes(pending("1", "train", c4), pending("2", "selfplay", c4)),
			with(func(o *Offer) { o.Types = []string{"selfplay"} }), "2"},
		{"config that the node cannot run", twoNodes(pending("1", "selfplay", hex8, priority(50)), pending("2", "selfplay", c4)),
			with(func(o *Offer) { o.Configs = []id.Config{c4} }), "2"},
		{"resting after a failure", twoNodes(pending("1", "selfplay", c4, func(w *ring.WorkItem) { w.NotBefore = now.Add(time.Second) })), offer, ""},
		{"rested", twoNodes(pending("1", "selfplay", c4, func(w *ring.WorkItem) { w.NotBefore = now })), offer, "1"},
		{"past its deadline", twoNodes(pending("1", "selfplay", c4, func(w *ring.WorkItem) { w.Deadline = now })), offer, ""},
		{"being given to another", twoNodes(pending("1", "selfplay", c4), pending("2", "selfplay", c4)),
			with(func(o *Offer) { o.Skip = func(w string) bool { return w == "1" } }), "2"},
		{"failed here, another node could", twoNodes(pending("1", "selfplay", c4, func(w *ring.WorkItem) { w.FailedOn = []id.Node{a} })), offer, ""},
		{"failed everywhere: any node again", twoNodes(pending("1", "selfplay", c4, func(w *ring.WorkItem) { w.FailedOn = []id.Node{b, a} })), offer, "1"},
		{"failed here, the other has no such slot", twoNodes(pending("1", "selfplay", c4, func(w *ring.WorkItem) {
			w.FailedOn, w.Needs = []id.Node{a}, ring.Slots{CPU: 9}
		})), with(func(o *Offer) { o.Free.CPU = 16 }), "1"},
		{"fair between configs", twoNodes(claimed("r", "selfplay", c4, "c"), pending("1", "selfplay", c4), pending("2", "selfplay", hex8)), offer, "2"},
		{"fair between types", twoNodes(claimed("r", "selfplay", c4, "c"), pending("1", "selfplay", c4), pending("2", "export", c4)), offer, "2"},
		{"weights", twoNodes(claimed("r", "selfplay", c4, "c"), claimed("s", "selfplay", hex8, "d"), pending("1", "selfplay", c4), pending("2", "selfplay", hex8)),
			with(func(o *Offer) { o.Weights = map[Share]float64{{hex8, "selfplay"}: 2} }), "2"},
		{"no weight: only when nothing else fits", twoNodes(pending("1", "selfplay", c4), claimed("r", "selfplay", hex8, "c"), pending("2", "selfplay", hex8)),
			with(func(o *Offer) { o.Weights = map[Share]float64{{c4, "selfplay"}: 0} }), "2"},
		{"and then it is chosen", twoNodes(pending("1", "selfplay", c4)),
			with(func(o *Offer) { o.Weights = map[Share]float64{{c4, "selfplay"}: 0} }), "1"},
		{"bytes that are here", twoNodes(pending("1", "other", c4, input("x", "far")), pending("2", "other", c4, input("x", "near"))).has("far", "near"),
			with(func(o *Offer) { o.Holds = func(d id.Digest) bool { return d == "near" } }), "2"},
		{"input that nobody holds", twoNodes(pending("1", "train", c4, input("dataset", "gone")), pending("2", "selfplay", c4)), offer, "2"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w, _, ok := Next(test.view, test.offer)
			if w.ID != test.want || ok != (test.want != "") {
				t.Fatalf("item %q, %v; want %q", w.ID, ok, test.want)
			}
		})
	}
}

func TestInputsAreResolvedAtTheClaim(t *testing.T) {
	t.Parallel()
	in := func(pairs ...string) []ring.Input {
		var out []ring.Input
		for i := 0; i < len(pairs); i += 2 {
			out = append(out, ring.Input{Role: pairs[i], Digest: id.Digest(pairs[i+1])})
		}
		return out
	}
	for _, test := range []struct {
		typ   string
		fixed []ring.Input
		young []ring.Input // before the first promotion
		want  []ring.Input
	}{
		{"selfplay", nil, nil, in("model", "champ")},
		{"selfplay", in("model", "old"), in("model", "old"), in("model", "old")},
		{"train", in("dataset", "set"), in("dataset", "set"), in("dataset", "set", "champion", "champ")},
		{"evaluate", in("candidate", "cand"), in("candidate", "cand"), in("candidate", "cand", "champion", "champ")},
		{"export", in("pack", "p1", "pack", "p2"), in("pack", "p1", "pack", "p2"), in("pack", "p1", "pack", "p2")},
	} {
		w := pending("1", test.typ, c4)
		w.Inputs = test.fixed
		known := []id.Digest{"old", "set", "cand", "p1", "p2"}
		young, ok := Resolve(twoNodes().has(known...), w)
		if d := cmp.Diff(test.young, young); d != "" || !ok {
			t.Errorf("%s without a champion: %v %s", test.typ, ok, d)
		}
		got, ok := Resolve(twoNodes().has(known...).champion(c4, "champ"), w)
		if d := cmp.Diff(test.want, got); d != "" || !ok {
			t.Errorf("%s: %v %s", test.typ, ok, d)
		}
		if !slices.Equal(w.Inputs, test.fixed) {
			t.Errorf("%s: the item itself was changed", test.typ)
		}
	}
}

func TestExpired(t *testing.T) {
	t.Parallel()
	v := twoNodes(claimed("1", "selfplay", c4, "late"), claimed("2", "selfplay", c4, "fresh"), claimed("3", "selfplay", c4, "unheard"), pending("4", "selfplay", c4))
	beats := Beat{"late": now.Add(-61 * time.Second), "fresh": now.Add(-time.Minute), "gone": now}
	var got []string
	for _, o := range Expired(v, beats, now) {
		got = append(got, o.Work+" "+o.Claim)
	}
	if d := cmp.Diff([]string{"1 late"}, got); d != "" {
		t.Error(d)
	}
	adopted := Adopt(v, beats, now)
	if d := cmp.Diff(Beat{"late": beats["late"], "fresh": beats["fresh"], "unheard": now}, adopted); d != "" {
		t.Error(d)
	}
	// A new coordinator knows no beats: it gives each claim one full lease.
	begin := Adopt(v, nil, now)
	if got := Expired(v, begin, now.Add(time.Minute)); len(got) != 0 {
		t.Errorf("expired within the first lease: %v", got)
	}
	if got := Expired(v, begin, now.Add(61*time.Second)); len(got) != 3 {
		t.Errorf("%v", got)
	}
}

func TestOverdueAndShares(t *testing.T) {
	t.Parallel()
	v := twoNodes(pending("1", "train", c4, func(w *ring.WorkItem) { w.Deadline = now }), pending("2", "selfplay", hex8),
		claimed("3", "export", c4, "c"), pending("4", "selfplay", c4, func(w *ring.WorkItem) { w.Deadline = now.Add(1) }))
	if d := cmp.Diff([]string{"1"}, Overdue(v, now)); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]Share{{c4, "selfplay"}, {c4, "train"}, {hex8, "selfplay"}}, Shares(v)); d != "" {
		t.Error(d)
	}
}

// TestSharesConverge lets nodes claim from a queue that never empties: the running slots settle at the weights.
func TestSharesConverge(t *testing.T) {
	t.Parallel()
	v := twoNodes()
	for i := range 200 {
		v.items = append(v.items, pending(string(rune('a'+i%26))+string(rune(0x4e00+i)), "selfplay", []id.Config{c4, hex8}[i/100]))
	}
	weights := map[Share]float64{{c4, "selfplay"}: 3, {hex8, "selfplay"}: 1}
	got := map[id.Config]int{}
	for range 40 {
		w, _, ok := Next(v, Offer{Node: a, Boot: "1", Free: ring.Slots{CPU: 1}, Now: now, Weights: weights})
		if !ok {
			t.Fatal("nothing to do")
		}
		i := slices.IndexFunc(v.items, func(x ring.WorkItem) bool { return x.ID == w.ID })
		v.items[i].State = ring.WorkRunning
		got[w.Config]++
	}
	if d := cmp.Diff(map[id.Config]int{c4: 30, hex8: 10}, maps.Clone(got)); d != "" {
		t.Error(d)
	}
}
