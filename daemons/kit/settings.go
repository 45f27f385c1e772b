package kit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
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
	if err := json.Unmarshal(raw, &b); err != nil {
		return b, fmt.Errorf("decode settings: %w", err)
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

// Decode lays a daemon's section over its defaults. It is strict: an unknown key is an error that names it; "every" and
// "enabled" belong to the kit and are accepted everywhere. A T with a method Validate() error is validated. Defaults are
// not changed, not even through maps in them.
func Decode[T any](raw json.RawMessage, defaults T) (T, error) {
	v, err := decode(raw, reflect.ValueOf(defaults))
	if err != nil {
		var zero T
		return zero, err
	}
	return v.Interface().(T), nil
}

// CheckSettings says what is wrong with a section of the daemon, naming the key.
func (s Spec) CheckSettings(raw json.RawMessage) error {
	settings := s.Settings
	if settings == nil {
		settings = struct{}{}
	}
	if _, err := s.Period(raw); err != nil {
		return err
	}
	if _, err := decode(raw, reflect.ValueOf(settings)); err != nil {
		return fmt.Errorf("%s: %w", s.Name, err)
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
		keys := map[string]json.RawMessage{}
		if err := json.Unmarshal(raw, &keys); err != nil {
			return out.Elem(), fmt.Errorf("decode settings: %w", err)
		}
		delete(keys, "every")
		delete(keys, "enabled")
		rest, err := json.Marshal(keys)
		if err != nil {
			return out.Elem(), fmt.Errorf("decode settings: %w", err)
		}
		d := json.NewDecoder(bytes.NewReader(rest))
		d.DisallowUnknownFields()
		if err := d.Decode(out.Interface()); err != nil {
			return out.Elem(), fmt.Errorf("decode settings: %s", strings.TrimPrefix(err.Error(), "json: "))
		}
	}
	if c, ok := out.Elem().Interface().(interface{ Validate() error }); ok {
		if err := c.Validate(); err != nil {
			return out.Elem(), fmt.Errorf("settings: %w", err)
		}
	}
	return out.Elem(), nil
}
