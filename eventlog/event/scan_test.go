package event

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/ringagent/ringagent/internal/id"
)

// anyJSON draws JSON of few levels, with white space, escapes and odd bytes here and there.
func anyJSON(t *rapid.T, depth int) string {
	space := rapid.SampledFrom([]string{"", "", "", "", " ", "\n\t"}).Draw(t, "space")
	most := 6
	if depth <= 0 {
		most = 4
	}
	switch rapid.IntRange(0, most).Draw(t, "kind") {
	case 0:
		return rapid.SampledFrom([]string{"null", "true", "false"}).Draw(t, "word")
	case 1:
		return rapid.SampledFrom([]string{"0", "-0", "1.5", "-12e+3", "1E9", "3", "-1", "18446744073709551615"}).Draw(t, "number")
	case 2, 3, 4:
		return `"` + strings.Join(rapid.SliceOfN(rapid.SampledFrom([]string{"a", "long enough for a word", `\"`, `\\`, `\u00e9`, "é", "<", "&", "\u2028", "\xff", "x"}), 0, 6).Draw(t, "text"), "") + `"`
	case 5:
		var items []string
		for range rapid.IntRange(0, 3).Draw(t, "items") {
			items = append(items, space+anyJSON(t, depth-1)+space)
		}
		return "[" + strings.Join(items, ",") + "]"
	}
	return anyObject(t, depth, []string{"a", "b", "a", "é", `\u0061`, "<"})
}

func anyObject(t *rapid.T, depth int, keys []string) string {
	space := rapid.SampledFrom([]string{"", "", "", "", "", " "}).Draw(t, "space")
	var items []string
	for range rapid.IntRange(0, 5).Draw(t, "members") {
		key := rapid.SampledFrom(keys).Draw(t, "key")
		items = append(items, space+`"`+key+`":`+space+anyJSON(t, depth-1)+space)
	}
	return space + "{" + strings.Join(items, ",") + "}" + space
}

// spoil changes some bytes of a text, or none.
func spoil(t *rapid.T, s string) string {
	b := []byte(s)
	for range rapid.SampledFrom([]int{0, 0, 1, 1, 2}).Draw(t, "spoilt") {
		if len(b) == 0 {
			break
		}
		i := rapid.IntRange(0, len(b)-1).Draw(t, "at")
		switch rapid.IntRange(0, 2).Draw(t, "how") {
		case 0:
			b[i] = rapid.SampledFrom([]byte("\"\\{}[],:0-e.u \x00\x1f\x7f\x80t")).Draw(t, "byte")
		case 1:
			b = slices.Delete(b, i, i+1)
		default:
			b = b[:i]
		}
	}
	return string(b)
}

func TestValidJSONSaysWhatTheStandardLibrarySays(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := spoil(t, anyJSON(t, 3))
		if got, want := ValidJSON([]byte(s)), json.Valid([]byte(s)); got != want {
			t.Fatalf("ValidJSON(%q) = %v, json.Valid says %v", s, got, want)
		}
		// Also where it does not ask the library.
		scan := scanner{b: []byte(s)}
		scan.space()
		if scan.value(0) {
			if scan.space(); scan.i == len(s) && !json.Valid([]byte(s)) {
				t.Fatalf("the scanner takes %q for JSON", s)
			}
		}
	})
}

// TestCommonFindsTheFirstByteThatEndsARun looks for every byte at every place of a run, among bytes that are near to those
// that end one.
func TestCommonFindsTheFirstByteThatEndsARun(t *testing.T) {
	t.Parallel()
	slow := func(b []byte) int {
		if i := slices.IndexFunc(b, func(c byte) bool { return c < 0x20 || c == '"' || c == '\\' }); i >= 0 {
			return i
		}
		return len(b)
	}
	for size := range 40 {
		for _, other := range []byte{'x', ' ', '!', '#', '[', ']', 0x7f, 0x80, 0xa2, 0xdc, 0xff, '"'} {
			b := bytes.Repeat([]byte{other}, size)
			for at := range b {
				for c := range 256 {
					b[at] = byte(c)
					if got, want := common(b), slow(b); got != want {
						t.Fatalf("common(%q) = %d, want %d", b, got, want)
					}
				}
				b[at] = other
			}
		}
	}
}

