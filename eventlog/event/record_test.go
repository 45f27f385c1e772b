package event

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/ringagent/ringagent/internal/id"
)

func TestEncodeMakesRoomForWhatItWrites(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		d := Draft{
			Type: Type(rapid.String().Draw(t, "type")), Node: id.Node(rapid.String().Draw(t, "node")), Daemon: rapid.String().Draw(t, "daemon"),
			Epoch: id.Epoch(rapid.Uint64().Draw(t, "epoch")), Time: time.UnixMicro(rapid.Int64().Draw(t, "time")),
			Cause: rapid.String().Draw(t, "cause"), Payload: rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "payload"),
		}
		if got, want := d.size(), len(d.Encode()); got != want {
			t.Fatalf("room for %d bytes, %d written", got, want)
		}
		v := rapid.Uint64().Draw(t, "number") >> rapid.IntRange(0, 63).Draw(t, "shift")
		if got, want := numberSize(v), len(binary.AppendUvarint(nil, v)); got != want {
			t.Fatalf("%d takes %d bytes, not %d", v, want, got)
		}
	})
}

// TestDecoderReadsRunsOfRecords: the same as one by one, whatever the record before was.
func TestDecoderReadsRunsOfRecords(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		word := rapid.SampledFrom([]string{"", "a", "b", "OPERATOR_NOTE"})
		var one Decoder
		for range rapid.IntRange(1, 8).Draw(t, "records") {
			b := Record{
				Seq: rapid.Uint64().Draw(t, "seq"), Origin: Origin(word.Draw(t, "origin")), Number: 3, Draft: Draft{
					Type: Type(word.Draw(t, "type")), Node: id.Node(word.Draw(t, "node")), Daemon: word.Draw(t, "daemon"),
					Time: time.UnixMicro(9), Cause: word.Draw(t, "cause"), Payload: json.RawMessage(word.Draw(t, "payload")),
				},
			}.Encode()
			if rapid.IntRange(0, 3).Draw(t, "odd") == 0 {
				b = []byte(spoil(t, string(b)))
			}
			got, err := one.Record(b)
			want, wantErr := DecodeRecord(b)
			if !errors.Is(err, wantErr) || err == nil && !cmp.Equal(got, want) {
				t.Fatalf("%q: %v, want %v: %s", b, err, wantErr, cmp.Diff(want, got))
			}
		}
	})
}

func BenchmarkDecodeRecord(b *testing.B) {
	bytes := Record{Seq: 1 << 20, Origin: "0123456789abcdef", Number: 1 << 10, Draft: Draft{Type: "OPERATOR_NOTE", Node: someNode, Daemon: "AUTO_SYNC",
		Time: time.UnixMicro(1 << 50), Payload: json.RawMessage(`{"text":"` + strings.Repeat("x", 500) + `"}`)}}.Encode()
	var run Decoder
	for name, decode := range map[string]func([]byte) (Record, error){"alone": DecodeRecord, "run": run.Record} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := decode(bytes); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkEncode(b *testing.B) {
	d := Draft{Type: "OPERATOR_NOTE", Node: someNode, Daemon: "AUTO_SYNC", Time: time.UnixMicro(1 << 50),
		Payload: json.RawMessage(`{"node_id":"0123456789abcdef","text":"` + strings.Repeat("x", 470) + `"}`)}
	b.ReportAllocs()
	for b.Loop() {
		_ = d.Encode()
	}
}

func BenchmarkLine(b *testing.B) {
	r := Record{Seq: 1 << 20, Origin: "0123456789abcdef", Number: 1 << 10, Draft: Draft{Type: "OPERATOR_NOTE", Node: someNode, Daemon: "AUTO_SYNC",
		Time: time.UnixMicro(1 << 50), Payload: json.RawMessage(`{"text":"` + strings.Repeat("x", 500) + `"}`)}}
	b.ReportAllocs()
	for b.Loop() {
		_ = r.Line()
	}
}
