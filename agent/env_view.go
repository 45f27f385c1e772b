package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"

	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/leader"
	"github.com/ringagent/ringagent/leader/state"
)

// stateReader is what reads the replicated state: the leader package's node.
type stateReader interface {
	View() *state.State
	Freshness() leader.Freshness
	Read(ctx context.Context) (*state.State, error)
}

// views gives one daemon its readings.
type views struct {
	daemon string
	state  stateReader
}

// viewsFor gives a daemon its readings.
func (a *Agent) viewsFor(daemon string) kit.Views {
	v := views{daemon: daemon, state: a.leader}
	if a.node.Class == id.Edge {
		return edgeViews{views: v, self: a.node.ID, ask: a.records}
	}
	return v
}

func (v views) Near() kit.View {
	f := v.state.Freshness() // first: what was known then is in the view
	return v.wrap(v.state.View(), f)
}

func (v views) Current(ctx context.Context, _ ...id.Digest) (kit.View, error) {
	s, err := v.state.Read(ctx)
	if err != nil {
		return kit.View{}, kitError("read current state", err)
	}
	out := v.wrap(s, v.state.Freshness())
	out.Room, out.Joins = roomOf(s), s.CoreCommands() >= state.VersionJoin
	return out, nil
}

func (v views) wrap(s *state.State, f leader.Freshness) kit.View {
	settings, _ := s.Settings()
	one := viewOf{s: s, daemon: v.daemon}
	return kit.View{Generation: s.Generation(), Index: s.Index(), AsOf: f.AsOf, Known: f.Known, Fleet: one, Queue: one, Library: one, Notes: one, Ring: settings}
}

func roomOf(s *state.State) *kit.Room {
	return &kit.Room{Left: max(0, state.MaxArtifacts-s.ArtifactCount()), Of: state.MaxArtifacts}
}

// viewOf shows a state in the kit's words.
type viewOf struct {
	s      *state.State
	daemon string
}

func (v viewOf) Members() []ring.Member                      { return slices.Collect(v.s.Members()) }
func (v viewOf) Member(n id.Node) (ring.Member, bool)        { return v.s.Member(n) }
func (v viewOf) Assignment(d string) (ring.Assignment, bool) { return v.s.Assignment(d) }
func (v viewOf) ByKey(key string) (ring.WorkItem, bool)      { return v.s.WorkByKey(key) }
func (v viewOf) Item(workID string) (ring.WorkItem, bool)    { return v.s.Work(workID) }
func (v viewOf) Artifact(d id.Digest) (ring.Artifact, bool)  { return v.s.Artifact(d) }
func (v viewOf) Name(key string) (ring.Name, bool)           { return v.s.Name(key) }
func (v viewOf) Note(key string) (json.RawMessage, bool)     { return v.Of(v.daemon, key) }

func (v viewOf) Of(daemon, key string) (json.RawMessage, bool) {
	n, ok := v.s.Note(daemon, key)
	return n.Value, ok
}

func (v viewOf) Items(workType string, c id.Config) []ring.WorkItem {
	items := v.s.WorkItems()
	if workType != "" {
		items = v.s.WorkOf(workType)
	}
	return collect(items, func(w ring.WorkItem) bool { return c == "" || w.Config == c })
}

func (v viewOf) Artifacts(k ring.Kind, c id.Config) []ring.Artifact {
	return slices.Collect(v.s.Artifacts(k, c, 0))
}

func collect[T any](all iter.Seq[T], keep func(T) bool) []T {
	var out []T
	for x := range all {
		if keep(x) {
			out = append(out, x)
		}
	}
	return out
}

// kitError puts the leader's errors into the words that daemons branch on.
func kitError(what string, err error) error {
	var refused *leader.Refused
	switch {
	case err == nil:
		return nil
	case errors.Is(err, leader.ErrNoCoordinator):
		return fmt.Errorf("%s: %w", what, kit.ErrNoCoordinator)
	case errors.As(err, &refused) && state.Code(refused.Code) == state.CodeStale:
		return fmt.Errorf("%s: %w: %s", what, kit.ErrStaleEpoch, refused.Message)
	case errors.As(err, &refused) && state.Code(refused.Code) == state.CodeConflict:
		return fmt.Errorf("%s: %w: %s", what, kit.ErrConflict, refused.Message)
	case errors.As(err, &refused) && state.Code(refused.Code) == state.CodeNotFound:
		return fmt.Errorf("%s: %w: %s", what, kit.ErrNotFound, refused.Message)
	}
	return fmt.Errorf("%s: %w", what, err)
}
