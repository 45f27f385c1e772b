package state

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

var games = &ring.WorkResult{Counters: map[string]int64{"games": 40}, Seconds: 2}

func TestEnqueueIsIdempotentAndBounded(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	first := r.enqueue(item("selfplay", "k"))
	end := r.seq()
	if again := r.enqueue(item("selfplay", "k")); again != first || r.seq() != end {
		t.Fatalf("the same key made %s beside %s", again, first)
	}
	var list []ring.WorkItem
	for i := range MaxPending - 1 {
		list = append(list, item("selfplay", fmt.Sprint("n", i)))
	}
	r.ok(Enqueue{list[:500]}, nil)
	r.ok(Enqueue{list[500:]}, nil)
	if n := r.m.View().WorkDepth("", ring.WorkPending); n != MaxPending {
		t.Fatalf("%d pending", n)
	}
	r.refused(CodeRefused, Enqueue{[]ring.WorkItem{item("train", "one more")}}, nil)
	r.ok(Enqueue{[]ring.WorkItem{item("selfplay", "k")}}, nil)
	for _, bad := range []ring.WorkItem{{Key: "x"}, {Type: "selfplay"}, {Type: "selfplay", Key: "x"},
		{Type: "x", Key: "x", Priority: 101}, {Type: "x", Key: "x", Config: "Bad"}} {
		r.refused(CodeInvalid, Enqueue{[]ring.WorkItem{bad}}, nil)
	}
}

func TestOneLiveClaim(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	w := r.enqueue(item("selfplay", "k"))
	r.claim(w, "c1", nodeA)
	r.claim(w, "c1", nodeA) // its answer was lost
	r.refused(CodeConflict, ClaimWork{Work: w, Claim: claimBy(nodeB, "c2")}, nil)
	r.refused(CodeConflict, StartWork{Work: w, Claim: "c2"}, nil)
	r.refused(CodeConflict, FinishWork{Work: w, Claim: "c2", Result: games}, nil)
	r.refused(CodeConflict, ReleaseWork{Work: w, Claim: "c2"}, nil)
	r.ok(ReleaseWork{Work: w, Claim: "c1", Reason: "lease", Timeout: true}, nil)
	r.claim(w, "c2", nodeB)
	r.refused(CodeConflict, FinishWork{Work: w, Claim: "c1", Result: games}, nil) // too late
	late := ring.Artifact{Digest: digest("late"), Kind: ring.KindModel, Config: c4, Bytes: 7, Holders: []id.Node{nodeA}}
	r.refused(CodeConflict, FinishWork{Work: w, Claim: "c1", Result: games, Artifacts: []ring.Artifact{late}}, nil)
	if _, known := r.m.View().Artifact(late.Digest); known {
		t.Error("what a late run made is known to the ring")
	}
	r.refused(CodeConflict, FinishWork{Work: w, Claim: "", Result: games}, nil)
	r.ok(StartWork{Work: w, Claim: "c2"}, nil)
	r.ok(StartWork{Work: w, Claim: "c2"}, nil)
	r.ok(FinishWork{Work: w, Claim: "c2", Result: games}, nil)
	end := r.seq()
	r.ok(FinishWork{Work: w, Claim: "c2", Result: games}, nil) // its answer was lost
	r.refused(CodeConflict, FinishWork{Work: w, Claim: "c2", Error: "no, it failed"}, nil)
	if got := r.work(w); r.seq() != end || got.State != ring.WorkDone || got.Attempts != 1 || got.Result.Node != nodeB {
		t.Fatalf("%+v", got)
	}

	// Without the check a late result would count.
	r = newRig(t)
	w = r.enqueue(item("selfplay", "k"))
	r.claim(w, "c1", nodeA)
	r.m.rules.claim = func(workRow, string) error { return nil }
	if r.do(FinishWork{Work: w, Claim: "stale", Result: games}, nil).Code != "" {
		t.Error("the broken variant refuses too: the test proves nothing")
	}
}

func TestClaimChecksTheNode(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	w := r.enqueue(item("selfplay", "k"))
	c := claimBy(nodeA, "c")
	c.Boot = "9999999999999999"
	r.refused(CodeConflict, ClaimWork{Work: w, Claim: c}, nil)
	c = claimBy(nodeA, "c")
	c.Lease = 0
	r.refused(CodeInvalid, ClaimWork{Work: w, Claim: c}, nil)
	r.refused(CodeNotFound, ClaimWork{Work: w, Claim: claimBy(nodeD, "c")}, nil)
	r.refused(CodeNotFound, ClaimWork{Work: "w0", Claim: claimBy(nodeA, "c")}, nil)
	r.ok(SetStatus{Node: nodeA, Boot: bootOf(nodeA), Status: ring.Draining, Cause: "x"}, nil)
	r.refused(CodeRefused, ClaimWork{Work: w, Claim: claimBy(nodeA, "c")}, nil)
}

