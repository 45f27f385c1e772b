package state

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/ring"
)

func TestEventsGetContiguousPlaces(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	start := r.seq()
	a, b := &outbox{origin: "a1", node: nodeA}, &outbox{origin: "b1", node: nodeB}
	got := r.events(a.batch(note(1), note(2)), b.batch(note(3)), a.batch(note(4)))
	want := []AppendResult{
		{Origin: "a1", Next: 3, Seqs: []uint64{start + 1, start + 2}},
		{Origin: "b1", Next: 2, Seqs: []uint64{start + 3}, Hash: b.hash},
		{Origin: "a1", Next: 4, Seqs: []uint64{start + 4}, Hash: a.hash},
	}
	want[0].Hash = got[0].Hash
	if d := cmp.Diff(want, got); d != "" {
		t.Fatal(d)
	}
	// The hash chain is that of the event package, from the empty hash over all records.
	var h event.Hash
	for i, p := range r.placed {
		h = h.Next(p.Bytes)
		if p.Seq != uint64(i+1) || p.Hash != h {
			t.Fatalf("record %d: seq %d, hash %s, want %s", i+1, p.Seq, p.Hash, h)
		}
		rec, err := event.DecodeRecord(p.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(event.AppendRecord(nil, rec), p.Bytes) {
			t.Fatalf("record %d is not in the form of event.AppendRecord", p.Seq)
		}
	}
	if head := r.m.View().LogHead(); head.Hash != h || head.Seq != uint64(len(r.placed)) {
		t.Fatalf("log head %v", head)
	}
}

func TestRepeatedBatchIsSkipped(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	o := &outbox{origin: "a1", node: nodeA}
	first := o.batch(note(1), note(2))
	second := o.batch(note(3), note(4))
	r.events(first, second)
	end := r.seq()
	for _, again := range []EventBatch{first, second} {
		if got := r.events(again)[0]; got.Altered || len(got.Seqs) != 0 || got.Next != 5 {
			t.Fatalf("repeated: %+v", got)
		}
	}
	// Both in one, and one more: only that one is new.
	both := EventBatch{Origin: "a1", Node: nodeA, First: 1, Drafts: slices.Concat(first.Drafts, second.Drafts, o.batch(note(5)).Drafts)}
	if got := r.events(both)[0]; got.Altered || got.Next != 6 || !slices.Equal(got.Seqs, []uint64{end + 1}) {
		t.Fatalf("overlap: %+v", got)
	}
	if got := r.events(EventBatch{Origin: "a1", Node: nodeA, First: 9, Drafts: first.Drafts})[0]; got.Next != 6 || got.Seqs != nil || got.Altered {
		t.Fatalf("gap: %+v", got)
	}
	if r.seq() != end+1 {
		t.Fatalf("log ends at %d, want %d", r.seq(), end+1)
	}
}

func TestOtherBytesUnderUsedNumber(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		forge  func(first, second EventBatch) EventBatch
		stands bool
	}{
		{"same batch", func(f, s EventBatch) EventBatch { return s }, true},
		{"last draft differs", func(f, s EventBatch) EventBatch { s.Drafts = [][]byte{s.Drafts[0], f.Drafts[0]}; return s }, false},
		{"older batch differs", func(f, s EventBatch) EventBatch { f.Drafts = s.Drafts; return f }, false},
		{"other history before", func(f, s EventBatch) EventBatch { s.Before[0]++; return s }, false},
		{"restored outbox goes on", func(f, s EventBatch) EventBatch {
			s.Drafts = [][]byte{f.Drafts[0], f.Drafts[1], f.Drafts[0]}
			return s
		}, false},
		{"next number after another history", func(f, s EventBatch) EventBatch {
			s.First, s.Drafts = 5, s.Drafts[:1]
			return s
		}, false},
		{"another node's outbox", func(f, s EventBatch) EventBatch { s.Node = nodeB; return s }, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			o := &outbox{origin: "a1", node: nodeA}
			first := o.batch(note(1), note(2))
			second := o.batch(note(3), note(4))
			r.events(first)
			r.events(second)
			end := r.seq()
			if got := r.events(test.forge(first, second))[0]; got.Altered == test.stands || got.Seqs != nil {
				t.Fatalf("%+v", got)
			}
			if r.seq() != end {
				t.Fatal("something was placed")
			}
		})
	}
}

