package state

import (
	"maps"
	"slices"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// Limits of one artifact's record: the state holds small records only, lineage lists are artifacts themselves.
const (
	maxParents = 256
	maxFields  = 32  // counters, and labels
	maxField   = 256 // bytes of a label
)

func kindKey(a ring.Artifact) string {
	list := a.Kind
	if a.Joined != "" || joining(a) {
		list = ring.ListJoined
	}
	return string(list) + "\x00" + ordered(a.Seq) + string(a.Digest)
}

// kindRow is what a list needs in order to pass over the artifacts of other configs without looking them up: many daemons read
// the list of their config with every few games that arrive.
type kindRow struct {
	digest id.Digest
	config id.Config
}

func kindRowOf(a ring.Artifact) kindRow { return kindRow{a.Digest, shared(a.Config)} }

func checkArtifact(a ring.Artifact) error {
	if _, err := id.ParseDigest(string(a.Digest)); err != nil {
		return refuse(CodeInvalid, "%v", err)
	}
	switch a.Kind {
	case ring.KindPack, ring.KindDataset, ring.KindModel, ring.KindMatches, ring.KindBackup, ring.KindFile:
	default:
		return refuse(CodeInvalid, "artifact %s: kind %q is unknown", a.Digest.Short(), a.Kind)
	}
	if a.Config != "" {
		if _, err := id.ParseConfig(string(a.Config)); err != nil {
			return refuse(CodeInvalid, "artifact %s: %v", a.Digest.Short(), err)
		}
	}
	if a.Bytes <= 0 {
		return refuse(CodeInvalid, "artifact %s has %d bytes", a.Digest.Short(), a.Bytes)
	}
	if len(a.Parents) > maxParents || len(a.Counters) > maxFields || len(a.Labels) > maxFields {
		return refuse(CodeInvalid, "artifact %s: at most %d parents, %d counters and labels", a.Digest.Short(), maxParents, maxFields)
	}
	for k, v := range a.Labels {
		if len(k)+len(v) > maxField {
			return refuse(CodeInvalid, "artifact %s: a label has more than %d bytes", a.Digest.Short(), maxField)
		}
	}
	for _, p := range a.Parents {
		if _, err := id.ParseDigest(string(p)); err != nil {
			return refuse(CodeInvalid, "artifact %s: parent: %v", a.Digest.Short(), err)
		}
	}
	return nil
}

// addArtifacts makes bytes known and answers with the digests that were new.
func (t *txn) addArtifacts(list []ring.Artifact) (any, error) {
	var fresh []id.Digest
	for _, a := range list {
		if err := checkArtifact(a); err != nil {
			return nil, err
		}
		holders := make([]id.Node, 0, len(a.Holders))
		for _, n := range a.Holders {
			holders = t.addHolder(holders, n)
		}
		if len(holders) == 0 {
			return nil, refuse(CodeRefused, "artifact %s has no receipt of a node of the ring", a.Digest.Short())
		}
		if have, ok := t.s.artifact(a.Digest); ok {
			if have.Bytes != a.Bytes {
				return nil, refuse(CodeInvalid, "artifact %s has %d bytes, not %d", a.Digest.Short(), have.Bytes, a.Bytes)
			}
			for _, n := range holders {
				have.Holders = t.addHolder(have.Holders, n)
			}
			t.s.putArtifact(t.receipted(have))
			continue
		}
		most := MaxArtifacts
		if joining(a) {
			most += spareForJoins
		}
		if t.s.artifacts.len() >= most {
			return nil, refuse(CodeRefused, "the state holds %d artifacts at most", MaxArtifacts)
		}
		a.Holders, a.Seq = holders, t.index
		if a.Created.IsZero() {
			a.Created = t.at()
		}
		if a.Origin == "" {
			a.Origin = t.by()
		}
		a.Safe, a.Joined, a.Place, a.First = false, "", 0, 0
		t.s.putArtifact(t.receipted(a))
		t.s.byKind.put(kindKey(a), kindRowOf(a))
		fresh = append(fresh, a.Digest)
	}
	return fresh, nil
}

// addHolder is a sorted copy of holders with n, if n is a node of the ring.
func (t *txn) addHolder(holders []id.Node, n id.Node) []id.Node {
	r, ok := t.s.members.get(string(n))
	if !ok || r.Revoked {
		return holders
	}
	i, found := slices.BinarySearch(holders, n)
	if found {
		return holders
	}
	out := make([]id.Node, 0, len(holders)+1)
	out = append(append(append(out, holders[:i]...), r.ID), holders[i:]...)
	return out
}

func without(holders []id.Node, n id.Node) []id.Node {
	out := make([]id.Node, 0, len(holders))
	for _, h := range holders {
		if h != n {
			out = append(out, h)
		}
	}
	return out
}

func (t *txn) addReceipts(b AddReceipts) (any, error) {
	var unknown []id.Digest
	for _, r := range b.Receipts {
		a, ok := t.s.artifact(r.Digest)
		if !ok {
			unknown = append(unknown, r.Digest)
			continue
		}
		if now := t.addHolder(a.Holders, r.Node); len(now) != len(a.Holders) {
			a.Holders = now
			t.s.putArtifact(t.receipted(a))
		}
	}
	return unknown, nil
}

// receipted marks a game pack as safe once it has its receipts. Who announces a pack again has it judged anew: the ring may
// have become smaller meanwhile.
func (t *txn) receipted(a ring.Artifact) ring.Artifact {
	if a.Kind == ring.KindPack && !a.Safe {
		a.Safe = a.Receipted(t.s.Members(), t.s.settings.CopiesOf(a.Kind))
	}
	return a
}

// stateRepeats never makes a game disappear: what is subtracted from one pack stays counted with an older one, which keeps its
// receipts' mark for good.
func (t *txn) stateRepeats(b StateRepeats) error {
	for _, r := range b.Repeats {
		if r.Games < 0 {
			return refuse(CodeInvalid, "pack %s has %d repeated games", r.Digest.Short(), r.Games)
		}
		a, ok := t.s.artifact(r.Digest)
		if !ok || a.Kind != ring.KindPack || !a.Safe || a.Joined != "" {
			continue
		}
		n := min(r.Games, a.Counters[ring.CounterGames])
		if n <= a.Counters[ring.CounterRepeats] {
			continue
		}
		a.Counters[ring.CounterRepeats] = n
		t.s.putArtifact(a)
	}
	return nil
}

// dropHolder takes a node's receipts away, as when its disk is gone.
func (t *txn) dropHolder(n id.Node) {
	for key, r := range t.s.artifacts.all() {
		if slices.Contains(r.holders, n) {
			r.holders = without(r.holders, n)
			t.s.artifacts.put(key, r)
			t.forgetSpent(r.artifact())
		}
	}
}

// dropCopies is the permit to delete: all of it or nothing, judged as if every copy named were gone already.
func (t *txn) dropCopies(b DropCopies) error {
	joined := map[id.Config]map[id.Digest]bool{}
	for _, r := range b.Receipts {
		a, ok := t.s.artifact(r.Digest)
		if !ok {
			return refuse(CodeNotFound, "artifact %s is unknown", r.Digest.Short())
		}
		if !a.Held(r.Node) {
			if b.Lost {
				continue
			}
			return refuse(CodeNotFound, "node %s has no receipt for %s", r.Node, r.Digest.Short())
		}
		a.Holders = without(a.Holders, r.Node)
		t.s.putArtifact(a)
		if a.Joined != "" && !b.Lost {
			if joined[a.Config] == nil {
				joined[a.Config] = map[id.Digest]bool{}
			}
			joined[a.Config][a.Digest] = true
		}
	}
	for _, c := range slices.Sorted(maps.Keys(joined)) { // not once for each pack: that goes through the whole queue
		if w, used := t.needs(c, joined[c]); used { // it was asked for from an older view
			return refuse(CodeConflict, "work %s needs a pack of %s", w, c)
		}
	}
	for _, r := range b.Receipts {
		a, ok := t.s.artifact(r.Digest)
		if !ok { // forgotten with its last copy, a receipt of which is named above
			continue
		}
		if !b.Lost {
			if err := t.mayGo(a); err != nil {
				return err
			}
		}
		t.forgetSpent(a)
	}
	return nil
}

// mayGo refuses to let an artifact stay with the holders that it has.
func (t *txn) mayGo(a ring.Artifact) error {
	switch {
	case a.Joined != "":
		return t.carried(a)
	case joining(a):
		return nil // it never became a pack
	}
	return t.enough(a)
}

// enough refuses to let an artifact stay with fewer copies than its kind wants, in different failure domains; of protected
// kinds one of them must be on a core node.
func (t *txn) enough(a ring.Artifact) error {
	var domains []string
	core := false
	for _, n := range a.Holders {
		r, ok := t.s.members.get(string(n))
		if !ok || r.Revoked || r.Status == ring.Left || r.Status == ring.Failed {
			continue
		}
		core = core || r.Class == id.Core
		if d := r.Domain(); !slices.Contains(domains, d) {
			domains = append(domains, d)
		}
	}
	if err := t.m.rules.copies(len(domains), t.s.settings.CopiesOf(a.Kind)); err != nil {
		return refuse(CodeRefused, "artifact %s: %v", a.Digest.Short(), err.(*refusal).message)
	}
	if !core && t.protected(a) {
		return refuse(CodeRefused, "artifact %s: no copy would stay on a core node", a.Digest.Short())
	}
	return nil
}

func checkCopies(stay, want int) error {
	if stay < want {
		return refuse(CodeRefused, "%d verified copies in different failure domains would stay, %d are wanted", stay, want)
	}
	return nil
}

// protected says whether an artifact is of those whose loss cannot be made good: games, datasets, models that a name
// points or pointed to.
func (t *txn) protected(a ring.Artifact) bool {
	switch a.Kind {
	case ring.KindPack, ring.KindDataset:
		return true
	case ring.KindModel:
		for _, n := range t.s.names.prefix(ring.ModelName("")) {
			if n.Digest == a.Digest || slices.ContainsFunc(n.History, func(v ring.NameVersion) bool { return v.Digest == a.Digest }) {
				return true
			}
		}
	}
	return false
}