func TestInputsAreFixedByTheClaim(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	set := r.artifact("set", ring.KindDataset, nodeA)
	champion := r.artifact("champion", ring.KindModel, nodeA)
	fixed := ring.Input{Role: RoleDataset, Digest: set.Digest}
	w := r.enqueue(item("train", "k", fixed))
	parent := ring.Input{Role: RoleChampion, Digest: champion.Digest}
	r.refused(CodeInvalid, ClaimWork{Work: w, Claim: claimBy(nodeA, "c"), Inputs: []ring.Input{parent}}, nil)
	r.refused(CodeRefused, ClaimWork{Work: w, Claim: claimBy(nodeA, "c"), Inputs: []ring.Input{fixed, {Role: "champion", Digest: digest("?")}}}, nil)
	r.ok(ClaimWork{Work: w, Claim: claimBy(nodeA, "c"), Inputs: []ring.Input{fixed, parent}, Params: map[string]string{"seed": "7"}}, nil)
	if got := r.work(w); len(got.Inputs) != 2 || got.Params["seed"] != "7" {
		t.Fatalf("%+v", got)
	}
	if got, ok := r.m.View().WorkAdded(w); !ok || len(got.Inputs) != 1 || got.Params != nil {
		t.Fatalf("as it was added: %+v", got)
	}
	r.ok(ReleaseWork{Work: w, Claim: "c", Reason: "drain"}, nil)
	if got := r.work(w); len(got.Inputs) != 1 || got.Params != nil {
		t.Fatalf("after release: %+v", got)
	}
}

func TestFailuresRestAndEnd(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		timing ring.Timing
		rests  []time.Duration
	}{
		{ring.TimingLAN, []time.Duration{30 * time.Second, time.Minute, 2 * time.Minute, 4 * time.Minute, 5 * time.Minute, 5 * time.Minute}},
		{ring.TimingDev, []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second, 32 * time.Second}},
	} {
		r := newRig(t)
		r.ok(PutSettings{Settings: ring.Settings{Timing: test.timing, Voters: 3}}, nil)
		it := item("selfplay", "k")
		it.MaxAttempts = 7
		w := r.enqueue(it)
		for i, rest := range test.rests {
			r.claim(w, fmt.Sprint("c", i), nodeA)
			r.ok(StartWork{Work: w, Claim: fmt.Sprint("c", i)}, nil)
			r.ok(FinishWork{Work: w, Claim: fmt.Sprint("c", i), Error: "broken"}, nil)
			got := r.work(w)
			if got.State != ring.WorkPending || got.Attempts != i+1 || got.NotBefore.Sub(r.at) != rest || got.Error != "broken" {
				t.Fatalf("%s, failure %d: %+v, rest %s, want %s", test.timing, i+1, got, got.NotBefore.Sub(r.at), rest)
			}
			r.refused(CodeRefused, ClaimWork{Work: w, Claim: claimBy(nodeA, "early")}, nil)
			r.at = got.NotBefore
		}
		r.claim(w, "last", nodeA)
		r.ok(StartWork{Work: w, Claim: "last"}, nil)
		end := r.seq()
		r.ok(FinishWork{Work: w, Claim: "last", Error: "broken"}, nil)
		if got := r.work(w); got.State != ring.WorkDead {
			t.Fatalf("%+v", got)
		}
		if d := cmp.Diff([]string{"WORK_FAILED", "WORK_DEAD_LETTERED"}, r.told(end)); d != "" {
			t.Error(d)
		}
		r.ok(RetryWork{w}, nil)
		if got := r.work(w); got.State != ring.WorkPending || got.Attempts != 0 || got.Claim != nil || !got.NotBefore.IsZero() {
			t.Fatalf("%+v", got)
		}
	}
}

