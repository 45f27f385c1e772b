package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/internal/workload"
)

// ringFile is the ring settings as people write them.
type ringFile struct {
	Timing    ring.Timing               `yaml:"timing,omitempty"`
	Voters    *int                      `yaml:"voters,omitempty"`
	Workload  string                    `yaml:"workload,omitempty"` // path of the workload file, beside this file
	Configs   []id.Config               `yaml:"configs,omitempty"`
	Copies    map[ring.Kind]int         `yaml:"copies,omitempty"`
	Retention retention                 `yaml:"retention,omitempty"`
	Daemons   map[string]map[string]any `yaml:"daemons,omitempty"`
}

type retention struct {
	Age   string `yaml:"age,omitempty"`
	Bytes int64  `yaml:"bytes,omitempty"`
	Count uint64 `yaml:"count,omitempty"`
}

// SectionCheck checks a daemon's section; it is the registry's knowledge, passed in by the caller.
type SectionCheck func(daemon string, section json.RawMessage) error

// DefaultRing is the settings of a ring that says nothing.
func DefaultRing() ring.Settings {
	return ring.Settings{
		Timing: ring.TimingLAN, Voters: 3,
		Retention: ring.Retention{Age: ring.Duration(30 * 24 * time.Hour), Bytes: 4 << 30},
	}
}

// LoadRing reads a ring settings file over the defaults. The workload file that it names is read and validated too; its
// text becomes part of the settings.
func LoadRing(file string, check SectionCheck) (ring.Settings, error) {
	b, err := ReadFile(file)
	if err != nil {
		return ring.Settings{}, err
	}
	return ParseRing(b, file, check)
}

// ParseRing is LoadRing on bytes; file names them in errors and is where relative paths begin.
func ParseRing(b []byte, file string, check SectionCheck) (ring.Settings, error) {
	var f ringFile
	err := decode(b, file, &f)
	if err != nil {
		return ring.Settings{}, err
	}
	if says, err := onlyDocument(b, file); err != nil || !says {
		// More likely half written than meant: it would take the ring's workload away.
		return ring.Settings{}, errors.Join(err, fmt.Errorf("%s: is empty; write {} for the defaults", file))
	}
	s := DefaultRing()
	if f.Timing != "" {
		s.Timing = f.Timing
	}
	if f.Voters != nil {
		s.Voters = *f.Voters
	}
	s.Configs, s.Copies = f.Configs, f.Copies
	if f.Retention.Age != "" {
		d, err := time.ParseDuration(f.Retention.Age)
		if err != nil || d == 0 { // 0 would mean the default, and who writes it means something else
			return s, fmt.Errorf("%s: retention.age %q: want a duration like 720h, at most %s", file, f.Retention.Age, maxRetention)
		}
		s.Retention.Age = ring.Duration(d)
	}
	if f.Retention.Bytes != 0 {
		s.Retention.Bytes = f.Retention.Bytes
	}
	s.Retention.Count = f.Retention.Count
	if s.Daemons, err = sections(f.Daemons, file, check); err != nil {
		return s, err
	}
	if f.Workload != "" {
		path := f.Workload
		if !filepath.IsAbs(path) {
			path = filepath.Join(filepath.Dir(file), path)
		}
		text, err := ReadFile(path)
		if err != nil {
			return s, fmt.Errorf("%s: workload: %w", file, err)
		}
		if s.Workload = string(text); s.Workload == "" {
			return s, fmt.Errorf("%s: workload: %s is empty", file, path)
		}
		w, err := workload.Parse(text, path)
		if err != nil {
			return s, fmt.Errorf("%s: workload: %w", file, err)
		}
		if len(s.Configs) == 0 {
			s.Configs = w.Configs // none named means all of the workload's
		}
	}
	if err := CheckRing(s); err != nil {
		return s, fmt.Errorf("%s: %w", file, err)
	}
	return s, nil
}

// sections reads the daemons' sections; all that are wrong are named at once.
func sections(of map[string]map[string]any, file string, check SectionCheck) (map[string]json.RawMessage, error) {
	var out map[string]json.RawMessage
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(of)) {
		section := of[name]
		if section == nil { // a heading with nothing below it
			section = map[string]any{}
		}
		raw, err := json.Marshal(section)
		if err == nil && check != nil {
			err = check(name, raw)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: daemons.%s: %w", file, name, err))
			continue
		}
		if out == nil {
			out = map[string]json.RawMessage{}
		}
		out[name] = raw
	}
	return out, errors.Join(errs...)
}

