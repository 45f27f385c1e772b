package kit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strings"
	"time"
)

// Duration is a time.Duration in settings: written "1m30s", read as that or as a number of seconds.
type Duration time.Duration

// D is d as a time.Duration.
func (d Duration) D() time.Duration { return time.Duration(d) }

// MarshalJSON writes the form that people write.
func (d Duration) MarshalJSON() ([]byte, error) { return json.Marshal(time.Duration(d).String()) }

// UnmarshalJSON reads "90s", "1m30s" or 90.
func (d *Duration) UnmarshalJSON(b []byte) error {
	var text string
	if json.Unmarshal(b, &text) == nil {
		v, err := time.ParseDuration(text)
		if err != nil {
			return fmt.Errorf("duration %q: want such as 90s or 5m", text)
		}
		*d = Duration(v)
		return nil
	}
	var seconds float64
	if err := json.Unmarshal(b, &seconds); err != nil {
		return errors.New("duration: want such as \"90s\", or seconds")
	}
	if math.Abs(seconds) > time.Duration(math.MaxInt64).Seconds()/2 {
		return fmt.Errorf("duration of %g seconds: want at most %g", seconds, maxSetting.Seconds())
	}
	*d = Duration(seconds * float64(time.Second))
	return nil
}

// Basics are the two keys that every daemon's section may have.
type Basics struct {
	Every   *Duration `json:"every,omitempty"`   // period of its loop
	Enabled *bool     `json:"enabled,omitempty"` // false switches it off in the whole ring
}

// DecodeBasics reads the common keys of a daemon's section; an empty section has none.
func DecodeBasics(raw json.RawMessage) (Basics, error) {
	var b Basics
	if len(bytes.TrimSpace(raw)) == 0 {
		return b, nil
	}
	keys := map[string]json.RawMessage{}
	if err := json.Unmarshal(raw, &keys); err != nil {
		return b, fmt.Errorf("decode settings: %s", plain(err))
	}
	for key, to := range map[string]any{"every": &b.Every, "enabled": &b.Enabled} {
		if v, ok := keys[key]; ok {
			if err := json.Unmarshal(v, to); err != nil {
				return b, fmt.Errorf("%s: %s", key, plain(err))
			}
		}
	}
	if b.Every != nil && *b.Every <= 0 {
		return b, errors.New("every: want a duration above zero")
	}
	return b, nil
}

// Period is the period in force: the section's "every", else the Spec's.
func (s Spec) Period(raw json.RawMessage) (time.Duration, error) {
	b, err := DecodeBasics(raw)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", s.Name, err)
	}
	if b.Every != nil {
		return b.Every.D(), nil
	}
	return s.Every, nil
}

// Decode lays a daemon's section over its defaults, table by table: what a nested table does not name keeps its default. It
// is strict: an unknown key is an error that names it; "every" and "enabled" belong to the kit and are accepted everywhere.
// A T with a method Validate() error is validated. Defaults are not changed, not even through maps in them.
func Decode[T any](raw json.RawMessage, defaults T) (T, error) {
	v, err := decode(raw, reflect.ValueOf(defaults))
	if err != nil {
		var zero T
		return zero, err
	}
	return v.Interface().(T), nil
}

// CheckSettings says what is wrong with a section of the daemon, naming the key. It is stricter than Decode: settings with a
// method ValidateNew() error are checked by that, too. A daemon goes on with those that were taken before.
func (s Spec) CheckSettings(raw json.RawMessage) error {
	settings := s.Settings
	if settings == nil {
		settings = struct{}{}
	}
	b, err := DecodeBasics(raw)
	if err != nil {
		return err
	}
	if b.Every != nil && (b.Every.D() < minPeriod || b.Every.D() > maxSetting) {
		return fmt.Errorf("every %s: want %s to %s", b.Every.D(), minPeriod, maxSetting)
	}
	v, err := decode(raw, reflect.ValueOf(settings))
	if err != nil {
		return err
	}
	if c, ok := v.Interface().(interface{ ValidateNew() error }); ok {
		if err := c.ValidateNew(); err != nil {
			return fmt.Errorf("settings: %w", err)
		}
	}
	return withinReason(v)
}

// What a section may say at most. No meaning is known for more, but slips of the keyboard are.
const (
	minPeriod  = 100 * time.Millisecond
	maxSetting = 10 * 365 * 24 * time.Hour
	maxCount   = 1_000_000_000
)

