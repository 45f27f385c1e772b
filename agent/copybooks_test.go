package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ringagent/ringagent/internal/blob"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/internal/transfer"
	"github.com/ringagent/ringagent/leader"
)

// However many requests find a copy damaged, it is hashed once at a time.
func TestDamagedCopyIsVerifiedOnce(t *testing.T) {
	t.Parallel()
	blobs, err := blob.Open(filepath.Join(t.TempDir(), "blobs"), blob.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s := &artifacts{blobs: blobs}
	d, other := id.DigestOf([]byte("one")), id.DigestOf([]byte("two"))
	end, err := s.turns.take(t.Context(), d) // the first verification waits
	if err != nil {
		t.Fatal(err)
	}
	started := 0
	for range 100 {
		if s.suspect(d) {
			started++
		}
	}
	if started != 1 || !s.suspect(other) {
		t.Errorf("%d verifications of one copy at a time", started)
	}
	end()
	tick, deadline := time.NewTicker(time.Millisecond), time.After(10*time.Second)
	defer tick.Stop()
	for !s.suspect(d) {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("a later suspicion is not followed")
		}
	}
}

func TestTurns(t *testing.T) {
	t.Parallel()
	var all turns
	var inside, most atomic.Int32
	d := id.DigestOf(nil)
	var group sync.WaitGroup
	for range 20 {
		group.Go(func() {
			end, err := all.take(t.Context(), d)
			if err != nil {
				t.Error(err)
				return
			}
			if n := inside.Add(1); n > most.Load() {
				most.Store(n)
			}
			inside.Add(-1)
			end()
		})
	}
	group.Wait()
	if most.Load() != 1 || len(all.busy) != 0 {
		t.Errorf("%d at once, %d left", most.Load(), len(all.busy))
	}
	end, err := all.take(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := all.take(ctx, d); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	end()
}

// A file counts as hashed until it is another or has changed; the books are bounded.
func TestSoundUntilTheFileChanges(t *testing.T) {
	t.Parallel()
	var s sound
	path, d := filepath.Join(t.TempDir(), "x"), id.DigestOf([]byte("x"))
	write := func(text string, at time.Time) {
		t.Helper()
		if err := errors.Join(os.WriteFile(path, []byte(text), 0o600), os.Chtimes(path, time.Time{}, at)); err != nil {
			t.Fatal(err)
		}
	}
	at := time.Unix(1000, 0)
	write("x", at)
	if s.holds(path, d) {
		t.Error("sound before it was hashed")
	}
	m, _ := markOf(path)
	s.note(d, m)
	if !s.holds(path, d) {
		t.Error("hashed again for nothing")
	}
	for what, change := range map[string]func(){
		"time": func() { write("y", at.Add(time.Nanosecond)) },
		"size": func() { write("xx", at) },
		"gone": func() { _ = os.Remove(path) },
	} {
		change()
		if s.holds(path, d) {
			t.Errorf("%s changed, and it is still sound", what)
		}
		write("x", at)
	}
	for i := range maxBook + 10 {
		s.note(id.DigestOf([]byte(fmt.Sprint(i))), m)
	}
	if len(s.all) > maxBook {
		t.Errorf("%d remembered", len(s.all))
	}
}

// A copy is absent when the disk says so, not when the disk says nothing.
func TestAbsentIsKnown(t *testing.T) {
	t.Parallel()
	blobs, err := blob.Open(filepath.Join(t.TempDir(), "blobs"), blob.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s := &artifacts{blobs: blobs}
	d := id.DigestOf([]byte("one"))
	if _, here := s.Path(d); here || !s.absent(d) {
		t.Error("there is no copy")
	}
	shard := filepath.Dir(blobs.Path(d))
	if err := errors.Join(os.Remove(shard), os.WriteFile(shard, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, here := s.Path(d); !here || s.absent(d) {
		t.Error("a disk that cannot be read counts as a lost copy")
	}
}

// A lost copy is given up after ten attempts in which somebody said that there is none, however many there were in which nobody
// answered.
func TestLostCopyIsWantedUntilHoldersHaveNone(t *testing.T) {
	t.Parallel()
	d := id.DigestOf([]byte("lost"))
	fetch := func(errs ...error) error {
		e := &transfer.FetchError{Digest: d}
		for _, err := range errs {
			e.Reasons = append(e.Reasons, transfer.Reason{Node: coreA, Err: err})
		}
		return fmt.Errorf("fetch: %w", e)
	}
	away := errors.New("connection refused")
	for name, c := range map[string]struct {
		err     error
		forGood bool
	}{
		"nobody to ask":         {fetch(), false},
		"nobody answers":        {fetch(away, context.DeadlineExceeded), false},
		"busy":                  {fetch(transfer.ErrBusy), false},
		"the ring is not known": {errors.New("look up: no coordinator"), false},
		"one has it no more":    {fetch(away, transfer.ErrNotHeld), true},
		"one sends wrong bytes": {fetch(transfer.ErrLied), true},
		"not known to the ring": {fmt.Errorf("artifact is %w", errNotInRing), true},
	} {
		var m missed
		m.add(d)
		for range missedTries - 1 {
			m.result(d, c.err, time.Minute)
		}
		if len(m.all) != 1 {
			t.Errorf("%s: given up before the last attempt", name)
		}
		m.result(d, c.err, time.Minute)
		if gone := len(m.all) == 0; gone != c.forGood {
			t.Errorf("%s: given up: %v", name, gone)
		}
		m.add(d)
		if m.result(d, nil, time.Minute); len(m.all) != 0 {
			t.Errorf("%s: asked for although it is here", name)
		}
	}
}

// Lost copies whose holders never answer, each of which takes a minute to find out, hold the round up for a period at most; they are
// asked for less and less often, and each has its turn. One whose holder is back is had at its next turn.
func TestLostCopiesOfSilentHoldersTakeTurns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const every, copies = time.Minute, 20
		var m missed
		asked := map[id.Digest]int{}
		for i := range copies {
			m.add(id.DigestOf([]byte{byte(i)}))
		}
		back := false
		again := func(_ context.Context, d id.Digest) error {
			asked[d]++
			if back {
				return nil
			}
			time.Sleep(reconcileFetch)
			return context.DeadlineExceeded
		}
		round := func() {
			begin := time.Now()
			m.round(t.Context(), every, again)
			if took := time.Since(begin); took > every {
				t.Fatalf("a round takes %s", took)
			}
			time.Sleep(every)
		}
		for range copies {
			round()
		}
		if len(asked) != copies {
			t.Errorf("%d of %d had their turn", len(asked), copies)
		}
		for range 24 * 60 {
			round()
		}
		for d, n := range asked {
			if n < 24 || n > 2*24+10 { // two days of minutes, half of which are spent asking
				t.Errorf("%s was asked for %d times", d.Short(), n)
			}
		}
		back = true
		time.Sleep(missedWait)
		if round(); len(m.all) != 0 {
			t.Errorf("%d are not back", len(m.all))
		}
	})
}

// After a request with an unknown outcome the copies go that the ring does not count on any more, and no others; without a reading
// none does.
func TestDiscardOfUnknownOutcome(t *testing.T) {
	t.Parallel()
	unknown := fmt.Errorf("lost: %w", leader.ErrUnknownOutcome)
	for name, c := range map[string]struct {
		err    error
		held   []bool // of two, by the later reading
		read   error
		stay   []bool
		failed bool
	}{
		"given":           {nil, nil, errors.New("not read"), []bool{false, false}, false},
		"refused":         {&leader.Refused{Code: "conflict"}, []bool{false, false}, nil, []bool{true, true}, true},
		"no coordinator":  {leader.ErrNoCoordinator, []bool{false, false}, nil, []bool{true, true}, true},
		"given after all": {unknown, []bool{false, false}, nil, []bool{false, false}, false},
		"not given":       {unknown, []bool{true, true}, nil, []bool{true, true}, true},
		"one is not held": {unknown, []bool{true, false}, nil, []bool{true, false}, true},
		"no reading":      {unknown, []bool{false, false}, errors.New("no coordinator"), []bool{true, true}, true},
	} {
		blobs, err := blob.Open(filepath.Join(t.TempDir(), "blobs"), blob.Options{})
		if err != nil {
			t.Fatal(err)
		}
		s := &artifacts{blobs: blobs, a: &Agent{node: nodeFile{ID: coreA}}}
		var ds []id.Digest
		var listed []ring.Artifact
		for i := range 2 {
			b := []byte{byte(i)}
			path := filepath.Join(t.TempDir(), "file")
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			d := id.DigestOf(b)
			if _, err := blobs.Adopt(t.Context(), path, d); err != nil {
				t.Fatal(err)
			}
			ds = append(ds, d)
			art := ring.Artifact{Digest: d, Holders: []id.Node{edgeC}}
			if c.held != nil && c.held[i] {
				art.Holders = append(art.Holders, coreA)
			}
			listed = append(listed, art)
		}
		err = s.discarded(t.Context(), ds, c.err, func(context.Context, []id.Digest) ([]ring.Artifact, error) { return listed, c.read })
		if (err != nil) != c.failed {
			t.Errorf("%s: %v", name, err)
		}
		for i, d := range ds {
			if blobs.Has(d) != c.stay[i] {
				t.Errorf("%s: copy %d stays: %v", name, i, blobs.Has(d))
			}
		}
	}
}
