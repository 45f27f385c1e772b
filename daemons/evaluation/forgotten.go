package evaluation

import (
	"slices"
	"time"

	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// forgotten is the finished evaluations that the queue has forgotten, as far as they can be told from their models and the
// matches made of them, in order of the models: a candidate must not lose its verdict because nobody could give one for a
// thousand items. Champions, former ones too, have had theirs.
func forgotten(v kit.View, c id.Config, name ring.Name) []ring.WorkItem {
	// The oldest matches in which a model had a part are its own: it is measured before anybody is measured against it.
	own := map[id.Digest]ring.Artifact{}
	for _, a := range v.Library.Artifacts(ring.KindMatches, c) {
		for _, p := range a.Parents {
			if _, older := own[p]; !older {
				own[p] = a
			}
		}
	}
	var out []ring.WorkItem
	for _, m := range v.Library.Artifacts(ring.KindModel, c) {
		matches, measured := own[m.Digest]
		if !measured || !served(v, matches) || m.Digest == name.Digest || formerly(name, m.Digest) {
			continue
		}
		w, known := v.Queue.ByKey(kit.EvaluateKey(c, m.Digest))
		if _, kept := v.Queue.Item(w.ID); known && (kept || w.State != ring.WorkDone) {
			continue
		}
		if !known {
			w = ring.WorkItem{Type: kit.StageEvaluate, Key: kit.EvaluateKey(c, m.Digest), State: ring.WorkDone,
				Finished: matches.Created.Add(-clockSlack)}
		}
		w.Config, w.Inputs = c, []ring.Input{{Role: kit.RoleCandidate, Digest: m.Digest}}
		w.Result = &ring.WorkResult{Outputs: []ring.Output{{Role: kit.RoleMatches, Kind: ring.KindMatches, Digest: matches.Digest}}}
		out = append(out, w)
	}
	return out
}

// clockSlack is how far the clock of the machine that measured may be ahead: it must not look as if a candidate with its verdict,
// of which no more is kept than when that was, had been measured later than its item said.
const clockSlack = 5 * time.Minute

// served says that somebody who can serve them holds the bytes: a verdict that cannot be given must not keep coming back.
func served(v kit.View, a ring.Artifact) bool {
	return slices.ContainsFunc(a.Holders, func(n id.Node) bool {
		m, ok := v.Fleet.Member(n)
		return ok && m.Serves()
	})
}