func FuzzValidJSON(f *testing.F) {
	for _, s := range []string{`{"a":[1,2.5e3,"\u00e9"]}`, `"`, `-`, `01`, `1.`, "\"\x1f\"", `[`, `{"a"}`, `nul`, `"\u12"`, `"12345678\"`, `{"":0}`, " 1 "} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if ValidJSON(b) != json.Valid(b) {
			t.Fatalf("%q", b)
		}
		s := scanner{b: b}
		if s.value(0) && s.i == len(b) && !json.Valid(b) {
			t.Fatalf("the scanner takes %q for JSON", b)
		}
	})
}

// TestQuickAgreesWithThorough: what the quick way lets pass, the thorough way makes the same of.
func TestQuickAgreesWithThorough(t *testing.T) {
	t.Parallel()
	types := slices.Sorted(maps.Keys(Catalogue().schema))
	taken := 0
	rapid.Check(t, func(t *rapid.T) {
		s := Catalogue().schema[rapid.SampledFrom(types).Draw(t, "type")]
		keys := []string{"extra", "z<", "é"}
		for _, c := range s.checks {
			keys = append(keys, c.name)
		}
		for old := range s.aliases {
			keys = append(keys, old)
		}
		slices.Sort(keys)
		payload := anyObject(t, 2, keys)
		if rapid.IntRange(0, 2).Draw(t, "full") > 0 { // one that is right as far as can be told without knowing the type
			var items []string
			for _, c := range s.checks {
				if !rapid.Bool().Draw(t, "has") && !c.required {
					continue
				}
				items = append(items, fmt.Sprintf("%q:%s", c.name, sample(c)))
			}
			items = append(items, fmt.Sprintf(`"extra":%s`, anyJSON(t, 2)))
			payload = "{" + strings.Join(items, ",") + "}"
		}
		payload = spoil(t, payload)
		node := rapid.SampledFrom([]id.Node{"", "0123456789abcdef"}).Draw(t, "node")
		got, ok := s.quick(json.RawMessage(payload), node)
		if !ok {
			return
		}
		taken++
		want, err := s.thorough(json.RawMessage(payload), node)
		if err != nil {
			t.Fatalf("quick takes %s for a %s: %v", payload, s.def.Type, err)
		}
		if diff := cmp.Diff(string(want), string(got)); diff != "" {
			t.Fatalf("%s of %s (-thorough +quick):\n%s", payload, s.def.Type, diff)
		}
	})
	if taken == 0 {
		t.Fatal("the quick way was never taken")
	}
}

// TestRightAgreesWithDecoding: what is let pass undecoded has nothing wrong with it.
func TestRightAgreesWithDecoding(t *testing.T) {
	t.Parallel()
	var checks []check
	for _, s := range Catalogue().schema {
		for _, c := range s.checks {
			if !slices.ContainsFunc(checks, func(o check) bool { return o.typ == c.typ && o.required == c.required }) {
				checks = append(checks, c)
			}
		}
	}
	slices.SortFunc(checks, func(a, b check) int {
		return strings.Compare(fmt.Sprint(a.typ, a.required), fmt.Sprint(b.typ, b.required))
	})
	for _, c := range checks {
		if want := typeName(c.typ) != "object"; right(c.typ, []byte(sample(c))) != want {
			t.Errorf("%s as a %s %s: want %v", sample(c), typeName(c.typ), c.typ, want)
		}
	}
	odd := []string{`""`, `"a_b_2p"`, `"a__b_2p"`, `"_2p"`, `"a2p"`, `"a_0p"`, `"\u0061_2p"`, `["a",""]`, `[]`, `["a",null]`, `["a",7]`, `[7]`,
		`999999999999999999`, `9999999999999999999`, `99999999999999999999`, `1e999`, `0.000000000000001`, `1.5`, `-0`, `-1`, `[null]`, `{}`}
	agree := func(t rapid.TB, c check, raw json.RawMessage) {
		if !right(c.typ, raw) {
			return
		}
		if detail := c.decode(raw); detail != "" {
			t.Fatalf("%s is let pass as a %s: %s", raw, typeName(c.typ), detail)
		}
	}
	for _, c := range checks {
		for _, raw := range odd {
			agree(t, c, json.RawMessage(raw))
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		c := rapid.SampledFrom(checks).Draw(t, "member")
		raw := json.RawMessage(spoil(t, rapid.OneOf(
			rapid.Just(sample(c)), rapid.Custom(func(t *rapid.T) string { return anyJSON(t, 1) }), rapid.SampledFrom(odd),
			rapid.StringMatching(`[0-9]{1,22}|-?[0-9]{1,12}\.[0-9]{1,12}(e[0-9]{1,4})?|"[a-z_0-9]{1,6}_[0-9]p"|"[0-9a-fA-F]{63,65}"|\["[a-z]*"(,"[a-z]*"){0,3}\]`),
		).Draw(t, "value")))
		if json.Valid(raw) && string(raw) != "null" && string(raw) == strings.TrimSpace(string(raw)) {
			agree(t, c, raw)
		}
	})
}

