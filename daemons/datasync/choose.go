package datasync

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/internal/gamedb"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// offer chooses from a config's packs, with what the ledger says of each, what is joined next.
func (j *joiner) offer(v kit.View, c id.Config, packs []ring.Artifact, entered map[id.Digest]gamedb.Entered) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.set.After == 0 || len(j.offers[c]) > 0 || j.now().Before(j.later[c]) || !j.turn(v, c) {
		return
	}
	over := func(_ id.Digest, until time.Time) bool { return !j.now().Before(until) }
	maps.DeleteFunc(j.refused, over)
	maps.DeleteFunc(j.failed, over)
	j.offers[c] = j.choose(packs, entered)
}

// taken is what was offered, and makes room for the next offer.
func (j *joiner) taken(c id.Config) []ring.Artifact {
	j.mu.Lock()
	defer j.mu.Unlock()
	group := j.offers[c]
	delete(j.offers, c)
	return group
}

// turn says whether this node joins the config's packs now. All core nodes that see one roster agree.
func (j *joiner) turn(v kit.View, c id.Config) bool {
	best, first := id.Digest(""), id.Node("")
	for _, m := range v.Fleet.Members() {
		if m.Class != id.Core || !m.Serves() {
			continue
		}
		if d := id.DigestOf(fmt.Appendf(nil, "%s %d %s", c, j.now().Unix()/int64(joinTurn.Seconds()), m.ID)); first == "" || d < best {
			best, first = d, m.ID
		}
	}
	return first == j.self.ID
}

// elsewhere says whether another core node that is there has a joined pack of the config on its way: what holds that up would hold
// up one of this node as well, and each is a file on several disks.
func (j *joiner) elsewhere(v kit.View, c id.Config) bool {
	return slices.ContainsFunc(v.Library.Artifacts(ring.ListJoined, c), func(a ring.Artifact) bool {
		if a.Joined != "" || a.Origin == j.self.ID || !a.Held(a.Origin) {
			return false
		}
		m, ok := v.Fleet.Member(a.Origin)
		age := j.now().Sub(a.Created)
		return ok && m.Class == id.Core && m.Serves() && age > -joinWait && age < joinWait
	})
}

// begun notes a joined pack that is on its way, and waiting says whether one is.
func (j *joiner) begun(c id.Config, p joined) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.under[c] = p.Digest
}

func (j *joiner) waiting(d id.Digest) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, under := range j.under {
		if under == d {
			return true
		}
	}
	return false
}

// leave has a pack stay as it is.
func (j *joiner) leave(d id.Digest, why error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.unfit[d] = true
	j.log.Warn().Err(why).Str("pack", d.Short()).Msg("pack is not joined with others")
}

// putOff has a group that this machine could not join wait, and others go first then: what is wrong may be one pack's.
func (j *joiner) putOff(c id.Config, group []ring.Artifact) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.later[c] = j.now().Add(joinRetry)
	for _, a := range group {
		j.failed[a.Digest] = j.now().Add(failedRest)
	}
}

// choose is the oldest packs that are worth joining, or nothing. They lie next to each other in the order of packs, so that of
// two games with one id the same one stays the first. Those that failed come last.
func (j *joiner) choose(packs []ring.Artifact, entered map[id.Digest]gamedb.Entered) []ring.Artifact {
	if len(j.failed) > 0 {
		if run := j.run(packs, entered, j.failed); run != nil {
			return run
		}
	}
	return j.run(packs, entered, nil)
}

// run is the oldest packs worth joining, without those in but.
func (j *joiner) run(packs []ring.Artifact, entered map[id.Digest]gamedb.Entered, but map[id.Digest]time.Time) []ring.Artifact {
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
		if _, no := but[a.Digest]; no {
			return false
		}
		if _, no := j.refused[a.Digest]; no {
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
			cellGames, cellBytes = ring.AddGames(cellGames, a.Counters[ring.CounterGames]), cellBytes+a.Bytes
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
