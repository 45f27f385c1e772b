package rating

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/ringagent/ringagent/internal/id"
)

// Match is one finished game between two participants. Models are named by their digest, baselines by their name.
type Match struct {
	ID      string    `json:"id"` // unique in the ring
	Time    time.Time `json:"time"`
	Config  string    `json:"config"`
	A       string    `json:"a"`
	B       string    `json:"b"`
	Score   float64   `json:"score"`             // of A: 1, 0.5 or 0
	Opening string    `json:"opening,omitempty"` // equal for the two games of a pair
	Work    string    `json:"work,omitempty"`    // the work item that played it
}

// Bounds on one match and on a file of them.
const (
	maxText    = 200
	maxLine    = 4 << 10
	maxMatches = 2_000_000
)

// ErrInvalid says that a match or a file of matches cannot be used.
var ErrInvalid = errors.New("invalid match")

// Validate says what is wrong with a match.
func Validate(m Match) error {
	for _, f := range []struct {
		name, value string
		optional    bool
	}{{"id", m.ID, false}, {"a", m.A, false}, {"b", m.B, false}, {"opening", m.Opening, true}, {"work", m.Work, true}} {
		if (f.value == "" && !f.optional) || len(f.value) > maxText || !utf8.ValidString(f.value) {
			return fmt.Errorf("%s %.40q: want 1 to %d bytes of UTF-8: %w", f.name, f.value, maxText, ErrInvalid)
		}
	}
	if _, err := id.ParseConfig(m.Config); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	switch {
	case m.A == m.B:
		return fmt.Errorf("%.40q plays itself: %w", m.A, ErrInvalid)
	case m.Score != 0 && m.Score != 0.5 && m.Score != 1:
		return fmt.Errorf("score %v: want 0, 0.5 or 1: %w", m.Score, ErrInvalid)
	case m.Time.IsZero() || m.Time.Year() < 2000 || m.Time.Year() > 9999:
		return fmt.Errorf("time %v: %w", m.Time, ErrInvalid)
	}
	return nil
}

// compare orders matches by (time, id), and by everything else where two of one id differ, so that any order of input
// ends in the same one.
func compare(x, y Match) int {
	return cmp.Or(x.Time.Compare(y.Time), cmp.Compare(x.ID, y.ID), cmp.Compare(x.Config, y.Config), cmp.Compare(x.A, y.A),
		cmp.Compare(x.B, y.B), cmp.Compare(x.Score, y.Score), cmp.Compare(x.Opening, y.Opening), cmp.Compare(x.Work, y.Work))
}

// Distinct returns the valid matches, each id once (the earliest of those that share it), ordered by (time, id). It leaves
// its argument alone.
func Distinct(matches []Match) []Match {
	sorted := slices.Clone(matches)
	sorted = slices.DeleteFunc(sorted, func(m Match) bool { return Validate(m) != nil })
	slices.SortFunc(sorted, compare)
	seen := make(map[string]bool, len(sorted))
	return slices.DeleteFunc(sorted, func(m Match) bool {
		if seen[m.ID] {
			return true
		}
		seen[m.ID] = true
		return false
	})
}

// Decode reads matches as JSON lines. The first line that is too long, no JSON, has an unknown field or is invalid is an
// error that names its number.
func Decode(r io.Reader) ([]Match, error) {
	var out []Match
	text := texts{}
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 0, maxLine), maxLine)
	n := 0
	for s.Scan() {
		n++
		line := bytes.TrimSpace(s.Bytes())
		if len(line) == 0 {
			continue
		}
		m, err := decodeLine(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		text.share(&m.Config, &m.A, &m.B, &m.Opening, &m.Work)
		if out = append(out, m); len(out) > maxMatches {
			return nil, fmt.Errorf("line %d: more than %d matches: %w", n, maxMatches, ErrInvalid)
		}
	}
	if err := s.Err(); errors.Is(err, bufio.ErrTooLong) {
		return nil, fmt.Errorf("line %d: longer than %d bytes: %w", n+1, maxLine, ErrInvalid)
	} else if err != nil {
		return nil, fmt.Errorf("after line %d: %w", n, err)
	}
	return out, nil
}

// texts are those that the matches of a file have in common: there may be two million of them.
type texts map[string]string

func (t texts) share(fields ...*string) {
	for _, f := range fields {
		if have, ok := t[*f]; ok {
			*f = have
		} else {
			t[*f] = *f
		}
	}
}

func decodeLine(line []byte) (Match, error) {
	var m Match
	// A score that is not there would be a loss.
	read := struct {
		*Match
		Score *float64 `json:"score"`
	}{Match: &m}
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(&read); err != nil {
		return m, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if read.Score == nil {
		return m, fmt.Errorf("score is missing: want 0, 0.5 or 1: %w", ErrInvalid)
	}
	m.Score = *read.Score
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return m, fmt.Errorf("something follows the match: %w", ErrInvalid)
	}
	return m, Validate(m)
}

// Encode writes matches as JSON lines in the given order. An invalid match is an error.
func Encode(w io.Writer, matches []Match) error {
	b := bufio.NewWriter(w)
	e := json.NewEncoder(b)
	for i, m := range matches {
		if err := Validate(m); err != nil {
			return fmt.Errorf("match %d: %w", i+1, err)
		}
		m.Time = m.Time.UTC()
		if err := e.Encode(m); err != nil {
			return fmt.Errorf("match %d: %w", i+1, err)
		}
	}
	return b.Flush()
}

// ReadMatches reads a file as Decode does.
func ReadMatches(path string) ([]Match, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read matches: %w", err)
	}
	defer f.Close()
	out, err := Decode(f)
	if err != nil {
		return nil, fmt.Errorf("read matches %s: %w", path, err)
	}
	return out, nil
}

// ErrAltered says that a file has other bytes than its digest names.
var ErrAltered = errors.New("altered bytes")

// ReadVerified reads a file as Decode does and hashes what it reads. ErrAltered means that these are not the bytes of the
// digest; ErrInvalid that they are, and that there is nothing usable in them, for ever.
func ReadVerified(path string, d id.Digest) ([]Match, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read matches: %w", err)
	}
	defer f.Close()
	hash := sha256.New()
	bytes := io.TeeReader(f, hash)
	out, bad := Decode(bytes)
	if _, err := io.Copy(io.Discard, bytes); err != nil { // Decode ends at a line that is bad
		return nil, fmt.Errorf("read matches %s: %w", path, err)
	}
	if got := id.Digest(hex.EncodeToString(hash.Sum(nil))); got != d {
		return nil, fmt.Errorf("read matches %s: %w: of %s, not %s", path, ErrAltered, got.Short(), d.Short())
	}
	if bad != nil {
		return nil, fmt.Errorf("read matches %s: %w", path, bad)
	}
	return out, nil
}

// Repeated names an id that two of the matches have; "" means that there is none. Of those only one would count.
func Repeated(matches []Match) string {
	seen := make(map[string]bool, len(matches))
	for _, m := range matches {
		if seen[m.ID] {
			return m.ID
		}
		seen[m.ID] = true
	}
	return ""
}

// WriteMatches makes a file as Encode does. It appears under its name complete and on disk, or not at all.
func WriteMatches(path string, matches []Match) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".matches-*.tmp")
	if err != nil {
		return fmt.Errorf("write matches: %w", err)
	}
	defer func() { _ = os.Remove(f.Name()) }() // gone already when all went well
	err = Encode(f, matches)
	err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		return fmt.Errorf("write matches %s: %w", path, err)
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
