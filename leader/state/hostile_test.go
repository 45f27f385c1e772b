package state

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// hostile fills bodies with values that nobody means: extremes of every type, and now and then what the state knows, so that
// commands get further than their first check.
type hostile struct {
	rt    *rapid.T
	known map[reflect.Type][]any
	named map[string][]any // by name of the field
	texts []string
}

func (h *hostile) chance(of int) bool { return rapid.IntRange(1, of).Draw(h.rt, "chance") == 1 }

func (h *hostile) text() string { return rapid.SampledFrom(h.texts).Draw(h.rt, "text") }

func (h *hostile) fill(v reflect.Value) {
	if list := h.known[v.Type()]; len(list) > 0 && !h.chance(6) {
		v.Set(reflect.ValueOf(rapid.SampledFrom(list).Draw(h.rt, "known")).Convert(v.Type()))
		return
	}
	switch v.Interface().(type) {
	case time.Time:
		at := rapid.SampledFrom([]time.Time{{}, epochStart, epochStart.Add(time.Hour), time.Unix(0, 0).UTC(),
			time.Date(9999, 12, 31, 23, 59, 59, 999999999, time.UTC), time.Date(1, 1, 1, 0, 0, 0, 1, time.UTC),
			time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(9999, 12, 31, 23, 59, 59, 0, time.FixedZone("", -23*3600)),
			time.Date(0, 1, 1, 0, 0, 0, 0, time.FixedZone("", 23*3600)), epochStart.In(time.FixedZone("", -23*3600))}).Draw(h.rt, "time")
		v.Set(reflect.ValueOf(at))
		return
	case json.RawMessage:
		v.SetBytes([]byte(rapid.SampledFrom([]string{`null`, `{}`, `{"a" : "<&>\u2028"}`, `[1e999]`, `"` + strings.Repeat("x", 9000) + `"`, strings.Repeat("[", 3000) + strings.Repeat("]", 3000)}).Draw(h.rt, "raw")))
		return
	case ring.Duration:
		v.SetInt(rapid.SampledFrom([]int64{0, 1, -1, int64(time.Minute), math.MaxInt64, math.MinInt64, 1_234_567_891}).Draw(h.rt, "duration"))
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(h.text())
	case reflect.Int, reflect.Int64:
		v.SetInt(rapid.SampledFrom([]int64{0, 1, 2, 3, -1, 50, 1 << 40, math.MaxInt64, math.MinInt64}).Draw(h.rt, "int"))
	case reflect.Uint64, reflect.Uint8:
		v.SetUint(rapid.SampledFrom([]uint64{0, 1, 2, 3, 255, 1 << 40, math.MaxUint64 - 1, math.MaxUint64}).Draw(h.rt, "uint"))
	case reflect.Float64:
		v.SetFloat(rapid.SampledFrom([]float64{0, 1, -1, 0.1, math.MaxFloat64, -math.MaxFloat64, math.SmallestNonzeroFloat64, 1e21, math.Copysign(0, -1)}).Draw(h.rt, "float"))
	case reflect.Bool:
		v.SetBool(h.chance(2))
	case reflect.Pointer:
		if !h.chance(3) {
			v.Set(reflect.New(v.Type().Elem()))
			h.fill(v.Elem())
		}
	case reflect.Struct:
		for i := range v.NumField() {
			f := v.Type().Field(i)
			if !f.IsExported() || h.chance(8) {
				continue
			}
			if list := h.named[f.Name]; len(list) > 0 && !h.chance(4) && f.Type.Kind() == reflect.TypeOf(list[0]).Kind() {
				v.Field(i).Set(reflect.ValueOf(rapid.SampledFrom(list).Draw(h.rt, "named")).Convert(f.Type))
				continue
			}
			h.fill(v.Field(i))
		}
	case reflect.Slice:
		n := rapid.IntRange(0, 3).Draw(h.rt, "len")
		if v.Type().Elem().Kind() == reflect.Uint8 {
			v.SetBytes([]byte(h.text()))
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), n, n))
		for i := range n {
			h.fill(v.Index(i))
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		for range rapid.IntRange(0, 3).Draw(h.rt, "size") {
			k, e := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
			h.fill(k)
			h.fill(e)
			v.SetMapIndex(k, e)
		}
	}
}