// A range of lost numbers that reaches to the end of all numbers leaves none for what follows.
func TestLostNumbersDoNotRunOver(t *testing.T) {
	t.Parallel()
	for name, b := range map[string]EventBatch{
		"all":              {First: 3, Lost: math.MaxUint64},
		"all, then one":    {First: 3, Lost: math.MaxUint64, Drafts: [][]byte{[]byte("x")}},
		"then one too far": {First: 3, Lost: math.MaxUint64 - 1, Drafts: [][]byte{[]byte("x")}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			o := &outbox{origin: "a1", node: nodeA}
			r.events(o.batch(note(1), note(2)))
			end := r.seq()
			b.Origin, b.Node = "a1", nodeA
			if got := r.events(b)[0]; got.Refused == "" || got.Altered || got.Next != 3 || got.Seqs != nil {
				t.Errorf("%+v", got)
			}
			if r.seq() != end {
				t.Error("something was placed")
			}
			if got := r.events(o.batch(note(3)))[0]; got.Next != 4 || len(got.Seqs) != 1 {
				t.Errorf("afterwards: %+v", got)
			}
		})
	}
}

func TestUnacceptableEventConsumesItsNumber(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	big := event.Draft{Type: "OPERATOR_NOTE", Node: nodeA, Payload: json.RawMessage(`"` + strings.Repeat("x", event.MaxPayload) + `"`)}
	good := event.AppendDraft(nil, event.Draft{Type: "OPERATOR_NOTE", Node: nodeA, Time: epochStart})
	long := slices.Insert(bytes.Clone(good), 1, good[1]|0x80)
	long[2] = 0 // the type's length with a needless byte: same meaning, other bytes
	cases := map[string][]byte{
		"garbage":       []byte("garbage"),
		"empty":         {},
		"not canonical": long,
		"bad type":      event.AppendDraft(nil, event.Draft{Type: "operator note", Node: nodeA}),
		"other node":    event.AppendDraft(nil, event.Draft{Type: "OPERATOR_NOTE", Node: nodeB}),
		"no json":       event.AppendDraft(nil, event.Draft{Type: "OPERATOR_NOTE", Node: nodeA, Payload: json.RawMessage("{")}),
		"too large":     event.AppendDraft(nil, big),
		"a fact":        event.AppendDraft(nil, event.Draft{Type: evPromoted, Node: nodeA, Payload: json.RawMessage("{}")}),
		"unregistered":  good,
	}
	names := []string{"garbage", "empty", "not canonical", "bad type", "other node", "no json", "too large", "a fact", "unregistered"}
	b := EventBatch{Origin: "a1", Node: nodeA, First: 1, Refused: []Refusal{{Draft: 8, Reason: "type is not registered"}}}
	for _, n := range names {
		b.Drafts = append(b.Drafts, cases[n])
	}
	b.Drafts = append(b.Drafts, good)
	end := r.seq()
	got := r.events(b)[0]
	if len(got.Seqs) != 10 || got.Next != 11 {
		t.Fatalf("%+v", got)
	}
	recs := r.records(end)
	for i, n := range names {
		if recs[i].Type != TypeRefused || recs[i].Marks != event.MarkRefused || recs[i].Number != uint64(i+1) {
			t.Errorf("%s: %+v", n, recs[i])
		}
		inCatalogue(t, recs[i])
	}
	if last := recs[9]; last.Marks != 0 || last.Type != "OPERATOR_NOTE" || last.Number != 10 {
		t.Errorf("the good one: %+v", last)
	}
	if again := r.events(b)[0]; again.Altered || again.Seqs != nil {
		t.Errorf("the same again: %+v", again)
	}
}

