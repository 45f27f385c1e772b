package agent

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/ringagent/ringagent/eventlog/event"
)

func TestWakesReachThoseWhoAskedForTheType(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var w wakes
		ctx, cancel := context.WithCancel(t.Context())
		both, one := w.subscribe(ctx, []event.Type{"A", "B", "A"}), w.subscribe(t.Context(), []event.Type{"B"})
		seqs := func(ch <-chan event.Record) []uint64 {
			var out []uint64
			for len(ch) > 0 {
				out = append(out, (<-ch).Seq)
			}
			return out
		}
		record := func(seq uint64, typ event.Type, marks byte) event.Record {
			return event.Record{Seq: seq, Marks: marks, Draft: event.Draft{Type: typ}}
		}
		for _, c := range []struct {
			records   []event.Record
			both, one string
		}{
			{[]event.Record{record(1, "C", 0), record(2, "B", event.MarkStale)}, "[]", "[]"},
			{[]event.Record{record(3, "A", 0), record(4, "B", 0), record(5, "A", 0)}, "[3]", "[4]"}, // one waits, the others are dropped
			{[]event.Record{record(6, "B", 0)}, "[6]", "[6]"},
		} {
			w.observe(c.records)
			if b, o := fmt.Sprint(seqs(both)), fmt.Sprint(seqs(one)); b != c.both || o != c.one {
				t.Errorf("%v: %s and %s, want %s and %s", c.records, b, o, c.both, c.one)
			}
		}
		cancel()
		synctest.Wait()
		w.observe([]event.Record{record(7, "A", 0), record(8, "B", 0)})
		if b, o := seqs(both), seqs(one); len(b) != 0 || fmt.Sprint(o) != "[8]" {
			t.Errorf("after one has left: %v and %v", b, o)
		}
	})
}

// BenchmarkObserve is what one event costs on a node that runs twelve daemons which it does not concern.
func BenchmarkObserve(b *testing.B) {
	var w wakes
	for i := range 12 {
		var types []event.Type
		for j := range 4 {
			types = append(types, event.Type(fmt.Sprintf("SOME_TYPE_%d", (3*i+j)%20)))
		}
		w.subscribe(b.Context(), types)
	}
	records := make([]event.Record, 256)
	for i := range records {
		records[i].Type = "OPERATOR_NOTE"
	}
	b.ReportAllocs()
	for n := 0; n < b.N; n += len(records) {
		w.observe(records)
	}
}