func (h *hostile) learn(s *State) {
	known := map[reflect.Type][]any{
		reflect.TypeFor[id.Node]():        {nodeA, nodeB, nodeC, nodeD},
		reflect.TypeFor[id.Class]():       {id.Core, id.Edge},
		reflect.TypeFor[id.Config]():      {c4, id.Config("hex8_2p")},
		reflect.TypeFor[ring.Kind]():      {ring.KindPack, ring.KindModel, ring.KindDataset, ring.KindMatches, ring.KindFile},
		reflect.TypeFor[ring.Status]():    {ring.Alive, ring.Left, ring.Failed, ring.Draining},
		reflect.TypeFor[ring.Timing]():    {ring.TimingDev, ring.TimingLAN},
		reflect.TypeFor[id.Boot]():        {bootOf(nodeA), bootOf(nodeB), id.Boot("another")},
		reflect.TypeFor[id.Digest]():      {digest("x"), digest("y"), digest("z")},
		reflect.TypeFor[ring.WorkState](): {ring.WorkPending, ring.WorkDone},
		reflect.TypeFor[event.Type]():     {event.Type("OPERATOR_NOTE"), event.Type("MODEL_PROMOTED"), event.Type("ELO_UPDATED"), event.Type("EVALUATION_COMPLETED")},
		reflect.TypeFor[id.Epoch]():       {id.Epoch(0)},
	}
	for a := range s.Assignments() {
		known[reflect.TypeFor[id.Epoch]()] = append(known[reflect.TypeFor[id.Epoch]()], a.Epoch)
	}
	h.known = known
	h.texts = []string{"", "x", "selfplay", "train", "evaluate", "export", "EVALUATION", "AUTO_PROMOTION", "EVALUATION/x", "games", "samples", "elo", "loss",
		"vs:random:games", "vs::games", "repeats", "model/" + string(c4), "candidate", "dataset", "x0", "hash", "boot", "\x00", "\xff\xfe", "ü<&>\u2028", "kkkk",
		strings.Repeat("<", 7000), strings.Repeat("k", 257)}
	h.named = map[string][]any{
		"Daemon": {"EVALUATION", "AUTO_PROMOTION"}, "TokenID": {"x0"}, "SecretHash": {"hash"}, "Priority": {50}, "MaxAttempts": {0, 1}, "Uses": {2},
		"Voters": {3}, "Bytes": {int64(7)}, "Key": {ring.ModelName(c4), "a", "z"}, "Consumer": {"EVALUATION/x"}, "Handler": {"EVALUATION/x"}, "Boot": {string(bootOf(nodeB))},
		"Type": {"selfplay", "train", "evaluate", "other"}, "Role": {RoleCandidate, RoleModel}, "Seq": {uint64(1), uint64(2)}, "Expect": {uint64(0), uint64(1)},
		"Config": {string(c4)}, "Error": {"", "broken"}, "Term": {s.Term() + 1}, "Permanent": {false}, "Copies": {map[ring.Kind]int{}}, "Name": {"n1", "n2"}, "Lease": {int64(time.Minute)},
	}
	for w := range s.WorkItems() {
		h.named["Work"] = append(h.named["Work"], w.ID)
		if w.Claim != nil {
			h.named["Claim"] = append(h.named["Claim"], w.Claim.ID)
		}
	}
}

// every is a body of each kind.
var every = []any{Enrol{}, Report{}, SetStatus{}, Revoke{}, Forget{}, PutToken{}, RevokeToken{}, Assign{}, SwitchDaemon{}, Enqueue{}, ClaimWork{}, StartWork{},
	FinishWork{}, ReleaseWork{}, CancelWork{}, RetryWork{}, AddArtifacts{}, AddReceipts{}, StateRepeats{}, JoinPacks{}, DropCopies{}, SetName{}, SetPositions{}, PutNote{},
	PutDeadLetter{}, PutSettings{}, Raise{}, Lead{}}

func (h *hostile) body() any {
	v := reflect.New(reflect.TypeOf(rapid.SampledFrom(every).Draw(h.rt, "body"))).Elem()
	if v.Type() == reflect.TypeFor[Revoke]() && !h.chance(4) { // the rest of the nodes would soon be shut out
		v = reflect.New(reflect.TypeFor[FinishWork]()).Elem()
	}
	h.fill(v)
	if r, ok := v.Interface().(Raise); ok {
		r.Commands = min(r.Commands, Version) // a newer one ends the process, as it must
		return r
	}
	return v.Interface()
}

