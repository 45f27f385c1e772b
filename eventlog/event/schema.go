package event

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/ringagent/ringagent/internal/id"
)

// Field is one member of an event's payload.
type Field struct {
	Name     string `json:"name"`
	Type     string `json:"type"`     // string integer number boolean sha256 config node list object any; "|null" if it may be null
	Required bool   `json:"required"` // false: may be left out
	Unit     string `json:"unit"`
}

// Errors of publishing. They come wrapped in a *ProblemError that names the event and the field.
var (
	ErrUnregistered = errors.New("unregistered event type")
	ErrInvalid      = errors.New("invalid payload")
	ErrNotOwner     = errors.New("only its owner may state this event")
)

// ProblemError says what is wrong with an event that somebody wants to publish.
type ProblemError struct {
	Type   string // as given
	Field  string // "" when it is not about one field
	Detail string
	Kind   error // ErrUnregistered, ErrInvalid or ErrNotOwner
}

func (e *ProblemError) Error() string {
	if e.Field != "" {
		return fmt.Sprintf("event %s: %s: field %q: %s", e.Type, e.Kind, e.Field, e.Detail)
	}
	return fmt.Sprintf("event %s: %s: %s", e.Type, e.Kind, e.Detail)
}

// Unwrap gives the kind of problem to errors.Is.
func (e *ProblemError) Unwrap() error { return e.Kind }

// schema is a definition with what is needed to check payloads against it.
type schema struct {
	def     Definition
	checks  []check
	aliases map[string]string // old field name to ours
}

type check struct {
	name     string
	key      []byte // is name
	typ      reflect.Type
	required bool
	nullable bool
}

// entry is one line of the catalogue.
type entry interface{ schema() *schema }

// Kind ties an event type to the Go type of its payload. Values are made by this package only.
type Kind[P any] struct{ s *schema }

func (k Kind[P]) schema() *schema { return k.s }

// Type is the canonical name.
func (k Kind[P]) Type() Type { return k.s.def.Type }

// Definition describes the type.
func (k Kind[P]) Definition() Definition { return k.s.def }

// Make encodes p. It fails with a *ProblemError naming the field when a required one is empty or one is wrong.
func (k Kind[P]) Make(p P) (json.RawMessage, error) {
	fillLists(reflect.ValueOf(&p).Elem())
	b, err := json.Marshal(p)
	if err != nil {
		return nil, &ProblemError{Type: string(k.Type()), Detail: err.Error(), Kind: ErrInvalid}
	}
	return k.s.normalise(b, "")
}

// fillLists makes nil lists and maps of a payload empty, so that they are written as such and not as null.
func fillLists(v reflect.Value) {
	for i := range v.NumField() {
		switch f := v.Field(i); {
		case f.Kind() == reflect.Struct:
			fillLists(f)
		case f.Kind() == reflect.Slice && f.IsNil() && f.Type() != reflect.TypeFor[json.RawMessage]():
			f.Set(reflect.MakeSlice(f.Type(), 0, 0))
		case f.Kind() == reflect.Map && f.IsNil():
			f.Set(reflect.MakeMap(f.Type()))
		}
	}
}

// Draft is Make put into an envelope without time, daemon and epoch, which its publisher adds.
func (k Kind[P]) Draft(node id.Node, p P) (Draft, error) {
	b, err := k.Make(p)
	if err != nil {
		return Draft{}, err
	}
	return Draft{Type: k.Type(), Node: node, Payload: b}, nil
}

// Read decodes the payload of r, which must be of this type. Fields that this binary does not know are ignored.
func (k Kind[P]) Read(r Record) (P, error) {
	var p P
	if r.Type != k.Type() {
		return p, fmt.Errorf("read event %s: it is a %s, not a %s", r.ID(), r.Type, k.Type())
	}
	if err := json.Unmarshal(r.Payload, &p); err != nil {
		return p, fmt.Errorf("read event %s %s: %w", r.ID(), r.Type, err)
	}
	return p, nil
}

// define describes a type by the struct of its payload: json tags name the fields, omitempty marks those that may be left
// out, a pointer one that may be null, the unit tag gives the unit and the was tag the old names. Further old names are given
// as "old=new".
func define[P any](d Definition, olds ...string) Kind[P] {
	if d.Wire == "" {
		d.Wire = strings.ToLower(string(d.Type))
	}
	s := &schema{aliases: map[string]string{}}
	s.add(reflect.TypeFor[P](), &d)
	s.def = d
	for _, o := range olds {
		old, now, _ := strings.Cut(o, "=")
		s.aliases[old] = now
	}
	return Kind[P]{s}
}

func (s *schema) add(t reflect.Type, d *Definition) {
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Anonymous {
			s.add(f.Type, d)
			continue
		}
		name, opts, _ := strings.Cut(f.Tag.Get("json"), ",")
		c := check{name: name, key: []byte(name), typ: f.Type, required: !strings.Contains(opts, "omitempty")}
		kind := c.typ
		if kind.Kind() == reflect.Pointer {
			c.nullable, c.required, kind = true, false, kind.Elem()
		}
		c.typ = kind
		s.checks = append(s.checks, c)
		label := typeName(kind)
		if c.nullable {
			label += "|null"
		}
		d.Fields = append(d.Fields, Field{Name: name, Type: label, Required: c.required, Unit: f.Tag.Get("unit")})
		for old := range strings.FieldsSeq(f.Tag.Get("was")) {
			s.aliases[old] = name
		}
	}
}