// withinReason names the first figure of a section that nobody can mean: a duration below zero or above maxSetting, or a count
// above maxCount; sizes, whose names end in _bytes, have no bound. It is asked of who writes settings only; a daemon goes on
// with those that were taken before.
func withinReason(v reflect.Value) error {
	if v.Kind() != reflect.Struct {
		return nil
	}
	for i := range v.NumField() {
		if v.Type().Field(i).Anonymous {
			if err := withinReason(v.Field(i)); err != nil {
				return err
			}
			continue
		}
		name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
		switch f := v.Field(i).Interface().(type) {
		case Duration:
			if f < 0 {
				return fmt.Errorf("%s %s: must not be negative", name, f.D())
			}
			if f.D() > maxSetting {
				return fmt.Errorf("%s %s: want at most %s", name, f.D(), maxSetting)
			}
		case int, int64:
			if n := v.Field(i).Int(); n > maxCount && !strings.HasSuffix(name, "_bytes") {
				return fmt.Errorf("%s %d: want at most %d", name, n, maxCount)
			}
		}
	}
	return nil
}

func decode(raw json.RawMessage, defaults reflect.Value) (reflect.Value, error) {
	out := reflect.New(defaults.Type())
	// By way of JSON, so that maps and slices of the defaults are not shared.
	base, err := json.Marshal(defaults.Interface())
	if err != nil {
		return out.Elem(), fmt.Errorf("encode default settings: %w", err)
	}
	if err := json.Unmarshal(base, out.Interface()); err != nil {
		return out.Elem(), fmt.Errorf("copy default settings: %w", err)
	}
	if len(bytes.TrimSpace(raw)) > 0 {
		if err := overlay(raw, base, out); err != nil {
			return out.Elem(), err
		}
	}
	if c, ok := out.Elem().Interface().(interface{ Validate() error }); ok {
		if err := c.Validate(); err != nil {
			return out.Elem(), fmt.Errorf("settings: %w", err)
		}
	}
	return out.Elem(), nil
}

// overlay decodes the keys of raw one by one into out, which holds the defaults, whose JSON is base.
func overlay(raw, base json.RawMessage, out reflect.Value) error {
	keys := map[string]json.RawMessage{}
	if err := json.Unmarshal(raw, &keys); err != nil {
		return fmt.Errorf("decode settings: %s", plain(err))
	}
	under := object(base)
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		if key == "every" || key == "enabled" {
			continue
		}
		one, err := json.Marshal(map[string]json.RawMessage{key: complete(under[key], keys[key])})
		if err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
		d := json.NewDecoder(bytes.NewReader(one))
		d.DisallowUnknownFields()
		switch err := d.Decode(out.Interface()); {
		case err == nil:
		case strings.Contains(err.Error(), fmt.Sprintf("unknown field %q", key)):
			return fmt.Errorf("unknown field %q; there are %s", key, strings.Join(keysOf(out.Type().Elem()), ", "))
		default:
			return fmt.Errorf("%s: %s", key, plain(err))
		}
	}
	return nil
}

// complete returns over with what its tables do not name, or name as null, taken from those of under. The library decodes an
// entry of a map as a whole, so that what it does not say would be zero instead of the default.
func complete(under, over json.RawMessage) json.RawMessage {
	below, above := object(under), object(over)
	if below == nil || above == nil {
		return over
	}
	names := slices.Sorted(maps.Keys(below))
	for _, key := range slices.Sorted(maps.Keys(above)) {
		v := above[key]
		if i := slices.IndexFunc(names, func(n string) bool { return strings.EqualFold(n, key) }); i >= 0 {
			key = names[i] // names match as in the JSON library
		}
		if have, ok := below[key]; !ok || string(v) != "null" {
			below[key] = complete(have, v)
		}
	}
	b, err := json.Marshal(below)
	if err != nil {
		return over
	}
	return b
}

// object is the table that raw is, or nil.
func object(raw json.RawMessage) map[string]json.RawMessage {
	var m map[string]json.RawMessage
	if json.Unmarshal(raw, &m) != nil {
		return nil
	}
	return m
}

// keysOf lists the keys that a section may have.
func keysOf(t reflect.Type) []string {
	out := []string{"every", "enabled"}
	if t.Kind() != reflect.Struct {
		return out
	}
	for i := range t.NumField() {
		if name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ","); name != "" && name != "-" {
			out = append(out, name)
		}
	}
	return out
}

// plain is an error of the JSON library in words for people, without the names of Go's types.
func plain(err error) string {
	var wrong *json.UnmarshalTypeError
	if !errors.As(err, &wrong) {
		return strings.TrimPrefix(err.Error(), "json: ")
	}
	want := "another type"
	switch wrong.Type.Kind() {
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64, reflect.Uint, reflect.Uint8, reflect.Uint16,
		reflect.Uint32, reflect.Uint64:
		want = "a whole number"
	case reflect.Float32, reflect.Float64:
		want = "a number"
	case reflect.String:
		want = "text"
	case reflect.Bool:
		want = "true or false"
	case reflect.Slice, reflect.Array:
		want = "a list"
	case reflect.Map, reflect.Struct:
		want = "a table"
	}
	return fmt.Sprintf("want %s, not %s", want, wrong.Value)
}