func TestOnlyStartedRunsAreAttempts(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	w := r.enqueue(item("selfplay", "k"))
	for i := range 9 { // claims that never start, and hand-backs, put no blame on the item
		c := fmt.Sprint("c", i)
		r.claim(w, c, nodeA)
		if i%2 == 0 {
			r.ok(ReleaseWork{Work: w, Claim: c, Reason: "expired", Timeout: true}, nil)
		} else {
			r.ok(ReleaseWork{Work: w, Claim: c, Reason: "drain"}, nil)
		}
	}
	if got := r.work(w); got.Attempts != 0 || got.State != ring.WorkPending {
		t.Fatalf("%+v", got)
	}
	for i := range 4 {
		c := fmt.Sprint("d", i)
		r.claim(w, c, nodeA)
		r.ok(StartWork{Work: w, Claim: c}, nil)
		r.ok(ReleaseWork{Work: w, Claim: c, Reason: "drain"}, nil)
	}
	r.claim(w, "e", nodeA)
	r.ok(StartWork{Work: w, Claim: "e"}, nil)
	r.ok(FinishWork{Work: w, Claim: "e", Error: "first real failure"}, nil)
	if got := r.work(w); got.State != ring.WorkPending || got.Attempts != 5 || got.Excused != 4 {
		t.Fatalf("%+v", got)
	}
	// An item whose runs only ever fall silent may be what kills its nodes.
	p := r.enqueue(item("selfplay", "poison"))
	for i := range silentRounds * DefaultAttempts {
		c := fmt.Sprint("p", i)
		r.claim(p, c, nodeA)
		r.ok(StartWork{Work: p, Claim: c}, nil)
		r.ok(ReleaseWork{Work: p, Claim: c, Reason: "lease", Timeout: true}, nil)
	}
	if got := r.work(p); got.State != ring.WorkDead {
		t.Fatalf("%+v", got)
	}
}

func TestPermanentFailureAndCancel(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	w := r.enqueue(item("selfplay", "k"))
	r.claim(w, "c", nodeA)
	r.ok(FinishWork{Work: w, Claim: "c", Error: "bad template", Permanent: true}, nil)
	if got := r.work(w); got.State != ring.WorkFailed || got.Error != "bad template" {
		t.Fatalf("%+v", got)
	}
	r.refused(CodeRefused, CancelWork{Work: w}, nil)
	w = r.enqueue(item("selfplay", "k2"))
	r.claim(w, "c2", nodeA)
	r.ok(CancelWork{Work: w, Reason: "no need"}, nil)
	r.refused(CodeConflict, FinishWork{Work: w, Claim: "c2", Result: games}, nil)
	r.refused(CodeRefused, RetryWork{r.doneItem("k3")}, nil)
}

func (r *rig) doneItem(key string) string {
	w := r.enqueue(item("selfplay", key))
	r.claim(w, "c-"+key, nodeA)
	r.ok(StartWork{Work: w, Claim: "c-" + key}, nil)
	r.ok(FinishWork{Work: w, Claim: "c-" + key, Result: games}, nil)
	return w
}

func TestFinishedItemsLeaveTheirKeys(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	const n = keptFinished + 5
	var ids []string
	for i := range n {
		ids = append(ids, r.doneItem(fmt.Sprint("k", i)))
	}
	v := r.m.View()
	if v.WorkDepth("", ring.WorkDone) != keptFinished || v.work.len() != keptFinished || v.tombstones.len() != 5 {
		t.Fatalf("%d done, %d kept, %d tombstones", v.WorkDepth("", ring.WorkDone), v.work.len(), v.tombstones.len())
	}
	if _, ok := v.Work(ids[0]); ok {
		t.Fatal("the oldest item is still kept")
	}
	end := r.seq()
	again := r.ok(Enqueue{[]ring.WorkItem{item("selfplay", "k0")}}, nil).Value.([]ring.WorkItem)[0]
	if again.ID != ids[0] || again.State != ring.WorkDone || r.seq() != end || r.m.View().WorkDepth("", ring.WorkPending) != 0 {
		t.Fatalf("a finished stage would run twice: %+v", again)
	}
	r.refused(CodeNotFound, FinishWork{Work: ids[0], Claim: "c-k0", Result: games}, nil)
}