// Types of fields that mean more than their kind.
var (
	digestType = reflect.TypeFor[id.Digest]()
	configType = reflect.TypeFor[id.Config]()
	nodeType   = reflect.TypeFor[id.Node]()
	rawType    = reflect.TypeFor[json.RawMessage]()
)

func typeName(t reflect.Type) string {
	switch t {
	case digestType:
		return "sha256"
	case configType:
		return "config"
	case nodeType:
		return "node"
	case rawType:
		return "any"
	}
	switch t.Kind() {
	case reflect.Bool:
		return "boolean"
	case reflect.Float64:
		return "number"
	case reflect.Int, reflect.Int64, reflect.Uint64:
		return "integer"
	case reflect.Slice:
		return "list"
	case reflect.Map, reflect.Struct:
		return "object"
	}
	return "string"
}

// normalise checks a payload and brings it into our own names: old field names are renamed, node_id is filled in when it
// is missing and node is known, config_key is put together from the old pair of fields, nullable fields that are left out
// become null. Unknown fields are kept.
func (s *schema) normalise(payload json.RawMessage, node id.Node) (json.RawMessage, error) {
	if len(payload) > MaxPayload {
		return nil, s.wrong("", fmt.Sprintf("%d bytes, the limit is %d; put larger things into an artifact", len(payload), MaxPayload))
	}
	if out, ok := s.quick(payload, node); ok && len(out) <= MaxPayload {
		return out, nil
	}
	return s.thorough(payload, node)
}

// thorough is normalise for every payload.
func (s *schema) thorough(payload json.RawMessage, node id.Node) (json.RawMessage, error) {
	members := map[string]json.RawMessage{}
	if len(bytes.TrimSpace(payload)) > 0 {
		if err := json.Unmarshal(payload, &members); err != nil || members == nil {
			return nil, s.wrong("", "the payload is not a JSON object")
		}
	}
	changed := s.rename(members)
	for _, c := range s.checks {
		raw, ok := members[c.name]
		if missing := !ok || string(raw) == "null"; missing {
			switch {
			case c.name == "node_id" && node != "":
				members[c.name], changed = quote(string(node)), true
			case c.required:
				return nil, s.wrong(c.name, "is missing")
			case ok && !c.nullable:
				delete(members, c.name)
				changed = true
			case !ok && c.nullable:
				members[c.name], changed = json.RawMessage("null"), true
			}
			continue
		}
		if detail := c.wrong(raw); detail != "" {
			return nil, s.wrong(c.name, detail)
		}
	}
	var out []byte
	if changed || len(payload) == 0 {
		b, err := json.Marshal(members)
		if err != nil {
			return nil, s.wrong("", err.Error())
		}
		out = b
	} else if !bytes.ContainsAny(payload, " \t\r\n") {
		out = bytes.Clone(payload)
	} else {
		var buf bytes.Buffer
		if err := json.Compact(&buf, payload); err != nil {
			return nil, s.wrong("", err.Error())
		}
		out = buf.Bytes()
	}
	if len(out) > MaxPayload {
		return nil, s.wrong("", fmt.Sprintf("%d bytes, the limit is %d; put larger things into an artifact", len(out), MaxPayload))
	}
	return out, nil
}

func (s *schema) rename(members map[string]json.RawMessage) (changed bool) {
	for old, now := range s.aliases {
		raw, has := members[old]
		if !has {
			continue
		}
		if _, both := members[now]; !both {
			members[now] = raw
		}
		delete(members, old)
		changed = true
	}
	if _, has := members["config_key"]; !has && s.has("config_key") {
		var board string
		var players int
		if json.Unmarshal(members["board_type"], &board) == nil && json.Unmarshal(members["num_players"], &players) == nil && board != "" {
			members["config_key"], changed = quote(fmt.Sprintf("%s_%dp", board, players)), true
		}
	}
	return changed
}

func (s *schema) has(field string) bool {
	return slices.ContainsFunc(s.checks, func(c check) bool { return c.name == field })
}

func (s *schema) wrong(field, detail string) error {
	return &ProblemError{Type: string(s.def.Type), Field: field, Detail: detail, Kind: ErrInvalid}
}

// wrong says what is wrong with a member, or "". raw is valid JSON; what can be seen without decoding it is, for every
// event that is published comes by here.
func (c *check) wrong(raw json.RawMessage) string {
	if right(c.typ, raw) {
		return ""
	}
	return c.decode(raw)
}

// decode is wrong for every value.
func (c *check) decode(raw json.RawMessage) string {
	v := reflect.New(c.typ)
	if err := json.Unmarshal(raw, v.Interface()); err != nil {
		return fmt.Sprintf("want %s, have %s", typeName(c.typ), clip(raw))
	}
	switch x := v.Elem().Interface().(type) {
	case id.Digest:
		if _, err := id.ParseDigest(string(x)); err != nil {
			return err.Error()
		}
		return ""
	case id.Config:
		if _, err := id.ParseConfig(string(x)); err != nil {
			return err.Error()
		}
		return ""
	}
	switch e := v.Elem(); e.Kind() {
	case reflect.String:
		if c.required && e.Len() == 0 {
			return "is empty"
		}
	case reflect.Int, reflect.Int64:
		if e.Int() < 0 {
			return "is negative"
		}
	}
	return ""
}

func quote(s string) json.RawMessage {
	if plain([]byte(s)) {
		return append(append(append(make(json.RawMessage, 0, len(s)+2), '"'), s...), '"')
	}
	b, _ := json.Marshal(s) // a string always encodes
	return b
}

func clip(raw []byte) string {
	const most = 40
	if len(raw) > most {
		return string(raw[:most]) + "…"
	}
	return string(raw)
}
