package datasync

import (
	"cmp"
	"slices"

	"github.com/ringagent/ringagent/internal/gamedb"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// choose is the oldest packs that are worth joining, or nothing. They lie next to each other in the order of packs, so that of
// two games with one id the same one stays the first.
func (j *joiner) choose(packs []ring.Artifact, entered map[id.Digest]gamedb.Entered) []ring.Artifact {
	packs = slices.Clone(packs)
	slices.SortStableFunc(packs, func(a, b ring.Artifact) int {
		return cmp.Or(cmp.Compare(a.Order(), b.Order()), cmp.Compare(a.Digest, b.Digest))
	})
	// The time of a pack is what its node said. One that is yet to come says nothing: what stands around it in the order does.
	now := j.now()
	young := now.Add(-j.set.After.D())
	fits := func(a ring.Artifact) bool {
		e, ok := entered[a.Digest]
		if !ok || e.Seq != a.Order() || e.Repeats != a.Counters[ring.CounterRepeats] { // what is counted twice is known, and said
			return false
		}
		if !a.Safe || a.Place != 0 || j.unfit[a.Digest] || a.Counters[ring.CounterGames] > mostJoinedGames/4 || a.Bytes > mostJoinedBytes/4 {
			return false
		}
		_, here := j.store.Path(a.Digest)
		return here
	}
	var run []ring.Artifact
	var games, bytes int64
	for len(packs) > 0 {
		// Packs of one place in the order stay together.
		n := 1
		for n < len(packs) && packs[n].Order() == packs[0].Order() {
			n++
		}
		cell := packs[:n]
		packs = packs[n:]
		if slices.ContainsFunc(cell, func(a ring.Artifact) bool { return a.Created.After(young) && !a.Created.After(now) }) {
			break
		}
		var cellGames, cellBytes int64
		for _, a := range cell {
			cellGames, cellBytes = cellGames+a.Counters[ring.CounterGames], cellBytes+a.Bytes
		}
		fit := !slices.ContainsFunc(cell, func(a ring.Artifact) bool { return !fits(a) })
		if !fit || len(run)+n > mostJoined || games+cellGames > mostJoinedGames || bytes+cellBytes > mostJoinedBytes {
			if len(run) >= min(fewestFull, j.set.Packs) {
				return run
			}
			run, games, bytes = nil, 0, 0
		}
		if fit && n <= mostJoined && cellGames <= mostJoinedGames && cellBytes <= mostJoinedBytes {
			run, games, bytes = append(run, cell...), games+cellGames, bytes+cellBytes
		}
	}
	if len(run) < j.set.Packs {
		return nil
	}
	return run
}
