package state

import (
	"maps"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// Packs are small, since a node must not keep games to itself for long, and a ring makes very many of them. Joined into larger
// ones they leave the state again: what is joined stays known until its last holder has deleted its copy. A joined pack is not
// joined again, so that the pack that has a game's bytes is never further away than one step.

// MaxJoined bounds one JoinPacks.
const MaxJoined = 512

// spareForJoins is room for what makes room, where there is no other left.
const spareForJoins = 1000

// joining says that an artifact is to become a joined pack and is none yet.
func joining(a ring.Artifact) bool { return a.Kind == ring.KindFile && a.Labels[ring.LabelJoins] != "" }

func (t *txn) joinPacks(b JoinPacks) error {
	to, ok := t.s.artifact(b.Joined)
	switch {
	case !ok:
		return refuse(CodeNotFound, "artifact %s is unknown", b.Joined.Short())
	case !joining(to) || to.Config == "" || to.Labels[ring.LabelJoins] != string(to.Config):
		return refuse(CodeInvalid, "artifact %s is no file that was made to join packs", to.Digest.Short())
	case len(b.Packs) < 2 || len(b.Packs) > MaxJoined:
		return refuse(CodeInvalid, "%d packs to join: want 2 to %d", len(b.Packs), MaxJoined)
	}
	packs := make([]ring.Artifact, 0, len(b.Packs))
	seen := make(map[id.Digest]bool, len(b.Packs))
	var counted int64
	for _, d := range b.Packs {
		a, ok := t.s.artifact(d)
		switch {
		case !ok:
			return refuse(CodeNotFound, "pack %s is unknown", d.Short())
		case seen[d]:
			return refuse(CodeInvalid, "pack %s is named twice", d.Short())
		case a.Kind != ring.KindPack || a.Config != to.Config:
			return refuse(CodeInvalid, "artifact %s is no pack of %s", d.Short(), to.Config)
		case a.Joined != "":
			return refuse(CodeConflict, "pack %s has been joined into %s", d.Short(), a.Joined.Short())
		case a.Place != 0:
			return refuse(CodeInvalid, "pack %s is joined of others already", d.Short())
		case !a.Safe:
			return refuse(CodeRefused, "pack %s has not got its receipts", d.Short())
		}
		seen[d] = true
		counted += a.Games()
		packs = append(packs, a)
	}
	if err := t.m.rules.joined(counted, b.Games); err != nil {
		return err
	}
	if !t.m.rules.carries(t, to) {
		return refuse(CodeRefused, "artifact %s has not got the copies of a pack", to.Digest.Short())
	}
	if w, used := t.needs(to.Config, seen); used {
		return refuse(CodeConflict, "work %s needs the packs", w)
	}
	t.s.byKind.del(kindKey(to))
	to.Kind, to.Seq, to.Safe = ring.KindPack, t.index, true
	to.Place, to.First = 0, packs[0].Order()
	to.Labels = maps.Clone(to.Labels)
	delete(to.Labels, ring.LabelJoins)
	to.Counters = map[string]int64{ring.CounterGames: b.Games}
	if over := b.Games - counted; over > 0 {
		to.Counters[ring.CounterRepeats] = over
	}
	to.Created = packs[0].Created
	for _, a := range packs {
		to.Place, to.First = max(to.Place, a.Order()), min(to.First, a.Order())
		if a.Created.After(to.Created) {
			to.Created = a.Created
		}
		t.s.byKind.del(kindKey(a))
		a.Joined = to.Digest
		t.s.putArtifact(a)
		t.s.byKind.put(kindKey(a), kindRowOf(a))
		t.forgetSpent(a)
	}
	t.s.putArtifact(to)
	t.s.byKind.put(kindKey(to), kindRowOf(to))
	return nil
}

// checkJoined refuses to make games disappear from what the ring counts.
func checkJoined(counted, games int64) error {
	if games <= 0 || counted > games {
		return refuse(CodeRefused, "%d games are counted in the packs, and %d are in the joined one", counted, games)
	}
	return nil
}

// needs finds unfinished work that reads one of the packs, or a list of packs of the config, which the state cannot look into.
func (t *txn) needs(c id.Config, packs map[id.Digest]bool) (work string, ok bool) {
	for w := range t.s.WorkItems() {
		if w.State.Finished() {
			continue
		}
		for _, in := range w.Inputs {
			if packs[in.Digest] {
				return w.ID, true
			}
			if w.Type != TypeExport || w.Config != c {
				continue
			}
			if a, ok := t.s.artifact(in.Digest); !ok || a.Kind != ring.KindPack {
				return w.ID, true
			}
		}
	}
	return "", false
}

// carries says whether a has what a pack needs before others may go for it: its copies on nodes that are there, in as many
// failure domains as are wanted or as there are, one of them on a core node.
func carries(t *txn, a ring.Artifact) bool {
	have, room, core := map[string]bool{}, map[string]bool{}, false
	for m := range t.s.Members() {
		if m.Revoked || m.Status == ring.Left {
			continue
		}
		room[m.Domain()] = true
		if a.Held(m.ID) && m.Status != ring.Failed {
			have[m.Domain()] = true
			core = core || m.Class == id.Core
		}
	}
	return core && len(have) >= max(1, min(t.s.settings.CopiesOf(ring.KindPack), len(room)))
}

// carried refuses to let copies of a joined pack go while the pack that has its games is not as safe as a pack is.
func (t *txn) carried(a ring.Artifact) error {
	to, ok := t.s.artifact(a.Joined)
	switch {
	case !ok:
		return refuse(CodeRefused, "the pack %s, into which %s was joined, is unknown", a.Joined.Short(), a.Digest.Short())
	case !t.m.rules.carries(t, to):
		return refuse(CodeRefused, "the pack %s, into which %s was joined, has not got its copies", to.Digest.Short(), a.Digest.Short())
	}
	return nil
}

// forgetSpent forgets a pack that has been joined, or a file that never became one, with its last copy.
func (t *txn) forgetSpent(a ring.Artifact) {
	if len(a.Holders) > 0 || a.Joined == "" && !joining(a) {
		return
	}
	t.s.byKind.del(kindKey(a))
	t.s.artifacts.del(string(a.Digest))
}
