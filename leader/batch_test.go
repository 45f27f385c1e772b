package leader

import (
	"bytes"
	"reflect"
	"testing"

	"pgregory.net/rapid"

	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/leader/state"
)

func TestBatchTravelsWhole(t *testing.T) {
	t.Parallel()
	if got, want := encodeBatch(state.EventBatch{Origin: "o", Node: "nn", First: 300, Lost: 1, Before: event.Hash{7}, Drafts: [][]byte{{9, 8}, {}}}),
		append(append([]byte("\x01o\x02nn\xac\x02\x01\x07"), make([]byte, 31)...), "\x02\x02\x09\x08\x00"...); !bytes.Equal(got, want) {
		t.Fatalf("%x, want %x", got, want)
	}
	rapid.Check(t, func(t *rapid.T) {
		want := state.EventBatch{
			Origin: event.Origin(rapid.String().Draw(t, "origin")), Node: id.Node(rapid.String().Draw(t, "node")),
			First: rapid.Uint64().Draw(t, "first"), Lost: rapid.Uint64().Draw(t, "lost"),
			Drafts: rapid.SliceOfN(rapid.SliceOfN(rapid.Byte(), 0, 300), 0, 5).Draw(t, "drafts"),
		}
		copy(want.Before[:], rapid.SliceOfN(rapid.Byte(), 0, len(want.Before)).Draw(t, "before"))
		b := encodeBatch(want)
		if len(b) > state.BatchSize(&want) {
			t.Fatalf("%d bytes, more than %d", len(b), state.BatchSize(&want))
		}
		got, err := readBatch(b)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("%+v, %v, want %+v", got, err, want)
		}
		if _, err := readBatch(b[:rapid.IntRange(0, len(b)-1).Draw(t, "cut")]); err == nil {
			t.Fatal("a cut batch was read")
		}
	})
}

func BenchmarkEncodeBatch(b *testing.B) {
	e := state.EventBatch{Origin: "0123456789abcdef", Node: "0123456789abcdef", First: 1}
	for range 64 {
		e.Drafts = append(e.Drafts, make([]byte, 570))
	}
	b.ReportAllocs()
	for b.Loop() {
		_ = encodeBatch(e)
	}
}