func TestStaleEventIsMarked(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	old := r.assign("TRAINING_TRIGGER", nodeA)
	fresh := r.assign("TRAINING_TRIGGER", nodeB)
	o := &outbox{origin: "a1", node: nodeA}
	d := func(daemon string, f *ring.Fence) event.Draft {
		x := note(1)
		x.Daemon = daemon
		if f != nil {
			x.Epoch = f.Epoch
		}
		return x
	}
	end := r.seq()
	r.events(o.batch(d("TRAINING_TRIGGER", old), d("TRAINING_TRIGGER", fresh), d("TRAINING_TRIGGER", nil), d("AUTO_SYNC", nil), d("", nil)))
	var marks []bool
	for _, rec := range r.records(end) {
		marks = append(marks, rec.Stale())
	}
	if want := []bool{true, false, true, false, false}; !slices.Equal(marks, want) {
		t.Fatalf("stale marks %v, want %v", marks, want)
	}
}

func TestLostRange(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	o := &outbox{origin: "a1", node: nodeA}
	r.events(o.batch(note(1), note(2)))
	o.batch(note(3), note(4), note(5)) // never sent
	after := o.batch(note(6))
	after.First, after.Lost = 2, 5 // 2 stands already: only 3…5 are lost
	end := r.seq()
	got := r.events(after)[0]
	if got.Altered || got.Next != 7 || len(got.Seqs) != 2 || got.Hash != o.hash {
		t.Fatalf("%+v", got)
	}
	recs := r.records(end)
	if recs[0].Marks != event.MarkLost || recs[0].Number != 5 || recs[1].Number != 6 {
		t.Fatalf("%+v", recs)
	}
	p := payload(t, recs[0])
	if p["from"] != 3.0 || p["to"] != 5.0 {
		t.Fatalf("%v", p)
	}
	inCatalogue(t, recs[0])
	if again := r.events(after)[0]; again.Altered || again.Seqs != nil {
		t.Fatalf("again: %+v", again)
	}
}

func TestRevokedNodesEventsAreNotTaken(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	o := &outbox{origin: "b1", node: nodeB}
	r.events(o.batch(note(1)))
	r.ok(Revoke{Node: nodeB}, nil)
	end := r.seq()
	if got := r.events(o.batch(note(2)))[0]; got.Refused == "" || got.Seqs != nil || got.Next != 2 || r.seq() != end {
		t.Fatalf("%+v", got)
	}
}

func BenchmarkAppendEvents(b *testing.B) {
	for _, size := range []int{64, 512} {
		b.Run(fmt.Sprintf("payload=%d", size), func(b *testing.B) {
			r := newRig(b)
			f := r.assign("TRAINING_TRIGGER", nodeA)
			const batches, each = 8, 32
			outs := make([]*outbox, batches)
			for i := range outs {
				outs[i] = &outbox{origin: event.Origin(fmt.Sprintf("%016x", i+1)), node: nodeA}
			}
			d := event.Draft{Type: "OPERATOR_NOTE", Daemon: f.Daemon, Epoch: f.Epoch, Time: epochStart,
				Payload: json.RawMessage(`{"text":"` + strings.Repeat("x", size-11) + `"}`)}
			drafts := slices.Repeat([]event.Draft{d}, each)
			b.ReportAllocs()
			b.ResetTimer()
			for n := 0; n < b.N; n += batches * each {
				b.StopTimer()
				list := make([]EventBatch, batches)
				for i, o := range outs {
					list[i] = o.batch(drafts...)
				}
				entry := AppendEvents(r.at, list)
				r.index++
				b.StartTimer()
				if _, _, err := r.m.Apply(r.index, entry); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
		})
	}
}
