package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/ringagent/ringagent/internal/blob"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/rating"
	"github.com/ringagent/ringagent/internal/ring"
)

// What lacks a part of its matches is unknown, not a figure of its own; other configs are not touched by it.
func TestRatingsOfAPartAreUnknown(t *testing.T) {
	t.Parallel()
	file := func(c id.Config, a string, n int, why error) matchFile {
		f := matchFile{artifact: ring.Artifact{Digest: id.DigestOf([]byte(a)), Config: c}, why: why}
		var matches []rating.Match
		for i := range n {
			matches = append(matches, rating.Match{
				ID: fmt.Sprint(a, i), Time: time.Date(2026, 3, 1, 0, 0, i, 0, time.UTC), Config: string(c), A: a, B: "random", Score: 1,
			})
		}
		if why == nil {
			f.tally = rating.NewTally(matches)
		}
		return f
	}
	book := rating.NewBook(rating.DefaultWords)
	champions := map[id.Config][]string{"hex8_2p": {"crowned"}}
	whole := []matchFile{file(four, "one", 3, nil), file(four, "two", 2, nil)}
	alone, missing := rate(book, whole, champions)
	if len(alone) != 3 || len(missing) != 0 || alone[0].Elo == nil || *alone[0].Games+*alone[1].Games != 5 {
		t.Fatalf("whole: %+v, missing %+v", alone, missing)
	}
	rows, missing := rate(book, append(whole, file("hex8_2p", "three", 2, nil), file("hex8_2p", "four", 0, errors.New("gone"))), champions)
	if len(missing) != 1 || missing[0].Config != "hex8_2p" || missing[0].Reason != "gone" {
		t.Errorf("missing %+v", missing)
	}
	names := ""
	for i, r := range rows {
		if r.Config == "hex8_2p" {
			names += r.Model + " "
			if r.Elo != nil || r.Low != nil || r.High != nil || r.Games != nil || r.Wins != nil || r.Losses != nil || r.Draws != nil {
				t.Errorf("%s has figures although matches are missing: %+v", r.Model, r)
			}
		} else if *r.Elo != *alone[i].Elo || *r.Games != *alone[i].Games {
			t.Errorf("row %d became %+v because of another config", i, r)
		}
	}
	if names != "crowned random three " {
		t.Errorf("players of the partial config: %s", names)
	}
}

// A file is read for the first rating alone, and never counted with other bytes than its own.
func TestMatchesAreCountedOnce(t *testing.T) {
	t.Parallel()
	blobs, err := blob.Open(filepath.Join(t.TempDir(), "blobs"), blob.Options{})
	if err != nil {
		t.Fatal(err)
	}
	a := &Agent{matches: rating.NewBook(rating.DefaultWords)}
	a.store = &artifacts{a: a, blobs: blobs}
	path := filepath.Join(t.TempDir(), "matches")
	match := rating.Match{ID: "1", Time: time.Unix(1e9, 0), Config: string(four), A: "one", B: "random", Score: 1}
	if err := rating.WriteMatches(path, []rating.Match{match}); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	d := id.DigestOf(b)
	if _, err := a.tally(t.Context(), id.DigestOf(nil), path); !errors.Is(err, rating.ErrAltered) {
		t.Errorf("another file's matches: %v", err)
	}
	first, err := a.tally(t.Context(), d, path)
	if err = errors.Join(err, os.Remove(path)); err != nil {
		t.Fatal(err)
	}
	second, err := a.tally(t.Context(), d, path)
	if err != nil || first != second || len(second.Players()) != 2 {
		t.Errorf("%v, %v", second, err)
	}
}
