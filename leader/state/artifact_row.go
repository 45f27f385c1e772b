package state

import (
	"encoding/binary"
	"maps"
	"slices"
	"time"
	"unique"

	"github.com/ringagent/ringagent/internal/field"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// artifactRow is a ring.Artifact in little memory: there may be a hundred thousand of them. What few have is packed, and strings
// that many rows have in common are shared.
type artifactRow struct {
	digest  id.Digest
	kind    ring.Kind
	config  id.Config
	bytes   int64
	created time.Time
	origin  id.Node
	holders []id.Node
	parents []id.Digest
	seq     uint64
	safe    bool
	packed  string // counters, labels, place, first, joined
}

func packArtifact(a ring.Artifact) artifactRow {
	b := packMap(nil, a.Counters, func(b []byte, v int64) []byte { return binary.AppendVarint(b, v) })
	b = packMap(b, a.Labels, func(b []byte, v string) []byte { return field.Append(b, v) })
	b = field.Append(binary.AppendUvarint(binary.AppendUvarint(b, a.Place), a.First), string(a.Joined))
	holders := make([]id.Node, len(a.Holders)) // never in place: an older state may have the slice
	for i, n := range a.Holders {
		holders[i] = shared(n)
	}
	return artifactRow{digest: a.Digest, kind: shared(a.Kind), config: shared(a.Config), bytes: a.Bytes, created: a.Created, origin: shared(a.Origin),
		holders: holders, parents: a.Parents, seq: a.Seq, safe: a.Safe, packed: string(b)}
}

func (r artifactRow) artifact() ring.Artifact {
	a := ring.Artifact{Digest: r.digest, Kind: r.kind, Config: r.config, Bytes: r.bytes, Created: r.created, Origin: r.origin,
		Holders: r.holders, Parents: r.parents, Seq: r.seq, Safe: r.safe}
	in := field.Read([]byte(r.packed))
	a.Counters = unpackMap(&in, (*field.Reader).Varint)
	a.Labels = unpackMap(&in, func(in *field.Reader) string { return string(in.Bytes()) })
	a.Place, a.First = in.Uvarint(), in.Uvarint()
	a.Joined = id.Digest(in.Bytes())
	return a
}

// MarshalJSON writes the artifact as everybody knows it.
func (r artifactRow) MarshalJSON() ([]byte, error) { return marshal(r.artifact()) }

// UnmarshalJSON reads what MarshalJSON wrote.
func (r *artifactRow) UnmarshalJSON(b []byte) error {
	var a ring.Artifact
	if err := unmarshal(b, &a); err != nil {
		return err
	}
	*r = packArtifact(a)
	return nil
}

func shared[T ~string](s T) T { return T(unique.Make(string(s)).Value()) }

func packMap[V any](b []byte, m map[string]V, value func([]byte, V) []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(m)))
	for _, k := range slices.Sorted(maps.Keys(m)) {
		b = value(field.Append(b, k), m[k])
	}
	return b
}

func unpackMap[V any](in *field.Reader, value func(*field.Reader) V) map[string]V {
	n := in.Count()
	if n == 0 {
		return nil
	}
	m := make(map[string]V, n)
	for range n {
		k := string(in.Bytes())
		m[k] = value(in)
	}
	return m
}

func (s *State) artifact(d id.Digest) (ring.Artifact, bool) {
	r, ok := s.artifacts.get(string(d))
	if !ok {
		return ring.Artifact{}, false
	}
	return r.artifact(), true
}

func (s *State) putArtifact(a ring.Artifact) {
	s.artifacts.put(string(a.Digest), packArtifact(a))
	s.noteOpen(a)
}

func openPrefix(origin id.Node) string { return string(origin) + "\x00" }

// noteOpen keeps the list of packs that have not got their receipts.
func (s *State) noteOpen(a ring.Artifact) {
	if a.Kind != ring.KindPack {
		return
	}
	key := openPrefix(a.Origin) + ordered(a.Seq) + string(a.Digest)
	switch _, open := s.openPacks.get(key); {
	case !a.Safe && !open:
		s.openPacks.put(key, a.Digest)
	case a.Safe && open:
		s.openPacks.del(key)
	}
}
