package proc

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestCheck(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	outside := filepath.Join(t.TempDir(), "outside")
	began := time.Now()
	write := func(path string, size int) string {
		if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write(outside, 10)
	write(filepath.Join(dir, "good"), 10)
	write(filepath.Join(dir, "empty"), 0)
	old := write(filepath.Join(dir, "old"), 10)
	if err := os.Chtimes(old, began.Add(-time.Hour), began.Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	for from, to := range map[string]string{"link": outside, "inner": "good", "up": filepath.Dir(outside)} {
		if err := os.Symlink(to, filepath.Join(dir, from)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	write(filepath.Join(dir, "sub", "deep"), 10)

	cut := errors.New("cut short")
	count := func(n int64) Validator {
		return func(context.Context, string) (map[string]int64, error) { return map[string]int64{"games": n}, nil }
	}
	validators := map[string]Validator{
		"games": count(5), "zero": count(0),
		"broken": func(context.Context, string) (map[string]int64, error) { return nil, cut },
	}
	for name, c := range map[string]struct {
		output Output
		want   error
	}{
		"good":               {Output{Path: "good", Kind: "games"}, nil},
		"good, with min":     {Output{Path: "good", Kind: "games", Min: map[string]int64{"games": 5}}, nil},
		"deep":               {Output{Path: "sub/deep", Kind: "file"}, nil},
		"too few":            {Output{Path: "good", Kind: "games", Min: map[string]int64{"games": 6}}, ErrTooFew},
		"zero games":         {Output{Path: "good", Kind: "zero"}, ErrTooFew},
		"uncounted":          {Output{Path: "good", Kind: "games", Min: map[string]int64{"moves": 1}}, ErrTooFew},
		"missing":            {Output{Path: "none", Kind: "file"}, ErrMissing},
		"empty":              {Output{Path: "empty", Kind: "file"}, ErrTooFew},
		"old":                {Output{Path: "old", Kind: "file"}, ErrOld},
		"invalid":            {Output{Path: "good", Kind: "broken"}, cut},
		"nobody can read it": {Output{Path: "good", Kind: "model"}, ErrNoReader},
		"link outside":       {Output{Path: "link", Kind: "file"}, ErrNotFile},
		"link inside":        {Output{Path: "inner", Kind: "file"}, ErrNotFile},
		"directory":          {Output{Path: "sub", Kind: "file"}, ErrNotFile},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Check(t.Context(), dir, began, []Output{c.output}, validators)
			if !errors.Is(err, c.want) {
				t.Fatalf("got %v, %v; want %v", got, err, c.want)
			}
			var oe *OutputError
			if c.want != nil && !errors.As(err, &oe) {
				t.Errorf("error is a %T", err)
			}
		})
	}
	for _, path := range []string{"up/outside", "../x", "/etc/passwd"} {
		if _, err := Check(t.Context(), dir, began, []Output{{Path: path, Kind: "file"}}, nil); err == nil {
			t.Errorf("%s was accepted", path)
		}
	}
	got, err := Check(t.Context(), dir, began, []Output{
		{Path: "none", Kind: "games", Optional: true}, {Path: "good", Kind: "games"},
	}, validators)
	if err != nil {
		t.Fatal(err)
	}
	want := []Artifact{{Path: filepath.Join(dir, "good"), Kind: "games", Counters: map[string]int64{"games": 5, "bytes": 10}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if _, err := Check(t.Context(), dir, began, []Output{{Path: "empty", Kind: "file", Optional: true}}, nil); !errors.Is(err, ErrTooFew) {
		t.Errorf("an optional output that is bad: %v", err)
	}
}

// However the output is cut into pieces, the largest number on a whole line is found.
func TestMeterAnyPieces(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		var text bytes.Buffer
		largest := 0
		for range rapid.IntRange(1, 30).Draw(rt, "lines") {
			n := rapid.IntRange(1, 999).Draw(rt, "n")
			largest = max(largest, n)
			text.WriteString(rapid.SampledFrom([]string{"", "noise\n", "\x00\x1b[2K\r"}).Draw(rt, "noise"))
			text.WriteString("n=")
			text.WriteString(string([]byte{byte('0' + n/100), byte('0' + n/10%10), byte('0' + n%10)}))
			text.WriteString(rapid.SampledFrom([]string{"\n", "\r", "\r\n"}).Draw(rt, "end"))
		}
		now := time.Now()
		m, err := newMeter(Limits{Progress: `n=(\d+)`, ProgressGroup: 1}, now)
		if err != nil {
			rt.Fatal(err)
		}
		for b := text.Bytes(); len(b) > 0; {
			n := rapid.IntRange(1, len(b)).Draw(rt, "piece")
			m.feed(b[:n], now)
			b = b[n:]
		}
		m.flush(now)
		if v, _, n := m.read(); v != float64(largest) || n != int64(text.Len()) {
			rt.Fatalf("got %v of %d bytes, want %d of %d", v, n, largest, text.Len())
		}
	})
}

// A job that prints faster than it can be read for progress is sampled, and its last word counts.
func TestMeterSampled(t *testing.T) {
	t.Parallel()
	spam := bytes.Repeat([]byte("spam"), 1<<20)
	for _, piece := range []int{5, 4 << 10, 64 << 10, 256 << 10} {
		now := time.Now()
		m, err := newMeter(Limits{Progress: `n=(\d+)`, ProgressGroup: 1}, now)
		if err != nil {
			t.Fatal(err)
		}
		for text := append(bytes.Clone(spam), "\nn=77 the end\n"...); len(text) > 0; text = text[min(piece, len(text)):] {
			m.feed(text[:min(piece, len(text))], now)
		}
		if v, _, _ := m.read(); v != 77 {
			t.Errorf("pieces of %d: got %v", piece, v)
		}
	}
}

func TestMeterCountsGrowthOnly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		m, err := newMeter(Limits{Progress: `n=(\S+)`, ProgressGroup: 1}, begin)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			line  string
			grows bool
		}{{"n=0\n", true}, {"n=0\n", false}, {"n=1.5\n", true}, {"n=1\n", false}, {"n=NaN\n", false}, {"n=+Inf\n", false}, {"n=x\n", false}, {"n=2\n", true}} {
			time.Sleep(time.Second)
			m.feed([]byte(c.line), time.Now())
			if _, at, _ := m.read(); at.Equal(time.Now()) != c.grows {
				t.Errorf("%q: grows %v", c.line, !c.grows)
			}
		}
	})
}

func TestSanitise(t *testing.T) {
	t.Parallel()
	got := Sanitise([]byte("ok\tä\n\x1b[31mred\x00\x7f\xff\u202e\u009b"))
	want := "ok\tä\n" + `\x1b[31mred\x00\x7f\ufffd\u202e\u009b`
	if got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