// populated is a machine with a little of everything, and what applies the next entry to it and looks at what comes of that.
func populated(rt *rapid.T) (*Machine, func([]byte) Result) {
	m, index := New(), uint64(0)
	apply := func(entry []byte) Result {
		index++
		res, placed, err := m.Apply(index, entry)
		if err != nil {
			rt.Fatalf("%v\n%s", err, entry[2:])
		}
		if _, err := marshal(res); err != nil {
			rt.Fatalf("answer: %v\n%s", err, entry[2:])
		}
		for _, p := range placed {
			if _, err := event.DecodeRecord(p.Bytes); err != nil {
				rt.Fatalf("record: %v\n%s", err, entry[2:])
			}
		}
		return res
	}
	must := func(body any) {
		e, err := Encode(Command{Kind: kindOf(body), At: epochStart, Body: body})
		if err != nil {
			rt.Fatal(err)
		}
		if res := apply(e); res.Code != "" {
			rt.Fatalf("%T: %s %s", body, res.Code, res.Message)
		}
	}
	must(Lead{Node: nodeA, Term: 1})
	must(PutToken{ring.Token{ID: "x0", SecretHash: "hash", Class: id.Core, Uses: 9, Expires: epochStart.Add(time.Hour)}})
	for _, n := range []id.Node{nodeA, nodeB, nodeC} {
		must(enrolment(n, "x0", id.Core))
		must(Report{ring.Member{ID: n, Boot: bootOf(n)}})
	}
	must(Assign{Daemon: "EVALUATION", Node: nodeA, Boot: bootOf(nodeA)})
	must(AddArtifacts{[]ring.Artifact{{Digest: digest("x"), Kind: ring.KindModel, Config: c4, Bytes: 7, Holders: []id.Node{nodeA, nodeB}}}})
	must(Enqueue{[]ring.WorkItem{item("selfplay", "a"), item("train", "b"),
		item("evaluate", "c", ring.Input{Role: RoleCandidate, Digest: digest("x")}), item("other", "d")}})
	for i, w := range slices.Collect(m.View().WorkItems()) {
		if i > 0 {
			must(ClaimWork{Work: w.ID, Claim: claimBy(nodeB, fmt.Sprint("c", i))})
		}
	}
	return m, apply
}

// An entry that one voter cannot apply ends all of them, at every start: whatever Encode lets pass, Apply answers, the state
// can be written down and read again as the same, and the records that it placed can be read.
func TestNothingThatCanBeProposedStopsAVoter(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		m, apply := populated(rt)
		h := &hostile{rt: rt}
		for range rapid.IntRange(1, 20).Draw(rt, "entries") {
			h.learn(m.View())
			c := Command{At: epochStart, Body: h.body()}
			if h.chance(20) {
				h.fill(reflect.ValueOf(&c.At).Elem())
			}
			if h.chance(4) {
				h.fill(reflect.ValueOf(&c.By).Elem())
			}
			if h.chance(2) {
				a, _ := m.View().Assignment("EVALUATION")
				c.Fence = &ring.Fence{Daemon: "EVALUATION", Epoch: a.Epoch}
			}
			if h.chance(5) {
				c.Once = h.text()
			}
			if h.chance(5) {
				h.fill(reflect.ValueOf(&c.Events).Elem())
			}
			if h.chance(6) {
				var e Effect
				for range 3 {
					if b := h.body(); stepKind(kindOf(b)) {
						e.Steps = append(e.Steps, Step{kindOf(b), b})
					}
				}
				c.Body = e
			}
			c.Kind = kindOf(c.Body)
			entry, err := Encode(c)
			if err != nil {
				continue
			}
			apply(entry)
			var b bytes.Buffer
			if err := WriteSnapshot(&b, m.View()); err != nil {
				rt.Fatalf("%v after %s", err, entry[2:])
			}
			again, err := ReadSnapshot(&b)
			if err != nil {
				rt.Fatalf("%v after %s", err, entry[2:])
			}
			if x, y := Digest(again), Digest(m.View()); x != y {
				rt.Fatalf("read again it is another state after %s", entry[2:])
			}
		}
	})
}

// A time that can be written where it was made may be of no year here.
func TestCommandOfNoYearIsRefused(t *testing.T) {
	t.Parallel()
	for _, at := range []string{"9999-12-31T23:59:59-23:59", "0000-01-01T00:00:00+23:59"} {
		r := newRig(t)
		body := fmt.Sprintf(`{"at":%q,"by":%q,"once":"x","body":{"member":{"id":%[2]q,"boot":"00000000000000ff"}}}`, at, nodeA)
		res, _, err := r.m.Apply(r.m.View().Index()+1, append([]byte{format, byte(KindReport)}, body...))
		if err != nil || res.Code != CodeInvalid {
			t.Errorf("%s: %+v, %v", at, res, err)
		}
		restored(t, r.m.View())
	}
}

// Raw JSON that can just be read is in an entry one that cannot.
func TestNoEntryIsTooDeepToBeRead(t *testing.T) {
	t.Parallel()
	taken := 0
	for deep := 9_980; deep <= 10_001; deep++ {
		raw := json.RawMessage(strings.Repeat("[", deep) + strings.Repeat("]", deep))
		body := PutSettings{Settings: ring.Settings{Timing: ring.TimingDev, Voters: 3, Daemons: map[string]json.RawMessage{"X": raw}}}
		entry, err := Encode(Command{Kind: KindSettings, At: epochStart, Body: body})
		if err != nil {
			continue
		}
		taken++
		m := New()
		if res, _, err := m.Apply(1, entry); err != nil || res.Code != "" {
			t.Errorf("%d deep: %s, %v", deep, res.Message, err)
			continue
		}
		restored(t, m.View())
	}
	if taken == 0 {
		t.Error("none was taken")
	}
}
