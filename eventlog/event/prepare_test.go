package event

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ringagent/ringagent/internal/id"
)

// slowVet is Vet by preparing.
func slowVet(draft []byte) error {
	d, err := DecodeDraft(draft)
	if err != nil {
		return err
	}
	by := ByExternal
	if def, ok := Catalogue().Lookup(string(d.Type)); ok && len(def.Owners) > 0 {
		by = def.Owners[0]
	}
	_, err = Catalogue().Prepare(d, by)
	return err
}

// anyDraft draws the bytes of a draft of any type that is right, or nearly.
func anyDraft(t *rapid.T) []byte {
	types := slices.Sorted(maps.Keys(Catalogue().schema))
	s := Catalogue().schema[rapid.SampledFrom(types).Draw(t, "type")]
	var items []string
	for _, c := range s.checks {
		switch rapid.IntRange(0, 19).Draw(t, c.name) {
		case 0:
		case 1:
			items = append(items, fmt.Sprintf("%q:%s", c.name, anyJSON(t, 1)))
		default:
			items = append(items, fmt.Sprintf("%q:%s", c.name, sample(c)))
		}
	}
	if rapid.IntRange(0, 3).Draw(t, "more") == 0 {
		items = append(items, fmt.Sprintf(`"more":%s`, anyJSON(t, 2)))
	}
	payload := "{" + strings.Join(items, ",") + "}"
	if rapid.IntRange(0, 9).Draw(t, "long") == 0 {
		payload = strings.TrimSuffix(payload, "}") + `,"long":"` + strings.Repeat(rapid.SampledFrom([]string{"x", "<"}).Draw(t, "letter"), rapid.SampledFrom([]int{MaxPayload - len(payload) - 10, MaxPayload / 6, MaxPayload}).Draw(t, "size")) + `"}`
	}
	if rapid.IntRange(0, 3).Draw(t, "odd") == 0 {
		payload = spoil(t, payload)
	}
	typ := rapid.SampledFrom([]Type{s.def.Type, s.def.Type, s.def.Type, Type(s.def.Wire), Type(" " + s.def.Type), "NO_SUCH", ""}).Draw(t, "name")
	b := AppendDraft(nil, Draft{
		Type: typ, Node: rapid.SampledFrom([]id.Node{"", someNode}).Draw(t, "node"), Epoch: 7, Time: time.UnixMicro(9), Payload: json.RawMessage(payload),
		Daemon: strings.Repeat("D", rapid.SampledFrom([]int{1, 1, 1, MaxDaemon, MaxDaemon + 1}).Draw(t, "daemon")),
		Cause:  strings.Repeat("c", rapid.SampledFrom([]int{0, 0, 0, MaxCause, MaxCause + 1}).Draw(t, "cause")),
	})
	if rapid.IntRange(0, 9).Draw(t, "torn") == 0 {
		b = []byte(spoil(t, string(b)))
	}
	return b
}

// TestVetSaysWhatPrepareSays, in the same words.
func TestVetSaysWhatPrepareSays(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		b := anyDraft(t)
		got, want := Catalogue().Vet(b), slowVet(b)
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("%q: %v, want %v", b, got, want)
		}
		if Catalogue().settled(b) && want != nil {
			t.Fatalf("%q is held for settled: %v", b, want)
		}
	})
}

func TestVet(t *testing.T) {
	t.Parallel()
	for _, s := range Catalogue().schema {
		var items []string
		for _, c := range s.checks {
			items = append(items, fmt.Sprintf("%q:%s", c.name, sample(c)))
		}
		b := Draft{Type: s.def.Type, Node: someNode, Payload: json.RawMessage("{" + strings.Join(items, ",") + "}")}.Encode()
		if err := Catalogue().Vet(b); err != nil || !Catalogue().settled(b) {
			t.Errorf("%s: %v, settled: %v", b, err, Catalogue().settled(b))
		}
		if err := Catalogue().Vet(b[:len(b)-1]); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s, cut: %v", b, err)
		}
	}
	const frame = `{"node_id":"00112233445566aa","text":""}`
	for _, more := range []int{0, 1} {
		b := Draft{Type: "OPERATOR_NOTE", Payload: json.RawMessage(strings.Replace(frame, `""`, `"`+strings.Repeat("x", MaxPayload-len(frame)+more)+`"`, 1))}.Encode()
		if err := Catalogue().Vet(b); errors.Is(err, ErrInvalid) != (more > 0) {
			t.Errorf("%d bytes over the limit: %v", more, err)
		}
		text := json.RawMessage(strings.Replace(frame, `""`, `"x"`, 1))
		if err := Catalogue().Vet(Draft{Type: "OPERATOR_NOTE", Payload: text, Cause: strings.Repeat("x", MaxCause+more)}.Encode()); errors.Is(err, ErrInvalid) != (more > 0) {
			t.Errorf("cause %d bytes over the limit: %v", more, err)
		}
		if err := Catalogue().Vet(Draft{Type: "OPERATOR_NOTE", Payload: text, Daemon: strings.Repeat("x", MaxDaemon+more)}.Encode()); errors.Is(err, ErrInvalid) != (more > 0) {
			t.Errorf("daemon %d bytes over the limit: %v", more, err)
		}
	}
}

func BenchmarkVet(b *testing.B) {
	draft := Draft{Type: "OPERATOR_NOTE", Node: someNode, Daemon: "AUTO_SYNC", Time: time.UnixMicro(9),
		Payload: json.RawMessage(`{"node_id":"0123456789abcdef","text":"` + strings.Repeat("x", 470) + `"}`)}.Encode()
	b.ReportAllocs()
	for b.Loop() {
		if err := Catalogue().Vet(draft); err != nil {
			b.Fatal(err)
		}
	}
}
