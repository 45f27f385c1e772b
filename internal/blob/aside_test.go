package blob

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ringagent/ringagent/internal/id"
)

// Quarantine is bounded by number and by bytes: the oldest artifacts go, whatever the age of their bytes. Files that are no
// artifacts stay.
func TestQuarantineIsBounded(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]Options{"number": {Most: 3}, "bytes": {MostBytes: 3 * 100}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
			o.Now = func() time.Time { now = now.Add(time.Second); return now }
			s, err := Open(filepath.Join(dir, "blobs"), o)
			if err != nil {
				t.Fatal(err)
			}
			games := filepath.Join(dir, "games.db")
			if err := os.WriteFile(games, make([]byte, 1000), 0o600); err != nil {
				t.Fatal(err)
			}
			kept, err := s.KeepFile(games, "damaged")
			if err != nil {
				t.Fatal(err)
			}
			var want []id.Digest
			for i := range 6 {
				d := put(t, s, strings.Repeat(fmt.Sprint(i), 100))
				if err := os.Chtimes(s.Path(d), time.Time{}, now.Add(-time.Duration(i)*time.Hour)); err != nil {
					t.Fatal(err)
				}
				if err := s.Quarantine(d, "no good"); err != nil {
					t.Fatal(err)
				}
				want = append(want, d)
			}
			left, _ := filepath.Glob(filepath.Join(dir, "quarantine", "*.json"))
			var got []id.Digest
			for _, p := range left {
				if d, err := id.ParseDigest(strings.SplitN(filepath.Base(p), ".", 2)[0]); err == nil {
					got = append(got, d)
				}
				if _, err := os.Stat(strings.TrimSuffix(p, ".json")); err != nil {
					t.Error(err)
				}
			}
			want = want[3:]
			slices.Sort(want)
			slices.Sort(got)
			if !slices.Equal(got, want) {
				t.Errorf("left %v, want the newest three", got)
			}
			if info, err := os.Stat(kept); err != nil || info.Size() != 1000 {
				t.Errorf("the games are gone: %v", err)
			}
		})
	}
}

// A database and its log go into quarantine together or not at all, under names that belong together; the originals stay.
func TestKeptFilesStayTogether(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openStore(t, dir)
	db := filepath.Join(dir, "games.db")
	if err := errors.Join(os.WriteFile(db, []byte("database"), 0o600), os.WriteFile(db+"-wal", []byte("log"), 0o600)); err != nil {
		t.Fatal(err)
	}
	kept, err := s.KeepFile(db, "damaged", "-wal", "-journal")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Remove(db), os.Remove(db+"-wal")); err != nil {
		t.Fatal("the originals:", err)
	}
	for path, want := range map[string]string{kept: "database", kept + "-wal": "log"} {
		if b, err := os.ReadFile(path); err != nil || string(b) != want {
			t.Errorf("%s: %q %v", path, b, err)
		}
	}
	before, _ := os.ReadDir(s.quarantine)
	if err := errors.Join(os.WriteFile(db, []byte("database"), 0o600), os.Mkdir(db+"-wal", 0o700)); err != nil { // a directory has no second name
		t.Fatal(err)
	}
	if _, err := s.KeepFile(db, "damaged", "-wal"); err == nil {
		t.Error("kept without its log")
	}
	if after, _ := os.ReadDir(s.quarantine); len(after) != len(before) {
		t.Errorf("half is left: %v", after)
	}
	if _, err := s.KeepFile(filepath.Join(dir, "absent"), "x"); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
}

// What fails its check gets no name, and harms no copy that has it.
func TestCheckedBytesGetTheirNameAfterTheCheck(t *testing.T) {
	t.Parallel()
	s := openStore(t, t.TempDir())
	no := errors.New("no good")
	refuse := func(_ context.Context, path string) error {
		if path == s.Path(id.DigestOf([]byte("bytes"))) {
			t.Error("checked under its final name")
		}
		return no
	}
	part := filepath.Join(s.PartialDir(), "x")
	for _, there := range []bool{false, true} {
		if there {
			put(t, s, "bytes")
		}
		if err := os.WriteFile(part, []byte("bytes"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := s.PutChecked(t.Context(), strings.NewReader("bytes"), refuse); !errors.Is(err, no) {
			t.Error(err)
		}
		if _, err := s.AdoptChecked(t.Context(), part, id.DigestOf([]byte("bytes")), refuse); !errors.Is(err, no) {
			t.Error(err)
		}
		if s.Has(id.DigestOf([]byte("bytes"))) != there || staged(t, s) != 0 {
			t.Errorf("named: %v, staged %d", !there, staged(t, s))
		}
		if _, err := os.Stat(part); err != nil {
			t.Error(err)
		}
	}
}

// Good bytes take the place of a copy that is damaged at its right size.
func TestPutTakesThePlaceOfADamagedCopy(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openStore(t, dir)
	d := put(t, s, "bytes")
	if err := errors.Join(os.Chmod(s.Path(d), 0o600), os.WriteFile(s.Path(d), []byte("bytEs"), 0o600)); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second finds what the first left
		if got := put(t, s, "bytes"); got != d {
			t.Fatalf("put as %s", got)
		}
		if err := s.Verify(t.Context(), d); err != nil {
			t.Error(err)
		}
	}
	aside, _ := filepath.Glob(filepath.Join(dir, "quarantine", string(d)+"*.json"))
	if len(aside) != 1 || staged(t, s) != 0 {
		t.Errorf("quarantine %v, staged %d", aside, staged(t, s))
	}
}
