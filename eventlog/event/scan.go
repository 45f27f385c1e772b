package event

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"math/bits"
	"slices"
	"strings"

	"github.com/ringagent/ringagent/internal/id"
)

// Every event is checked by its publisher, by the coordinator and by every voter's state machine. The scanner below does
// that in a fraction of the time that encoding/json takes. It only ever says yes to what encoding/json says yes to: where
// it does not know, that one is asked.

// ValidJSON says the same as json.Valid.
func ValidJSON(b []byte) bool {
	s := scanner{b: b}
	s.space()
	if s.value(0) {
		s.space()
		if s.i == len(b) {
			return true
		}
	}
	return json.Valid(b)
}

// scanner walks over JSON. Its methods return false where it is not JSON, or too deep to be worth it.
type scanner struct {
	b      []byte
	i      int
	spaced bool // there is white space between the tokens
}

const deepest = 64

func (s *scanner) space() {
	for s.i < len(s.b) {
		switch s.b[s.i] {
		case ' ', '\t', '\r', '\n':
			s.spaced = true
			s.i++
		default:
			return
		}
	}
}

// eat takes c.
func (s *scanner) eat(c byte) bool {
	if s.i < len(s.b) && s.b[s.i] == c {
		s.i++
		return true
	}
	return false
}

func (s *scanner) value(depth int) bool {
	if s.i >= len(s.b) || depth > deepest {
		return false
	}
	switch c := s.b[s.i]; c {
	case '"':
		_, ok := s.text()
		return ok
	case '{':
		return s.object(depth, nil)
	case '[':
		s.i++
		s.space()
		if s.eat(']') {
			return true
		}
		for {
			if !s.value(depth + 1) {
				return false
			}
			s.space()
			if s.eat(']') {
				return true
			}
			if !s.eat(',') {
				return false
			}
			s.space()
		}
	case 't':
		return s.word("true")
	case 'f':
		return s.word("false")
	case 'n':
		return s.word("null")
	default:
		return s.number()
	}
}

// object walks over an object and tells each member's key, without quotes, and value.
func (s *scanner) object(depth int, each func(key, value []byte) bool) bool {
	if !s.eat('{') {
		return false
	}
	s.space()
	if s.eat('}') {
		return true
	}
	for {
		key, ok := s.text()
		if !ok {
			return false
		}
		s.space()
		if !s.eat(':') {
			return false
		}
		s.space()
		from := s.i
		if !s.value(depth + 1) {
			return false
		}
		if each != nil && !each(key, s.b[from:s.i:s.i]) {
			return false
		}
		s.space()
		if s.eat('}') {
			return true
		}
		if !s.eat(',') {
			return false
		}
		s.space()
	}
}

func (s *scanner) word(w string) bool {
	if len(s.b)-s.i < len(w) || string(s.b[s.i:s.i+len(w)]) != w {
		return false
	}
	s.i += len(w)
	return true
}

const (
	ones = 0x0101010101010101
	tops = 0x8080808080808080
)

// ends marks, of eight bytes, the first one that is a quote, a backslash or a control character, and perhaps later ones. It
// is 0 if there is none. c^2 is below 0x21 for a quote and for control characters, and for nothing else.
func ends(w uint64) uint64 {
	quote, slash := w^ones*2, w^ones*'\\'
	return ((quote - ones*0x21) | (slash - ones)) &^ w & tops
}

// common is how many bytes there are before the first that ends marks; len(b) if there is none.
func common(b []byte) int {
	i := 0
	for ; i+16 <= len(b); i += 16 { // two words at once take little longer than one
		two := b[i : i+16 : i+16]
		if ends(binary.LittleEndian.Uint64(two))|ends(binary.LittleEndian.Uint64(two[8:])) != 0 {
			break
		}
	}
	for ; i+8 <= len(b); i += 8 {
		if found := ends(binary.LittleEndian.Uint64(b[i:])); found != 0 {
			return i + bits.TrailingZeros64(found)/8
		}
	}
	for i < len(b) && b[i] >= 0x20 && b[i] != '"' && b[i] != '\\' {
		i++
	}
	return i
}

// text walks over a string and returns what is between its quotes, as it stands.
func (s *scanner) text() (inside []byte, ok bool) {
	if !s.eat('"') {
		return nil, false
	}
	from := s.i
	for {
		s.i += common(s.b[s.i:])
		if s.i == len(s.b) {
			return nil, false
		}
		s.i++
		switch s.b[s.i-1] {
		case '"':
			return s.b[from : s.i-1], true
		case '\\':
			if !s.escape() {
				return nil, false
			}
		default: // a control character
			return nil, false
		}
	}
}

