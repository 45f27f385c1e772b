package kittest

import (
	"fmt"
	"maps"
	"slices"

	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// Joins says whether packs may be joined.
func (r *Ring) Joins(may bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.joins = may
}

// join does what the state machine does where it does not refuse; of its reasons to refuse it knows those that a daemon branches on.
func (r *Ring) join(to id.Digest, games int64, packs []id.Digest) error {
	at := func(d id.Digest) int {
		return slices.IndexFunc(r.artifacts, func(a ring.Artifact) bool { return a.Digest == d })
	}
	i := at(to)
	if i < 0 {
		return fmt.Errorf("artifact %s: %w", to.Short(), kit.ErrNotFound)
	}
	j := r.artifacts[i]
	var counted int64
	for _, d := range packs {
		k := at(d)
		if k < 0 {
			return fmt.Errorf("pack %s: %w", d.Short(), kit.ErrNotFound)
		}
		a := r.artifacts[k]
		if a.Joined != "" {
			return fmt.Errorf("pack %s: %w", d.Short(), kit.ErrConflict)
		}
		counted += a.Games()
	}
	if j.Kind != ring.KindFile || j.Labels[ring.LabelJoins] == "" || counted > games || !r.carries(j) {
		return fmt.Errorf("join %d games in %s: refused", counted, to.Short())
	}
	r.index++
	for _, d := range packs {
		k := at(d)
		r.artifacts[k].Joined = to
		j.Place = max(j.Place, r.artifacts[k].Order())
		if j.First == 0 || r.artifacts[k].Order() < j.First {
			j.First = r.artifacts[k].Order()
		}
	}
	j.Kind, j.Seq, j.Safe, j.Labels = ring.KindPack, r.index, true, maps.Clone(j.Labels)
	delete(j.Labels, ring.LabelJoins)
	j.Counters = map[string]int64{ring.CounterGames: games, ring.CounterRepeats: games - counted}
	r.artifacts = append(slices.Delete(r.artifacts, i, i+1), j)
	return nil
}

func (r *Ring) carries(a ring.Artifact) bool {
	n, core := kit.Copies(r.members, a, "")
	return core && n >= min(len(r.members), r.settings.CopiesOf(ring.KindPack))
}

// permit lets copies of joined packs go, and of files that never became one: all of them, or none.
func (r *Ring) permit(n id.Node, ds []id.Digest) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, d := range ds {
		a, ok := find(r.artifacts, func(a ring.Artifact) bool { return a.Digest == d })
		to, _ := find(r.artifacts, func(o ring.Artifact) bool { return o.Digest == a.Joined })
		switch {
		case !ok || !a.Held(n):
			return fmt.Errorf("artifact %s: %w", d.Short(), kit.ErrNotFound)
		case a.Joined != "" && !r.carries(to), a.Joined == "" && a.Labels[ring.LabelJoins] == "":
			return fmt.Errorf("artifact %s: refused", d.Short())
		}
	}
	r.index++
	for _, d := range ds {
		i := slices.IndexFunc(r.artifacts, func(a ring.Artifact) bool { return a.Digest == d })
		a := r.artifacts[i]
		a.Holders = slices.DeleteFunc(slices.Clone(a.Holders), func(h id.Node) bool { return h == n })
		if r.artifacts[i] = a; len(a.Holders) == 0 {
			r.artifacts = slices.Delete(r.artifacts, i, i+1)
		}
	}
	return nil
}
