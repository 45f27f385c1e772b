package event

import (
	"encoding/json"
	"errors"
	"math"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/ringagent/ringagent/internal/id"
)

var (
	someNode   = id.Node("00112233445566aa")
	someDigest = id.DigestOf([]byte("model"))
)

func TestCatalogueIsSound(t *testing.T) {
	t.Parallel()
	upper := regexp.MustCompile(`^[A-Z][A-Z0-9_]+$`)
	for _, d := range Catalogue().All() {
		if !upper.MatchString(string(d.Type)) {
			t.Errorf("%s: not upper case", d.Type)
		}
		if d.Wire == "" || d.Wire != strings.ToLower(d.Wire) {
			t.Errorf("%s: wire name %q", d.Type, d.Wire)
		}
		if !strings.HasSuffix(d.Doc, ".") {
			t.Errorf("%s: doc %q is no sentence", d.Type, d.Doc)
		}
		if d.Fact && len(d.Owners) == 0 {
			t.Errorf("%s: a fact without an owner can never be stated", d.Type)
		}
		if d.Fields[0].Name != "node_id" || !d.Fields[0].Required {
			t.Errorf("%s: every payload begins with a required node_id", d.Type)
		}
		for _, f := range d.Fields {
			if strings.HasSuffix(f.Name, "_seconds") && f.Unit != "s" {
				t.Errorf("%s.%s: unit %q", d.Type, f.Name, f.Unit)
			}
			if strings.Contains(f.Name, "path") {
				t.Errorf("%s.%s: artifacts go by sha256, never by path", d.Type, f.Name)
			}
		}
	}
	if _, err := newCatalog([]entry{OperatorNote, OperatorNote}); err == nil {
		t.Error("a type that is defined twice went through")
	}
}

func TestLookupKnowsOldNames(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]Type{
		"NEW_GAMES_AVAILABLE": "NEW_GAMES_AVAILABLE", "new_games": "NEW_GAMES_AVAILABLE", "new_games_available": "NEW_GAMES_AVAILABLE",
		"sync_completed": "DATA_SYNC_COMPLETED", "sync_complete": "DATA_SYNC_COMPLETED", "Model_Promoted": "MODEL_PROMOTED",
		"training_complete": "TRAINING_COMPLETED",
	} {
		if d, ok := Catalogue().Lookup(name); !ok || d.Type != want {
			t.Errorf("Lookup(%q) = %s, %t", name, d.Type, ok)
		}
	}
	if _, ok := Catalogue().Lookup("NO_SUCH"); ok {
		t.Error("an unknown name was found")
	}
}