// escape walks over what follows a backslash.
func (s *scanner) escape() bool {
	if s.i >= len(s.b) {
		return false
	}
	c := s.b[s.i]
	s.i++
	if c != 'u' {
		return strings.IndexByte(`"\/bfnrt`, c) >= 0
	}
	if len(s.b)-s.i < 4 {
		return false
	}
	for _, c := range s.b[s.i : s.i+4] {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') && (c < 'A' || c > 'F') {
			return false
		}
	}
	s.i += 4
	return true
}

func (s *scanner) number() bool {
	s.eat('-')
	if !s.eat('0') && !s.digits() {
		return false
	}
	if s.eat('.') && !s.digits() {
		return false
	}
	if s.eat('e') || s.eat('E') {
		if !s.eat('+') {
			s.eat('-')
		}
		return s.digits()
	}
	return true
}

// digits takes at least one.
func (s *scanner) digits() bool {
	from := s.i
	for s.i < len(s.b) && s.b[s.i] >= '0' && s.b[s.i] <= '9' {
		s.i++
	}
	return s.i > from
}

// member is one of an object's.
type member struct {
	key   []byte
	value json.RawMessage
}

// mostMembers are looked at one by one.
const mostMembers = 24

// quick is normalise for the payloads that nearly all publishers state: one object in our own names, without white space
// between its tokens, nothing wrong with it. ok is false for all others. out is payload itself if nothing is to be added.
func (s *schema) quick(payload json.RawMessage, node id.Node) (out json.RawMessage, ok bool) {
	var room [mostMembers]member
	given, ok := s.members(room[:0], payload)
	if !ok {
		return nil, false
	}
	all := given
	for i := range s.checks {
		c := &s.checks[i]
		at := find(given, c.name)
		switch {
		case at >= 0 && string(given[at].value) != "null":
			if c.wrong(given[at].value) != "" {
				return nil, false
			}
		case at >= 0 && c.nullable:
		case at >= 0 || c.name == "config_key" || len(all) == mostMembers:
			return nil, false
		case c.name == "node_id" && node != "":
			all = append(all, member{c.key, quote(string(node))})
		case c.required:
			return nil, false
		case c.nullable:
			all = append(all, member{c.key, json.RawMessage("null")})
		}
	}
	if len(all) == len(given) {
		return payload, true
	}
	if !unescaped(payload) {
		return nil, false
	}
	return object(all), true
}

// members appends those of payload to all, if it is an object of the kind that quick knows.
func (s *schema) members(all []member, payload []byte) ([]member, bool) {
	scan := scanner{b: payload}
	ok := scan.object(0, func(key, value []byte) bool {
		if len(all) == mostMembers || !plain(key) || find(all, string(key)) >= 0 {
			return false
		}
		_, old := s.aliases[string(key)]
		all = append(all, member{key, value})
		return !old
	})
	return all, ok && !scan.spaced && scan.i == len(payload)
}

func find(all []member, key string) int {
	for i := range all {
		if string(all[i].key) == key {
			return i
		}
	}
	return -1
}

// object writes members as json.Marshal writes a map of them: sorted by key.
func object(all []member) json.RawMessage {
	slices.SortFunc(all, func(a, b member) int { return bytes.Compare(a.key, b.key) })
	size := 2
	for _, m := range all {
		size += len(m.key) + len(m.value) + 4
	}
	out := append(make([]byte, 0, size), '{')
	for i, m := range all {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(append(append(out, '"'), m.key...), '"', ':')
		out = append(out, m.value...)
	}
	return append(out, '}')
}

// plain says that a text reads the same inside and outside of JSON.
func plain(text []byte) bool {
	for _, c := range text {
		if c < 0x20 || c >= 0x80 || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			return false
		}
	}
	return true
}

// unescaped says that json.Marshal would write the bytes as they are, and not escape some for the sake of HTML.
func unescaped(b []byte) bool {
	for _, c := range [...]byte{'<', '>', '&', 0xe2} { // 0xe2 begins the two line separators that it escapes, too
		if bytes.IndexByte(b, c) >= 0 {
			return false
		}
	}
	return true
}
