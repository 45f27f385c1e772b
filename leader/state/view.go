package state

import (
	"iter"
	"slices"
	"strings"

	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// Index is the Raft index of the last applied command.
func (s *State) Index() uint64 { return s.meta.Index }

// Generation is the recovery generation; every epoch made in it begins with it.
func (s *State) Generation() uint64 { return s.meta.Generation }

// CoreCommands is the newest command version that all core nodes understand, as far as they have said: those that may vote, and
// those that are away and may come back. The coordinator lets no newer command into the log. It falls again when a core node
// comes with an older version, which can go on as long as the log that it reads holds nothing newer.
func (s *State) CoreCommands() int {
	version := Version
	for _, m := range s.members.all() {
		if m.Class == id.Core && !m.Revoked && m.Status != ring.Left {
			version = min(version, m.Commands)
		}
	}
	return version
}

// ActiveCommands is a version that Raise once set and nobody raises: what may be proposed is CoreCommands. It stays since logs
// and snapshots have it.
func (s *State) ActiveCommands() int { return s.meta.Commands }

// Term is the Raft term of the newest coordinator that has spoken; 0 before the first.
func (s *State) Term() uint64 { return s.meta.Term }

// Coordinator is the node whose first entry of a term was applied last.
func (s *State) Coordinator() id.Node { return s.meta.Coordinator }

// LogHead is the end of the event log.
func (s *State) LogHead() ring.LogHead {
	return ring.LogHead{Seq: s.meta.LogSeq, Hash: event.Hash(s.meta.LogHash)}
}

// Settings are the ring's settings and their version, 0 before they were first put.
func (s *State) Settings() (ring.Settings, uint64) { return s.settings, s.meta.SettingsVersion }

// Member is the roster entry of n.
func (s *State) Member(n id.Node) (ring.Member, bool) {
	r, ok := s.members.get(string(n))
	return r.Member, ok
}

// Members is the roster in order of id, the left, failed and revoked included.
func (s *State) Members() iter.Seq[ring.Member] {
	return func(yield func(ring.Member) bool) {
		for _, r := range s.members.all() {
			if !yield(r.Member) {
				return
			}
		}
	}
}

// MemberByName is the newest bearer of a name.
func (s *State) MemberByName(name string) (ring.Member, bool) {
	n, ok := s.nameIndex.get(name)
	if !ok {
		return ring.Member{}, false
	}
	return s.Member(n)
}

// Revoked is the revocations in order of node id, also those of forgotten nodes.
func (s *State) Revoked() iter.Seq[ring.Revocation] { return values(s.revoked.all()) }

// IsRevoked says whether n was shut out.
func (s *State) IsRevoked(n id.Node) bool {
	_, ok := s.revoked.get(string(n))
	return ok
}

// IsKeyRevoked says whether the key with this hash was shut out, under whatever node id.
func (s *State) IsKeyRevoked(keyHash string) bool {
	_, ok := s.badKeys.get(keyHash)
	return ok
}

// Token is the join token with an id.
func (s *State) Token(tokenID string) (ring.Token, bool) { return s.tokens.get(tokenID) }

// Tokens is all kept tokens in order of id.
func (s *State) Tokens() iter.Seq[ring.Token] { return values(s.tokens.all()) }

// Assignment is the last decision about a singleton, also one that gave it to nobody.
func (s *State) Assignment(daemon string) (ring.Assignment, bool) { return s.assignments.get(daemon) }

// Assignments is every such decision in order of daemon.
func (s *State) Assignments() iter.Seq[ring.Assignment] { return values(s.assignments.all()) }

// DaemonOff says that a singleton is switched off in the whole ring.
func (s *State) DaemonOff(name string) bool {
	off, _ := s.off.get(name)
	return off
}

// DaemonsOff is the names of the singletons that are switched off, in order.
func (s *State) DaemonsOff() iter.Seq[string] {
	return func(yield func(string) bool) {
		for name := range s.off.all() {
			if !yield(name) {
				return
			}
		}
	}
}

// Work is a kept item.
func (s *State) Work(workID string) (ring.WorkItem, bool) {
	r, ok := s.work.get(workID)
	return r.WorkItem, ok
}

// WorkAdded is an item as it was added: with the params and inputs that it had before a claim fixed more of them.
func (s *State) WorkAdded(workID string) (ring.WorkItem, bool) {
	r, ok := s.work.get(workID)
	r.Inputs, r.Params = r.Fixed, r.FixedParams
	return r.WorkItem, ok
}

// WorkItems is the kept items in the order in which they were added.
func (s *State) WorkItems() iter.Seq[ring.WorkItem] {
	return func(yield func(ring.WorkItem) bool) {
		for _, workID := range s.workOrder.all() {
			if r, ok := s.work.get(workID); ok && !yield(r.WorkItem) {
				return
			}
		}
	}
}

// WorkIn is the kept items of the given states (none = all) in order of adding.
func (s *State) WorkIn(states ...ring.WorkState) iter.Seq[ring.WorkItem] {
	return filter(s.WorkItems(), func(w ring.WorkItem) bool { return len(states) == 0 || slices.Contains(states, w.State) })
}

// WorkOf is the kept items of a type in order of adding.
func (s *State) WorkOf(typ string) iter.Seq[ring.WorkItem] {
	return filter(s.WorkItems(), func(w ring.WorkItem) bool { return w.Type == typ })
}

// WorkByKey is the item with an idempotency key. Of one that finished long ago only ID, Type, Key, State and Finished are
// known.
func (s *State) WorkByKey(key string) (ring.WorkItem, bool) {
	if workID, ok := s.workKeys.get(key); ok {
		return s.Work(workID)
	}
	if t, ok := s.tombstones.get(key); ok {
		return t.item(key), true
	}
	return ring.WorkItem{}, false
}

// WorkDepth is the number of kept items of a type ("" = every type) in a state.
func (s *State) WorkDepth(typ string, st ring.WorkState) int {
	if typ != "" {
		n, _ := s.depth.get(depthKey(typ, st))
		return n
	}
	sum := 0
	for k, n := range s.depth.all() {
		if strings.HasSuffix(k, "\x00"+string(st)) {
			sum += n
		}
	}
	return sum
}

// WorkTypes is the types of which items are kept, in order.
func (s *State) WorkTypes() []string {
	var out []string
	for k := range s.depth.all() {
		typ, _, _ := strings.Cut(k, "\x00")
		if len(out) == 0 || out[len(out)-1] != typ {
			out = append(out, typ)
		}
	}
	return out
}

// Artifact is what is known of the bytes with a digest.
func (s *State) Artifact(d id.Digest) (ring.Artifact, bool) { return s.artifact(d) }

// ArtifactCount is the number of known artifacts.
func (s *State) ArtifactCount() int { return s.artifacts.len() }

// Artifacts is the artifacts of a kind ("" = every kind) and config ("" = every config) that were added after the entry
// with index after, in order of arrival.
func (s *State) Artifacts(kind ring.Kind, config id.Config, after uint64) iter.Seq[ring.Artifact] {
	if kind == "" {
		return s.artifactsOfAllKinds(config, after)
	}
	return func(yield func(ring.Artifact) bool) {
		prefix := string(kind) + "\x00"
		for k, row := range s.byKind.from(prefix + ordered(after+1)) {
			if !strings.HasPrefix(k, prefix) {
				return
			}
			if config != "" && row.config != config {
				continue
			}
			if a, ok := s.artifact(row.digest); ok && !yield(a) {
				return
			}
		}
	}
}

// Newest is the artifacts of a kind, the newest first.
func (s *State) Newest(kind ring.Kind) iter.Seq[ring.Artifact] {
	return func(yield func(ring.Artifact) bool) {
		for _, row := range s.byKind.back(string(kind) + "\x00") {
			if a, ok := s.artifact(row.digest); ok && !yield(a) {
				return
			}
		}
	}
}

func (s *State) artifactsOfAllKinds(config id.Config, after uint64) iter.Seq[ring.Artifact] {
	return func(yield func(ring.Artifact) bool) {
		var all []ring.Artifact
		for _, r := range s.artifacts.all() {
			if r.seq > after && (config == "" || r.config == config) {
				all = append(all, r.artifact())
			}
		}
		slices.SortStableFunc(all, func(a, b ring.Artifact) int {
			if a.Seq != b.Seq {
				if a.Seq < b.Seq {
					return -1
				}
				return 1
			}
			return strings.Compare(string(a.Digest), string(b.Digest))
		})
		for _, a := range all {
			if !yield(a) {
				return
			}
		}
	}
}

// OpenPacks is the game packs that a node has made and that have not got their receipts, in order of arrival. Every rented node that
// plays asks for its own every second: it must not cost a look at all packs.
func (s *State) OpenPacks(origin id.Node) iter.Seq[ring.Artifact] {
	return func(yield func(ring.Artifact) bool) {
		for _, d := range s.openPacks.prefix(openPrefix(origin)) {
			if a, ok := s.artifact(d); ok && !yield(a) {
				return
			}
		}
	}
}

// ArtifactsByPrefix is the artifacts whose digest begins with p, in order of digest.
func (s *State) ArtifactsByPrefix(p string) iter.Seq[ring.Artifact] {
	return func(yield func(ring.Artifact) bool) {
		for _, r := range s.artifacts.prefix(p) {
			if !yield(r.artifact()) {
				return
			}
		}
	}
}

// Name is where a name points.
func (s *State) Name(key string) (ring.Name, bool) { return s.names.get(key) }

// Names is all names in order of key.
func (s *State) Names() iter.Seq[ring.Name] { return values(s.names.all()) }

// Champion is the model that a config's name points to.
func (s *State) Champion(c id.Config) (ring.Name, bool) { return s.Name(ring.ModelName(c)) }

// Position is how far a singleton's consumer has got.
func (s *State) Position(consumer string) (ring.Position, bool) { return s.positions.get(consumer) }

// Positions is all consumers' positions in order of name.
func (s *State) Positions() iter.Seq[ring.Position] { return values(s.positions.all()) }

// Note is one note of a daemon.
func (s *State) Note(daemon, key string) (ring.Note, bool) { return s.notes.get(noteKey(daemon, key)) }

// Notes is a daemon's notes in order of key.
func (s *State) Notes(daemon string) iter.Seq[ring.Note] {
	return values(s.notes.prefix(noteKey(daemon, "")))
}

// DeadLetter is one failed (event, handler) pair of a singleton.
func (s *State) DeadLetter(letterID string) (ring.DeadLetter, bool) { return s.letters.get(letterID) }

// DeadLetters is all of them in order of id.
func (s *State) DeadLetters() iter.Seq[ring.DeadLetter] { return values(s.letters.all()) }

// Origin is how far the log has got with an outbox.
func (s *State) Origin(o event.Origin) (ring.OriginPos, bool) {
	r, ok := s.origins.get(string(o))
	return r.pos(), ok
}

// Origins is all known outboxes in order of id.
func (s *State) Origins() iter.Seq[ring.OriginPos] {
	return func(yield func(ring.OriginPos) bool) {
		for _, r := range s.origins.all() {
			if !yield(r.pos()) {
				return
			}
		}
	}
}

func (r originRow) pos() ring.OriginPos {
	return ring.OriginPos{Origin: r.Origin, Node: r.Node, Last: r.Last, Hash: event.Hash(r.Hash), At: r.At}
}

func (t tombstone) item(key string) ring.WorkItem {
	return ring.WorkItem{ID: t.ID, Type: t.Type, Key: key, State: t.State, Finished: t.At}
}

func depthKey(typ string, st ring.WorkState) string { return typ + "\x00" + string(st) }

func noteKey(daemon, key string) string { return daemon + "\x00" + key }

func filter[T any](seq iter.Seq[T], keep func(T) bool) iter.Seq[T] {
	return func(yield func(T) bool) {
		for v := range seq {
			if keep(v) && !yield(v) {
				return
			}
		}
	}
}