// MarshalRing writes settings in the form in which people write them, so that they can be changed and applied again. The
// workload is not in it: a settings file names the workload's file, and where that is nobody remembers.
func MarshalRing(s ring.Settings) ([]byte, error) {
	f := ringFile{Timing: s.Timing, Voters: &s.Voters, Configs: s.Configs, Copies: s.Copies}
	f.Retention = retention{Bytes: s.Retention.Bytes, Count: s.Retention.Count}
	if s.Retention.Age > 0 {
		f.Retention.Age = time.Duration(s.Retention.Age).String()
	}
	for name, raw := range s.Daemons {
		section := map[string]any{}
		if string(raw) != "null" { // as a section without a word was kept once
			if err := yaml.Unmarshal(raw, &section); err != nil { // JSON is YAML, and numbers stay whole
				return nil, fmt.Errorf("read section %s: %w", name, err)
			}
		}
		if f.Daemons == nil {
			f.Daemons = map[string]map[string]any{}
		}
		f.Daemons[name] = section
	}
	b, err := yaml.Marshal(f)
	if err != nil {
		return nil, fmt.Errorf("write ring settings: %w", err)
	}
	return b, nil
}

// CheckRing validates settings together with the workload inside them.
func CheckRing(s ring.Settings) error {
	if err := s.Validate(); err != nil {
		return err
	}
	if err := checkRetention(s.Retention); err != nil {
		return err
	}
	for k := range s.Copies {
		switch k {
		case ring.KindPack, ring.KindDataset, ring.KindModel, ring.KindMatches, ring.KindBackup, ring.KindFile:
		default:
			return fmt.Errorf("copies.%s: want games, dataset, model, matches, backup or file", k)
		}
	}
	if s.Workload == "" {
		if len(s.Configs) > 0 {
			return errors.New("configs: name configs only with a workload that has them, by a line like workload: mygame.yaml")
		}
		return nil
	}
	w, err := workload.Parse([]byte(s.Workload), "workload")
	if err != nil {
		return err
	}
	for _, c := range s.Configs {
		known := false
		for _, have := range w.Configs {
			known = known || have == c
		}
		if !known {
			return fmt.Errorf("configs: %s is not in the workload, which has %v", c, w.Configs)
		}
	}
	return nil
}

// Bounds of retention: below, the log would go before its slowest reader has come by; above, nothing is meant.
const (
	minRetention      = time.Minute
	maxRetention      = 10 * 365 * 24 * time.Hour
	minRetentionBytes = 1 << 20
	minRetentionCount = 1000
)

// checkRetention names the bound that the log's retention breaks; what is 0 was not said.
func checkRetention(r ring.Retention) error {
	switch age := time.Duration(r.Age); {
	case age != 0 && (age < minRetention || age > maxRetention):
		return fmt.Errorf("retention.age %s: want %s to %s", age, minRetention, maxRetention)
	case r.Bytes != 0 && r.Bytes < minRetentionBytes:
		return fmt.Errorf("retention.bytes %d: want at least %d", r.Bytes, minRetentionBytes)
	case r.Count != 0 && r.Count < minRetentionCount:
		return fmt.Errorf("retention.count %d: want at least %d, or 0 for no limit", r.Count, minRetentionCount)
	}
	return nil
}

// ValidateAny finds out what a file is by its keys and validates it; the kind is "workload", "ring settings" or "config".
func ValidateAny(b []byte, file string, check SectionCheck) (string, error) {
	if err := checkDepth(b, file); err != nil {
		return "", err
	}
	var keys map[string]any
	if err := yaml.Unmarshal(b, &keys); err != nil {
		return "", fmt.Errorf("%s: %s", file, yaml.FormatError(err, false, true))
	}
	for _, k := range []string{"stages", "version", "name"} { // ring settings and workloads both have configs
		if _, ok := keys[k]; ok {
			_, err := workload.Parse(b, file)
			return "workload", err
		}
	}
	for _, k := range []string{"voters", "workload", "configs", "copies", "retention", "daemons", "timing"} {
		if _, ok := keys[k]; ok {
			_, err := ParseRing(b, file, check)
			return "ring settings", err
		}
	}
	c := Default("/var/lib/ringagent")
	if err := decode(b, file, &c); err != nil {
		return "config", err
	}
	if err := c.Validate(); err != nil {
		return "config", fmt.Errorf("%s: %w", file, err)
	}
	return "config", nil
}