func TestQuickEscapesWhatTheStandardLibraryEscapes(t *testing.T) {
	t.Parallel()
	s := Catalogue().schema["OPERATOR_NOTE"]
	for _, text := range []string{"x", "<", ">", "&", "\u2028", "\u2029", "é", "€", "\x7f", `\u003c`, "\xff"} {
		payload := json.RawMessage(`{"text":"` + text + `"}`)
		want, err := s.thorough(payload, someNode)
		if got, ok := s.quick(payload, someNode); err != nil || ok && string(got) != string(want) {
			t.Errorf("%s: %s, want %s, %v", payload, got, want, err)
		}
	}
}

func TestDigestsAndConfigsAreToldByTheirBytes(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.OneOf(
			rapid.StringMatching(`[a-c0-2_]{0,6}_?[0-9]?p?`), rapid.StringMatching(`[0-9a-f]{63,65}`), rapid.StringN(0, 8, 16),
		).Draw(t, "text")
		s = spoil(t, s)
		if _, err := id.ParseConfig(s); isConfig([]byte(s)) != (err == nil) {
			t.Fatalf("config %q: %v", s, err)
		}
		if _, err := id.ParseDigest(s); isDigest([]byte(s)) != (err == nil) {
			t.Fatalf("digest %q: %v", s, err)
		}
	})
}

// sample is a value that is right for a member.
func sample(c check) string {
	switch c.typ {
	case digestType:
		return `"` + strings.Repeat("ab", 32) + `"`
	case configType:
		return `"connect4_2p"`
	case rawType:
		return `{"a":1}`
	}
	switch typeName(c.typ) {
	case "boolean":
		return "true"
	case "number", "integer":
		return "7"
	case "list":
		return "[]"
	case "object":
		return "{}"
	}
	return `"word"`
}

func BenchmarkPrepare(b *testing.B) {
	for _, d := range []struct {
		name string
		typ  Type
		json string
	}{
		{"note", "OPERATOR_NOTE", `{"text":"` + strings.Repeat("x", 500) + `"}`},
		{"settled", "OPERATOR_NOTE", `{"node_id":"0123456789abcdef","text":"` + strings.Repeat("x", 470) + `"}`},
		{"sync", "DATA_SYNC_COMPLETED", `{"node_id":"0123456789abcdef","config_key":"connect4_2p","games":200,"bytes":123456,"targets":["0123456789abcdef"]}`},
	} {
		b.Run(d.name, func(b *testing.B) {
			draft := Draft{Type: d.typ, Node: "0123456789abcdef", Payload: json.RawMessage(d.json)}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Catalogue().Prepare(draft, ByExternal); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkValidJSON(b *testing.B) {
	p := []byte(`{"node_id":"0123456789abcdef","text":"` + strings.Repeat("x", 470) + `"}`)
	for b.Loop() {
		if !ValidJSON(p) {
			b.Fatal("not valid")
		}
	}
}
