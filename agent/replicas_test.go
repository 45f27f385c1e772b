package agent

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/mesh"
	"github.com/ringagent/ringagent/mesh/meshtest"
)

// A replica is held against the asked node's where both have a seq, whichever of the two is ahead; the first seq that differs is named.
func TestReplicaAheadIsCompared(t *testing.T) {
	t.Parallel()
	chain := func(last, differs uint64) func(uint64) (string, error) {
		return func(seq uint64) (string, error) {
			if seq < 1 || seq > last {
				return "", fmt.Errorf("seq %d is not there", seq)
			}
			if differs != 0 && seq >= differs {
				return fmt.Sprint("other ", seq), nil
			}
			return fmt.Sprint(seq), nil
		}
	}
	row := func(name string, oldest, last uint64, hash func(uint64) (string, error)) api.VerifyNode {
		h, _ := hash(last)
		return api.VerifyNode{Node: name, OK: new(true), Oldest: &oldest, LastSeq: &last, Hash: &h}
	}
	mine := chain(100, 0)
	here := row("here", 3, 100, mine)
	for _, c := range []struct{ oldest, last, differs, want uint64 }{
		{1, 100, 0, 0}, {1, 150, 0, 0}, {1, 60, 0, 0}, {1, 0, 0, 0},
		{1, 150, 77, 77}, {1, 150, 100, 100}, {1, 150, 1, 3}, {90, 150, 40, 90}, {1, 60, 60, 60}, {1, 60, 9, 9}, {1, 100, 50, 50},
		{1, 150, 101, 0},  // they agree as far as both go
		{120, 150, 40, 0}, // nothing in common is kept
	} {
		its := chain(c.last, c.differs)
		got := compared(here, row("there", c.oldest, c.last, its), mine, its)
		switch {
		case c.want == 0 && !*got.OK:
			t.Errorf("%+v: %+v", c, got)
		case c.want != 0 && (*got.OK || got.FirstBad == nil || *got.FirstBad != c.want):
			t.Errorf("%+v: ok %v, first bad %v", c, *got.OK, got.FirstBad)
		}
	}
	// What cannot be compared is no proof.
	gone := func(uint64) (string, error) { return "", errors.New("gone") }
	if got := compared(here, row("there", 1, 150, chain(150, 0)), mine, gone); got.OK != nil || got.Error == "" {
		t.Errorf("not compared: %+v", got)
	}
	// A difference that was seen stays one, though where it begins cannot be found.
	once := func(hash func(uint64) (string, error)) func(uint64) (string, error) {
		asked := 0
		return func(seq uint64) (string, error) {
			if asked++; asked > 1 {
				return gone(seq)
			}
			return hash(seq)
		}
	}
	its := chain(150, 40)
	if got := compared(here, row("there", 1, 150, its), mine, once(its)); got.OK == nil || *got.OK || got.FirstBad == nil || *got.FirstBad != 100 || got.Error == "" {
		t.Errorf("a difference whose beginning is not found: %+v", got)
	}
	for _, bad := range []api.VerifyNode{{Node: "silent"}, {Node: "odd", OK: new(true)}, {Node: "broken", OK: new(false)}} {
		if got := compared(here, bad, mine, gone); got.Error != "" {
			t.Errorf("%+v", got)
		}
	}
}

// aloneMesh is the mesh of a ring of one node, with a network in memory.
func aloneMesh(t *testing.T) *mesh.Mesh {
	t.Helper()
	dir := t.TempDir()
	if _, err := mesh.InitRing(mesh.InitOptions{DataDir: dir, RingName: "test", NodeName: "c1"}); err != nil {
		t.Fatal(err)
	}
	known, err := openRoster(filepath.Join(dir, "roster.json"))
	if err != nil {
		t.Fatal(err)
	}
	m, err := mesh.Open(t.Context(), mesh.Config{
		DataDir: dir, Listen: "127.0.7.1:8770", Boot: id.NewBoot(), Roster: known, Network: meshtest.New(1).Host("127.0.7.1"), Log: zerolog.Nop(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}

// A replica that is there may take long to be hashed: it is not given up as soon as any other call would be.
func TestReplicaIsGivenTimeToBeHashed(t *testing.T) {
	t.Parallel()
	m := aloneMesh(t)
	var given time.Duration
	m.Handle(methodVerify, mesh.Everybody, func(ctx context.Context, _ *mesh.Request) (any, error) {
		if until, ok := ctx.Deadline(); ok {
			given = time.Until(until)
		}
		return api.VerifyNode{OK: new(true)}, nil
	})
	a := &Agent{mesh: m}
	if v := a.verifyThere(t.Context(), m.ID(), "c1"); v.OK == nil || v.Node != "c1" || given < hashWait/2 {
		t.Errorf("%+v, given %s of %s", v, given, hashWait)
	}
}