func TestStageFacts(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	champion := r.artifact("champion", ring.KindModel, nodeA)
	dataset := ring.Artifact{Digest: digest("set"), Kind: ring.KindDataset, Config: c4, Bytes: 5, Holders: []id.Node{nodeA}}
	model := ring.Artifact{Digest: digest("candidate"), Kind: ring.KindModel, Config: c4, Bytes: 5, Holders: []id.Node{nodeA}}
	matches := ring.Artifact{Digest: digest("matches"), Kind: ring.KindMatches, Config: c4, Bytes: 5, Holders: []id.Node{nodeA}}
	out := func(a ring.Artifact) []ring.Output {
		return []ring.Output{{Role: "out", Kind: a.Kind, Digest: a.Digest, Bytes: a.Bytes}}
	}
	for _, test := range []struct {
		typ       string
		fixed     []ring.Input
		now       []ring.Input
		result    ring.WorkResult
		artifacts []ring.Artifact
		told      []string
		want      map[string]any
	}{
		{"selfplay", nil, []ring.Input{{Role: RoleModel, Digest: champion.Digest}}, *games, nil,
			[]string{"WORK_QUEUED", "WORK_CLAIMED", "WORK_STARTED", "WORK_COMPLETED", "SELFPLAY_COMPLETE"},
			map[string]any{"games": 40.0, "seconds": 2.0, "model_sha256": string(champion.Digest)}},
		{"export", nil, nil, ring.WorkResult{Outputs: out(dataset), Counters: map[string]int64{"samples": 900, "games": 40}}, []ring.Artifact{dataset},
			[]string{"WORK_QUEUED", "WORK_CLAIMED", "WORK_STARTED", "WORK_COMPLETED", "NPZ_EXPORT_COMPLETE"},
			map[string]any{"sha256": string(dataset.Digest), "samples": 900.0, "games": 40.0}},
		{"train", []ring.Input{{Role: RoleDataset, Digest: dataset.Digest}}, []ring.Input{{Role: RoleDataset, Digest: dataset.Digest}},
			ring.WorkResult{Outputs: out(model), Counters: map[string]int64{"samples": 900}, Values: map[string]float64{"loss": .5}, Seconds: 3}, []ring.Artifact{model},
			[]string{"WORK_QUEUED", "WORK_CLAIMED", "WORK_STARTED", "TRAINING_STARTED", "WORK_COMPLETED", "TRAINING_COMPLETED"},
			map[string]any{"sha256": string(model.Digest), "samples": 900.0, "loss": .5, "seconds": 3.0}},
		{"evaluate", []ring.Input{{Role: RoleCandidate, Digest: model.Digest}}, nil,
			ring.WorkResult{Outputs: out(matches), Counters: map[string]int64{"games": 50, "vs:heuristic:games": 50, "vs:heuristic:wins": 30,
				"vs:heuristic:draws": 5, "vs:heuristic:losses": 15}, Values: map[string]float64{"elo": 1300}}, []ring.Artifact{matches},
			[]string{"WORK_QUEUED", "WORK_CLAIMED", "WORK_STARTED", "WORK_COMPLETED", "EVALUATION_COMPLETED", "ELO_UPDATED"},
			map[string]any{"sha256": string(model.Digest), "games": 50.0, "elo": 1300.0}},
	} {
		end := r.seq()
		w := r.enqueue(item(test.typ, test.typ+"-key", test.fixed...))
		r.ok(ClaimWork{Work: w, Claim: claimBy(nodeA, "c-"+test.typ), Inputs: test.now}, nil)
		r.refused(CodeInvalid, FinishWork{Work: w, Claim: "c-" + test.typ, Result: &ring.WorkResult{}}, nil) // exit 0 and nothing to show
		if test.artifacts != nil {
			r.refused(CodeRefused, FinishWork{Work: w, Claim: "c-" + test.typ, Result: &test.result}, nil) // outputs that nobody holds
		}
		r.ok(FinishWork{Work: w, Claim: "c-" + test.typ, Result: &test.result, Artifacts: test.artifacts}, nil)
		if d := cmp.Diff(test.told, r.told(end)); d != "" {
			t.Errorf("%s: %s", test.typ, d)
		}
		recs := r.records(end)
		fact := recs[slices.IndexFunc(recs, func(x event.Record) bool { return x.Type == "WORK_COMPLETED" })+1]
		p := payload(t, fact)
		for k, v := range test.want {
			if p[k] != v {
				t.Errorf("%s: %s is %v, want %v", fact.Type, k, p[k], v)
			}
		}
		for _, rec := range recs {
			inCatalogue(t, rec)
		}
	}
	// A failed training says whether it will be tried again.
	end := r.seq()
	w := r.enqueue(item("train", "bad", ring.Input{Role: RoleDataset, Digest: dataset.Digest}))
	r.claim(w, "bad", nodeA)
	r.ok(StartWork{Work: w, Claim: "bad"}, nil)
	r.ok(FinishWork{Work: w, Claim: "bad", Error: "oom"}, nil)
	if d := cmp.Diff([]string{"WORK_QUEUED", "WORK_CLAIMED", "WORK_STARTED", "TRAINING_STARTED", "WORK_FAILED", "TRAINING_FAILED", "WORK_RETRY"}, r.told(end)); d != "" {
		t.Error(d)
	}
	for _, rec := range r.records(end) {
		inCatalogue(t, rec)
	}
}
