package agent

import (
	"context"
	"errors"
	"fmt"

	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/mesh"
)

// A rented node holds only the roster, assignments, settings and names. What its sync daemon and its fetches need beside
// them, it asks of a core node: a few records instead of the whole state every few seconds.

const methodRecords = "agent.records"

// recordsCall asks for artifacts: those named, or with Own those that the caller made and that have not got their receipts,
// or with Held those that the caller has receipts for, in order of arrival after After.
type recordsCall struct {
	Digests []id.Digest `json:"digests,omitempty"`
	Own     bool        `json:"own,omitempty"`
	Held    bool        `json:"held,omitempty"`
	After   uint64      `json:"after,omitempty"`
}

type recordsAnswer struct {
	Index     uint64          `json:"index"`
	Artifacts []ring.Artifact `json:"artifacts"`
	More      bool            `json:"more,omitempty"` // of Held
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
	out := recordsAnswer{Index: s.Index(), Artifacts: []ring.Artifact{}}
	for _, d := range in.Digests {
		if art, ok := s.Artifact(d); ok {
			out.Artifacts = append(out.Artifacts, art)
		}
	}
	if in.Own {
		for art := range s.Artifacts(ring.KindPack, "", 0) {
			if art.Origin == r.Peer.Node && !art.Safe && len(out.Artifacts) < maxRecords {
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

// records asks the core nodes in turn.
func (a *Agent) records(ctx context.Context, c recordsCall) (recordsAnswer, error) {
	var out recordsAnswer
	err := errors.New("no core node answers")
	for _, n := range a.viewNodes() {
		if err = a.mesh.Call(ctx, n, methodRecords, c, &out); err == nil {
			return out, nil
		}
	}
	return out, fmt.Errorf("ask for artifact records: %w: %w", kit.ErrNoCoordinator, err)
}

// edgeViews give a daemon of a rented node its readings.
type edgeViews struct {
	views
	a *Agent
}

// Current implements kit.Views.
func (v edgeViews) Current(ctx context.Context) (kit.View, error) {
	got, err := v.a.records(ctx, recordsCall{Own: true})
	if err != nil {
		return kit.View{}, err
	}
	out := v.Near()
	out.Index = max(out.Index, got.Index)
	lib := ownLibrary{Library: out.Library, ctx: ctx, a: v.a, own: map[id.Digest]ring.Artifact{}}
	for _, art := range got.Artifacts {
		lib.own[art.Digest] = art
	}
	out.Library = lib
	return out, nil
}

// ownLibrary knows this node's unfinished packs, and asks for what else is looked up.
type ownLibrary struct {
	kit.Library
	ctx context.Context //nolint:containedctx // the life of the reading
	a   *Agent
	own map[id.Digest]ring.Artifact
}

// Artifact implements kit.Library.
func (l ownLibrary) Artifact(d id.Digest) (ring.Artifact, bool) {
	if art, ok := l.own[d]; ok {
		return art, true
	}
	got, err := l.a.records(l.ctx, recordsCall{Digests: []id.Digest{d}})
	if err != nil || len(got.Artifacts) != 1 {
		return ring.Artifact{}, false
	}
	l.own[d] = got.Artifacts[0]
	return got.Artifacts[0], true
}