func TestPrepare(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, typ, payload string
		by                 Publisher
		want               string // payload; or
		kind               error
		field              string
	}{
		{name: "note", typ: "operator_note", payload: `{"text":"x", "data":{"a":[1]}, "host":"kept"}`,
			want: `{"data":{"a":[1]},"host":"kept","node_id":"00112233445566aa","text":"x"}`},
		{name: "old names", typ: "new_games", payload: `{"host":"gpu-7","board_type":"hex8","num_players":2,"new_games":3}`,
			want: `{"board_type":"hex8","config_key":"hex8_2p","new_games":3,"node_id":"gpu-7","num_players":2,"total_games":null}`},
		{name: "config", typ: "new_games", payload: `{"node_id":"a","config":"hex8_2p","new_games":3,"x":null}`,
			want: `{"config_key":"hex8_2p","new_games":3,"node_id":"a","total_games":null,"x":null}`},
		{name: "unregistered", typ: "NOPE", payload: `{}`, kind: ErrUnregistered},
		{name: "missing", typ: "OPERATOR_NOTE", payload: `{}`, kind: ErrInvalid, field: "text"},
		{name: "null", typ: "OPERATOR_NOTE", payload: `{"text":null}`, kind: ErrInvalid, field: "text"},
		{name: "empty", typ: "OPERATOR_NOTE", payload: `{"text":""}`, kind: ErrInvalid, field: "text"},
		{name: "wrong type", typ: "OPERATOR_NOTE", payload: `{"text":7}`, kind: ErrInvalid, field: "text"},
		{name: "fraction", typ: "new_games", payload: `{"config":"hex8_2p","new_games":3.5}`, kind: ErrInvalid, field: "new_games"},
		{name: "negative", typ: "new_games", payload: `{"config":"hex8_2p","new_games":-3}`, kind: ErrInvalid, field: "new_games"},
		{name: "bad config", typ: "new_games", payload: `{"config":"hex8","new_games":3}`, kind: ErrInvalid, field: "config_key"},
		{name: "bad digest", typ: "new_games", payload: `{"config":"hex8_2p","new_games":3,"pack_sha256":"../x"}`, kind: ErrInvalid, field: "pack_sha256"},
		{name: "no object", typ: "OPERATOR_NOTE", payload: `[1]`, kind: ErrInvalid},
		{name: "null object", typ: "OPERATOR_NOTE", payload: `null`, kind: ErrInvalid},
		{name: "torn", typ: "OPERATOR_NOTE", payload: `{"text":"x"`, kind: ErrInvalid},
		{name: "too large", typ: "OPERATOR_NOTE", payload: `{"text":"` + strings.Repeat("x", MaxPayload) + `"}`, kind: ErrInvalid},
		{name: "a fact from outside", typ: "MODEL_PROMOTED", payload: `{}`, kind: ErrNotOwner},
		{name: "a fact of another daemon", typ: "PROMOTION_REJECTED", payload: `{}`, by: "EVALUATION", kind: ErrNotOwner},
		{name: "a fact of its daemon", typ: "PROMOTION_REJECTED", by: "AUTO_PROMOTION", kind: ErrInvalid, field: "config_key"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			if tc.by == "" {
				tc.by = ByExternal
			}
			d, err := Catalogue().Prepare(Draft{Type: Type(tc.typ), Node: someNode, Payload: json.RawMessage(tc.payload)}, tc.by)
			if tc.kind != nil {
				var p *ProblemError
				if !errors.As(err, &p) || !errors.Is(err, tc.kind) || p.Field != tc.field {
					t.Fatalf("err = %v, want %v about %q", err, tc.kind, tc.field)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, string(d.Payload)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestTypedPayloads(t *testing.T) {
	t.Parallel()
	want := Promotion{Version: 1, Digest: someDigest, Elo: 1234.5}
	want.NodeID, want.Config = someNode, "connect4_2p"
	d, err := ModelPromoted.Draft(someNode, want)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(d.Payload), `"previous_sha256":null`) || !strings.Contains(string(d.Payload), `"elo_delta":null`) {
		t.Errorf("nullable fields are to be written: %s", d.Payload)
	}
	got, err := ModelPromoted.Read(Record{Draft: d})
	if err != nil || !cmp.Equal(want, got) {
		t.Fatal(err, cmp.Diff(want, got))
	}
	if _, err := EloUpdated.Read(Record{Draft: d}); err == nil {
		t.Error("a payload was read as another type")
	}
	want.NodeID = ""
	var p *ProblemError
	if _, err := ModelPromoted.Make(want); !errors.As(err, &p) || p.Field != "node_id" {
		t.Errorf("without node_id: %v", err)
	}
	list, err := DataSyncCompleted.Make(SyncDone{Subject: Subject{someNode}, Targets: nil})
	if err != nil || !strings.Contains(string(list), `"targets":[]`) {
		t.Errorf("an empty list: %s, %v", list, err)
	}
}

func TestLineSurvivesHostilePayload(t *testing.T) {
	t.Parallel()
	for _, p := range []string{"", `{"a":1}`, `{"a":`, "\x00\xff"} {
		b, err := json.Marshal(Record{Seq: 4, Origin: "o", Number: 2, Draft: Draft{Type: "X", Payload: json.RawMessage(p)}}.Line())
		if err != nil || !json.Valid(b) || !strings.Contains(string(b), `"id":"o-2"`) {
			t.Errorf("%q: %s, %v", p, b, err)
		}
	}
}

// An event of the year 294247 must not end every tail at it, and is refused before it gets its place.
func TestTimeOfNoYear(t *testing.T) {
	t.Parallel()
	for _, us := range []int64{math.MaxInt64, math.MinInt64, 253402300800e6, 253402300799e6, 0} {
		d := Draft{Type: "OPERATOR_NOTE", Node: "00112233445566aa", Time: time.UnixMicro(us), Payload: json.RawMessage(`{"node_id":"00112233445566aa","text":"x"}`)}
		good := us == 0 || us == 253402300799e6
		if err := Catalogue().Vet(d.Encode()); (err == nil) != good || Catalogue().settled(d.Encode()) != good {
			t.Errorf("%d µs: %v", us, err)
		}
		rec, err := DecodeRecord(Record{Seq: 1, Origin: "o", Number: 1, Draft: d}.Encode())
		if err != nil {
			t.Fatal(err)
		}
		line := rec.Line()
		if _, err := json.Marshal(line); err != nil || good && !line.Time.Equal(d.Time) {
			t.Errorf("%d µs is written as %v: %v", us, line.Time, err)
		}
	}
}

func TestRecordCodec(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		r := Record{
			Seq: rapid.Uint64().Draw(t, "seq"), Origin: Origin(rapid.String().Draw(t, "origin")),
			Number: rapid.Uint64().Draw(t, "number"), Marks: rapid.Byte().Draw(t, "marks"),
			Draft: Draft{
				Type: Type(rapid.String().Draw(t, "type")), Node: id.Node(rapid.String().Draw(t, "node")),
				Daemon: rapid.String().Draw(t, "daemon"), Epoch: id.Epoch(rapid.Uint64().Draw(t, "epoch")),
				Time:  time.UnixMicro(rapid.Int64Range(-1<<50, 1<<50).Draw(t, "time")).UTC(),
				Cause: rapid.String().Draw(t, "cause"), Payload: rapid.SliceOfN(rapid.Byte(), 1, 64).Draw(t, "payload"),
			},
		}
		b := r.Encode()
		got, err := DecodeRecord(b)
		if err != nil || !cmp.Equal(r, got) {
			t.Fatal(err, cmp.Diff(r, got))
		}
		if _, err := DecodeRecord(b[:rapid.IntRange(0, len(b)-1).Draw(t, "cut")]); err == nil {
			t.Fatal("a cut record was read")
		}
	})
}

func FuzzDecodeRecord(f *testing.F) {
	f.Add(Record{Seq: 1, Origin: "o", Number: 1, Draft: Draft{Type: "X"}}.Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := DecodeRecord(b); err == nil {
			again, err := DecodeRecord(r.Encode())
			if err != nil || !cmp.Equal(r, again) {
				t.Fatal(err, cmp.Diff(r, again))
			}
		}
	})
}
