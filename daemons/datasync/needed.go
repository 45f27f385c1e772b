package datasync

import (
	"slices"

	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

func digests(list []ring.Artifact) []id.Digest {
	out := make([]id.Digest, len(list))
	for i, a := range list {
		out[i] = a.Digest
	}
	return out
}

// intact says that all packs can still be joined, as far as v knows.
func intact(v kit.View, packs []id.Digest) bool {
	return !slices.ContainsFunc(packs, func(d id.Digest) bool {
		a, ok := v.Library.Artifact(d)
		return !ok || a.Joined != ""
	})
}

func setOf(list []id.Digest) map[id.Digest]bool {
	out := make(map[id.Digest]bool, len(list))
	for _, d := range list {
		out[d] = true
	}
	return out
}

// needed says whether unfinished work reads one of the packs, or a list of packs of the config. The state has the last word, by the
// same rule: what only it takes for needed would be asked for in vain, an entry of the log each time, until the work is finished.
func needed(v kit.View, c id.Config, packs map[id.Digest]bool) bool {
	for _, w := range v.Queue.Items("", "") {
		if w.State.Finished() {
			continue
		}
		for _, in := range w.Inputs {
			if packs[in.Digest] || w.Type == kit.StageExport && w.Config == c && listed(v, in) {
				return true
			}
		}
	}
	return false
}

// listed says whether an input of an export may be a list of packs: whatever is not known to be a pack.
func listed(v kit.View, in ring.Input) bool {
	a, ok := v.Library.Artifact(in.Digest)
	return !ok || a.Kind != ring.KindPack
}
