package agent

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/leader"
	"github.com/ringagent/ringagent/leader/state"
)

// standing is a state that does not change.
type standing struct{ s *state.State }

func (s standing) View() *state.State                         { return s.s }
func (s standing) Freshness() leader.Freshness                { return leader.Freshness{Known: true} }
func (s standing) Read(context.Context) (*state.State, error) { return s.s, nil }

// What a rented node names is in its reading, known or not, or there is no reading: a look-up that gets no answer is not one
// that finds nothing.
func TestEdgeReadingKnowsWhatWasNamed(t *testing.T) {
	t.Parallel()
	f := newFolded(t)
	mine := f.add("mine", ring.KindPack, edgeC, 3, edgeC)
	theirs := f.add("theirs", ring.KindModel, coreA, 0, coreA)
	none := id.DigestOf([]byte("nobody has heard of it"))
	s := f.m.View()
	var calls, fail int // the call that fails, from 1
	v := edgeViews{views: views{state: standing{s}}, ask: func(_ context.Context, c recordsCall) (recordsAnswer, error) {
		if calls++; calls == fail {
			return recordsAnswer{}, errors.New("no answer")
		}
		var out recordsAnswer
		for a := range s.Artifacts("", "", 0) {
			if c.Own && a.Origin == edgeC && !a.Safe || slices.Contains(c.Digests, a.Digest) {
				out.Artifacts = append(out.Artifacts, a)
			}
		}
		return out, nil
	}}
	for fail = 1; fail <= 2; fail++ {
		calls = 0
		if _, err := v.Current(t.Context(), mine, theirs, none); err == nil {
			t.Errorf("a reading although call %d got no answer", fail)
		}
	}
	calls, fail = 0, 3
	got, err := v.Current(t.Context(), mine, theirs, none)
	if err != nil {
		t.Fatal(err)
	}
	for d, want := range map[id.Digest]bool{mine: true, theirs: true, none: false} {
		if a, ok := got.Library.Artifact(d); ok != want || ok && a.Digest != d {
			t.Errorf("artifact %s: known %v, want %v", d.Short(), ok, want)
		}
	}
	if calls != 2 {
		t.Errorf("%d calls for what was named", calls)
	}
	many := make([]id.Digest, 2*maxNamed+1)
	for i := range many {
		many[i] = id.DigestOf([]byte{byte(i), byte(i >> 8)})
	}
	calls, fail = 0, 0
	if _, err := v.Current(t.Context(), many...); err != nil || calls != 4 {
		t.Errorf("%d calls for %d named: %v", calls, len(many), err)
	}
}

// A node that reaches one core node only does not wait for the others' calls, and for nobody any more once it knows that one.
func TestRecordsAreAskedOfWhoIsThere(t *testing.T) {
	t.Parallel()
	nodes := []id.Node{"1", "2", "3"}
	there := id.Node("3")
	var last atomic.Pointer[id.Node]
	var pinged, called []id.Node
	ask := func() error {
		pinged, called = nil, nil
		return inTurn(t.Context(), nodes, &last, func(_ context.Context, n id.Node) error {
			if pinged = append(pinged, n); n != there {
				return errors.New("does not answer")
			}
			return nil
		}, func(_ context.Context, n id.Node) error {
			called = append(called, n)
			return nil
		})
	}
	for i, want := range []struct{ there, pinged, called string }{
		{"3", "1 2 3", "3"},
		{"3", "3", "3"},
		{"2", "3 1 2", "2"},
		{"2", "2", "2"},
		{"", "2 1 3", ""},
		{"1", "1", "1"},
	} {
		there = id.Node(want.there)
		err := ask()
		if join(pinged) != want.pinged || join(called) != want.called || (err == nil) != (want.there != "") {
			t.Errorf("call %d: pinged %v, called %v: %v", i, pinged, called, err)
		}
	}
}

func join(nodes []id.Node) string {
	var out []string
	for _, n := range nodes {
		out = append(out, string(n))
	}
	return strings.Join(out, " ")
}
