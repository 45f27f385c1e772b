package config

import (
	"encoding/json"
	"fmt"
	"sort"
)

// Origins says where each value came from, by its dotted key; a key that is not there has its default.
type Origins map[string]string

func (o Origins) mark(prefix string, v any, from string) {
	m, ok := v.(map[string]any)
	if !ok {
		o[prefix] = from
		return
	}
	for k, sub := range m {
		key := k
		if prefix != "" {
			key = prefix + "." + k
		}
		o.mark(key, sub, from)
	}
}

// Value is one effective value with its origin.
type Value struct {
	Key    string `json:"key"`
	Value  any    `json:"value"`
	Origin string `json:"origin"` // flag, environment, a file, or default
}

// Effective lists every value of c with its origin, in order of keys.
func Effective(c Config, o Origins) ([]Value, error) {
	b, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("list config: %w", err)
	}
	var tree map[string]any
	if err := json.Unmarshal(b, &tree); err != nil {
		return nil, fmt.Errorf("list config: %w", err)
	}
	flat := map[string]any{}
	flatten("", tree, flat)
	out := make([]Value, 0, len(flat))
	for k, v := range flat {
		from, ok := o[k]
		if !ok {
			from = "default"
		}
		out = append(out, Value{Key: k, Value: v, Origin: from})
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Key < out[j].Key })
	return out, nil
}

func flatten(prefix string, v any, out map[string]any) {
	m, ok := v.(map[string]any)
	if !ok || len(m) == 0 && prefix != "" {
		out[prefix] = v
		return
	}
	for k, sub := range m {
		key := k
		if prefix != "" {
			key = prefix + "." + k
		}
		flatten(key, sub, out)
	}
}
