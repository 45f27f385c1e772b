package agent

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/ringagent/ringagent/eventlog"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/leader/state"
)

func genRecord(t *rapid.T) eventlog.Encoded {
	r := eventlog.Encoded{Seq: rapid.Uint64().Draw(t, "seq"), Bytes: rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "bytes")}
	copy(r.Hash[:], rapid.SliceOfN(rapid.Byte(), len(r.Hash), len(r.Hash)).Draw(t, "hash"))
	if r.Bytes == nil {
		r.Bytes = []byte{}
	}
	return r
}

func TestRecordsSurviveTheWire(t *testing.T) {
	t.Parallel()
	whole := cmp.AllowUnexported(eventlog.Encoded{})
	rapid.Check(t, func(t *rapid.T) {
		groups := rapid.SliceOfN(rapid.SliceOfN(rapid.Custom(genRecord), 1, 5), 0, 4).Draw(t, "groups")
		var stream, flat []byte
		var want []eventlog.Encoded
		for _, g := range groups {
			for _, r := range g {
				stream, flat = appendRecordFrame(stream, r), appendRecordFrame(flat, r)
				want = append(want, r)
			}
			stream = append(stream, frameFlush)
		}
		var got [][]eventlog.Encoded
		if err := readRecords(bytes.NewReader(stream), func(b []eventlog.Encoded) { got = append(got, b) }); err != nil {
			t.Fatalf("read stream: %v", err)
		}
		if len(groups) != len(got) {
			t.Fatalf("%d groups, want %d", len(got), len(groups))
		}
		if len(groups) > 0 && !cmp.Equal(groups, got, whole) {
			t.Fatalf("stream: %s", cmp.Diff(groups, got, whole))
		}
		all, gap, err := decodeRecords(flat)
		if err != nil || gap != nil || !cmp.Equal(want, all, whole) {
			t.Fatalf("answer: %v, %v, %s", gap, err, cmp.Diff(want, all, whole))
		}
		// Cut anywhere but between frames, it is an error and never a shorter record.
		if len(flat) > 0 {
			cut := rapid.IntRange(0, len(flat)-1).Draw(t, "cut")
			part, _, err := decodeRecords(flat[:cut])
			for i, r := range part {
				if !cmp.Equal(want[i], r, whole) {
					t.Fatalf("cut at %d: record %d differs", cut, i)
				}
			}
			if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatalf("cut at %d: %v", cut, err)
			}
		}
	})
}

func TestGapSurvivesTheWire(t *testing.T) {
	t.Parallel()
	want := eventlog.Compacted{From: 3, To: 900, Oldest: 901}
	want.Hash[5] = 7
	_, got, err := decodeRecords(appendGapFrame(nil, want))
	if err != nil || got == nil || *got != want {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
	var gap *eventlog.Compacted
	if err := readRecords(bytes.NewReader(appendGapFrame(nil, want)), nil); !errors.As(err, &gap) || *gap != want {
		t.Errorf("stream: %v", err)
	}
}

func FuzzDecodeRecords(f *testing.F) {
	f.Add(appendRecordFrame(nil, eventlog.Encoded{Seq: 1, Bytes: []byte("x")}))
	f.Add(appendGapFrame(nil, eventlog.Compacted{From: 1, To: 2, Oldest: 3}))
	f.Add([]byte{frameRecord, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f})
	f.Add(append(append([]byte{frameRecord, 1}, make([]byte, 32)...), 0xff, 0xff, 0xff, 0x7f)) // a record of 256 MiB
	f.Fuzz(func(t *testing.T, b []byte) {
		records, gap, err := decodeRecords(b)
		if err != nil && (records != nil || gap != nil) {
			t.Error("an error and a result")
		}
		for _, r := range records {
			if len(r.Bytes) > len(b) {
				t.Error("more bytes than there were")
			}
		}
	})
}

// The largest record that an entry can make is read: whoever refused it would stand still before it for ever.
func TestLargestRecordSurvivesTheWire(t *testing.T) {
	t.Parallel()
	m := state.New()
	apply := func(index uint64, c state.Command) []state.Placed {
		c.At = time.Unix(1e9, 0)
		entry, err := state.Encode(c)
		if err != nil {
			t.Fatal(err)
		}
		res, placed, err := m.Apply(index, entry)
		if err != nil || res.Code != "" {
			t.Fatalf("%+v, %v", res, err)
		}
		return placed
	}
	apply(1, state.Command{Kind: state.KindLead, Body: state.Lead{Node: "0000000000000001", Term: 1}})
	apply(2, state.Command{Kind: state.KindEnqueue, Body: state.Enqueue{Items: []ring.WorkItem{{ID: "w", Type: "other", Key: "k"}}}})
	// "<" takes one byte in the entry and six in the record.
	placed := apply(3, state.Command{Kind: state.KindCancel, Body: state.CancelWork{Work: "w", Reason: strings.Repeat("<", state.MaxEntry-200)}})
	var b []byte
	for _, p := range placed {
		b = appendRecordFrame(b, eventlog.Encoded{Seq: p.Seq, Hash: p.Hash, Bytes: p.Bytes})
	}
	got, _, err := decodeRecords(b)
	if err != nil || len(got) != len(placed) {
		t.Fatalf("%d records of %d, %v", len(got), len(placed), err)
	}
}
