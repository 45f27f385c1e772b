package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/mesh"
)

// A rented node holds only the roster, assignments, settings and names. What its sync daemon and its fetches need beside
// them, it asks of a core node: a few records instead of the whole state every few seconds.

const methodRecords = "agent.records"

// recordsCall asks for artifacts: those named, or with Own those that the caller made and that have not got their receipts,
// or with Held those that the caller has receipts for, in order of arrival after After, or with Joined some of those that are
// packs whose games another pack has by now, or files that are to become such a pack.
type recordsCall struct {
	Digests []id.Digest `json:"digests,omitempty"`
	Own     bool        `json:"own,omitempty"`
	Held    bool        `json:"held,omitempty"`
	After   uint64      `json:"after,omitempty"`
	Joined  bool        `json:"joined,omitempty"`
}

type recordsAnswer struct {
	Index     uint64          `json:"index"`
	Artifacts []ring.Artifact `json:"artifacts"`
	More      bool            `json:"more,omitempty"` // of Held
	Room      *kit.Room       `json:"room,omitempty"` // nil: of an older build
}

// maxRecords bounds one call.
const maxRecords = 4096

// serveRecords answers from a state that is at least as new as the call.
func (a *Agent) serveRecords(ctx context.Context, r *mesh.Request) (any, error) {
	var in recordsCall
	if err := r.Decode(&in); err != nil {
		return nil, err
	}
	if len(in.Digests) > maxRecords {
		return nil, mesh.Errorf(mesh.CodeInvalid, "at most %d digests", maxRecords)
	}
	s, err := a.current(ctx)
	if err != nil {
		return nil, mesh.Errorf(mesh.CodeNoQuorum, "%v", err)
	}
	out := recordsAnswer{Index: s.Index(), Artifacts: []ring.Artifact{}, Room: roomOf(s)}
	for _, d := range in.Digests {
		if art, ok := s.Artifact(d); ok {
			out.Artifacts = append(out.Artifacts, art)
		}
	}
	if in.Own {
		for art := range s.OpenPacks(r.Peer.Node) {
			if len(out.Artifacts) >= maxRecords {
				break
			}
			out.Artifacts = append(out.Artifacts, art)
		}
	}
	if in.Joined {
		for art := range s.Artifacts(ring.ListJoined, "", 0) {
			if len(out.Artifacts) >= maxRecords {
				break
			}
			if art.Held(r.Peer.Node) {
				out.Artifacts = append(out.Artifacts, art)
			}
		}
	}
	if in.Held {
		last := uint64(0)
		for art := range s.Artifacts("", "", in.After) {
			// Those that arrived together have one place in the order: all of them or none.
			if out.More = len(out.Artifacts) >= maxRecords && art.Seq > last; out.More {
				break
			}
			if art.Held(r.Peer.Node) {
				out.Artifacts = append(out.Artifacts, art)
				last = art.Seq
			}
		}
	}
	return out, nil
}

// records asks the core nodes in turn, first the one that answered last: any of them answers by the newest state.
func (a *Agent) records(ctx context.Context, c recordsCall) (recordsAnswer, error) {
	var out recordsAnswer
	err := inTurn(ctx, a.viewNodes(), &a.recordsBy, a.answers, func(ctx context.Context, n id.Node) error {
		return a.mesh.Call(ctx, n, methodRecords, c, &out)
	})
	if err != nil {
		return out, fmt.Errorf("ask for artifact records: %w: %w", kit.ErrNoCoordinator, err)
	}
	return out, nil
}

// inTurn calls nodes until one answers, and remembers that one. Others are called only if they are there: each that is gone
// without a word would cost a call's whole time, and who drains has little of it.
func inTurn(ctx context.Context, nodes []id.Node, last *atomic.Pointer[id.Node], there, call func(context.Context, id.Node) error) error {
	if n := last.Load(); n != nil && slices.Contains(nodes, *n) {
		nodes = append([]id.Node{*n}, slices.DeleteFunc(slices.Clone(nodes), func(o id.Node) bool { return o == *n })...)
	}
	err := errors.New("no core node answers")
	for _, n := range nodes {
		if err = there(ctx, n); err != nil {
			continue
		}
		if err = call(ctx, n); err == nil {
			last.Store(&n)
			return nil
		}
	}
	last.Store(nil)
	return err
}

// asker asks core nodes for records.
type asker func(context.Context, recordsCall) (recordsAnswer, error)

// edgeViews give a daemon of a rented node its readings.
type edgeViews struct {
	views
	self id.Node
	ask  asker
}

// Current implements kit.Views.
func (v edgeViews) Current(ctx context.Context, named ...id.Digest) (kit.View, error) {
	got, err := v.ask(ctx, recordsCall{Own: true})
	if err != nil {
		return kit.View{}, err
	}
	out := v.Near()
	out.Index, out.Room = max(out.Index, got.Index), got.Room
	lib := ownLibrary{Library: out.Library, ctx: ctx, ask: v.ask, self: v.self, known: map[id.Digest]ring.Artifact{}, none: map[id.Digest]bool{}}
	lib.learn(got)
	var open []id.Digest
	for _, d := range named {
		if _, ok := lib.known[d]; !ok {
			open = append(open, d)
		}
	}
	for some := range slices.Chunk(open, maxNamed) {
		if got, err = v.ask(ctx, recordsCall{Digests: some}); err != nil {
			return kit.View{}, err
		}
		lib.learn(got, some...)
	}
	out.Library = lib
	return out, nil
}

// maxNamed is how many artifacts one call asks for.
const maxNamed = 512

// ownLibrary knows this node's unfinished packs and the artifacts that its reader named, and asks for what else is looked up.
type ownLibrary struct {
	kit.Library
	ctx   context.Context //nolint:containedctx // the life of the reading
	ask   asker
	self  id.Node
	known map[id.Digest]ring.Artifact
	none  map[id.Digest]bool // nobody knows them
}

// learn takes an answer in; asked are the artifacts of which it says all that there is.
func (l ownLibrary) learn(got recordsAnswer, asked ...id.Digest) {
	for _, art := range got.Artifacts {
		l.known[art.Digest] = art
	}
	for _, d := range asked {
		if _, ok := l.known[d]; !ok {
			l.none[d] = true
		}
	}
}

// Artifacts implements kit.Library.
func (l ownLibrary) Artifacts(k ring.Kind, c id.Config) []ring.Artifact {
	if k != ring.ListJoined {
		return l.Library.Artifacts(k, c)
	}
	got, err := l.ask(l.ctx, recordsCall{Joined: true})
	if err != nil {
		return nil
	}
	return slices.DeleteFunc(got.Artifacts, func(a ring.Artifact) bool { return !a.Held(l.self) || c != "" && a.Config != c })
}

// Artifact implements kit.Library.
func (l ownLibrary) Artifact(d id.Digest) (ring.Artifact, bool) {
	if _, ok := l.known[d]; !ok && !l.none[d] {
		got, err := l.ask(l.ctx, recordsCall{Digests: []id.Digest{d}})
		if err != nil {
			return ring.Artifact{}, false
		}
		l.learn(got, d)
	}
	art, ok := l.known[d]
	return art, ok
}
