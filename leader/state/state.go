package state

import (
	"time"

	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// Limits of the state. They are part of what a command means: changing one needs a new command version.
const (
	MaxEntry        = 256 << 10 // bytes of one encoded command
	MaxPending      = 1000      // unfinished items waiting for a claim
	MaxNote         = 16 << 10  // bytes of one daemon note
	MaxNotes        = 1 << 20   // bytes of keys and values of one daemon's notes
	MaxArtifacts    = 400_000
	MaxDeadLetters  = 10_000
	DefaultAttempts = 3

	keptFinished   = 1000  // finished work items that are kept whole
	keptTombstones = 20000 // keys of finished items that are kept after that
	keptOnce       = 4096
	keptHistory    = 200 // versions of a name
	keptMarks      = 16  // checkpoints of an origin's running hash
	keptBoots      = 8   // former boots of a member
	keptRemoved    = 30 * 24 * time.Hour
)

// State is the replicated state after one entry. It is immutable.
type State struct {
	meta     meta
	settings ring.Settings

	members     table[memberRow]
	revoked     table[ring.Revocation]
	tokens      table[ring.Token]
	assignments table[ring.Assignment]
	off         table[bool]
	work        table[workRow]
	tombstones  table[tombstone] // by key of the item
	artifacts   table[artifactRow]
	names       table[ring.Name]
	positions   table[ring.Position]
	notes       table[ring.Note] // daemon, zero byte, key
	letters     table[ring.DeadLetter]
	origins     table[originRow]
	once        table[onceRow]

	// What follows is derived from the above and is in no snapshot.
	nameIndex  table[id.Node]   // name of a node → its newest bearer
	badKeys    table[id.Node]   // hash of a revoked key → node
	workKeys   table[string]    // key of an item → its id
	workOrder  table[string]    // order of adding → id
	doneOrder  table[string]    // order of finishing → id
	tombOrder  table[string]    // order of finishing → key
	depth      table[int]       // type, zero byte, state → items
	byKind     table[kindRow]   // kind, zero byte, seq, digest
	openPacks  table[id.Digest] // of packs without their receipts: origin, zero byte, seq, digest
	onceOrder  table[string]    // order → once key
	notesBytes table[int]       // daemon → bytes
}

// meta is the single values of the state.
type meta struct {
	Index           uint64  `json:"index"`
	Generation      uint64  `json:"generation"`
	Commands        int     `json:"commands"`
	Term            uint64  `json:"term"`
	Coordinator     id.Node `json:"coordinator"`
	SettingsVersion uint64  `json:"settings_version"`
	LogSeq          uint64  `json:"log_seq"`
	LogHash         hash    `json:"log_hash"`
	Counter         uint64  `json:"counter"` // next number of an order
}

type memberRow struct {
	ring.Member
	Former []id.Boot `json:"former,omitempty"` // boots that a newer one has replaced, oldest first
	// The boots whose coming, going and death were announced: each is told once.
	Online  id.Boot `json:"online,omitempty"`
	Offline id.Boot `json:"offline,omitempty"`
	Dead    id.Boot `json:"dead,omitempty"`
}

type workRow struct {
	ring.WorkItem
	Fixed       []ring.Input      `json:"fixed,omitempty"`        // inputs as added
	FixedParams map[string]string `json:"fixed_params,omitempty"` // params as added
	Added       uint64            `json:"added"`                  // order
	Done        uint64            `json:"done,omitempty"`         // order of finishing
	Failures    int               `json:"failures,omitempty"`     // finishes with an error, for the backoff
	EndedBy     string            `json:"ended_by,omitempty"`     // claim whose finish was the last one taken
	EndedBad    bool              `json:"ended_bad,omitempty"`    // and whether that was an error
}

// tombstone remembers a finished item that is no longer kept whole.
type tombstone struct {
	ID    string         `json:"id"`
	Type  string         `json:"type"`
	State ring.WorkState `json:"state"`
	At    time.Time      `json:"at"`
	Order uint64         `json:"order"`
}

type originRow struct {
	Origin event.Origin `json:"origin"`
	Node   id.Node      `json:"node"`
	Last   uint64       `json:"last"`
	Hash   hash         `json:"hash"`
	At     time.Time    `json:"at"`
	Marks  []mark       `json:"marks,omitempty"`
}

// mark is the running hash of an origin at a number below its last, so that a repeated batch can be compared.
type mark struct {
	N    uint64 `json:"n"`
	Hash hash   `json:"h"`
}

func emptyState() *State {
	s := &State{
		meta:     meta{Commands: 1},
		settings: ring.Settings{Timing: ring.TimingLAN, Voters: 5},
		members:  newTable[memberRow](), revoked: newTable[ring.Revocation](), tokens: newTable[ring.Token](),
		assignments: newTable[ring.Assignment](), off: newTable[bool](), work: newTable[workRow](),
		tombstones: newTable[tombstone](), artifacts: newTable[artifactRow](), names: newTable[ring.Name](),
		positions: newTable[ring.Position](), notes: newTable[ring.Note](), letters: newTable[ring.DeadLetter](),
		origins: newTable[originRow](), once: newTable[onceRow](),
		nameIndex: newTable[id.Node](), badKeys: newTable[id.Node](), workKeys: newTable[string](),
		workOrder: newTable[string](), doneOrder: newTable[string](), tombOrder: newTable[string](),
		depth: newTable[int](), byKind: newTable[kindRow](), openPacks: newTable[id.Digest](), onceOrder: newTable[string](), notesBytes: newTable[int](),
	}
	return s
}

// next hands out the numbers of the orders.
func (s *State) next() uint64 {
	s.meta.Counter++
	return s.meta.Counter
}

// share makes the state ready to be read by others: no table may be changed in place any more.
func (s *State) share() {
	for _, t := range []interface{ share() }{
		&s.members, &s.revoked, &s.tokens, &s.assignments, &s.off, &s.work, &s.tombstones, &s.artifacts, &s.names, &s.positions,
		&s.notes, &s.letters, &s.origins, &s.once, &s.nameIndex, &s.badKeys, &s.workKeys, &s.workOrder, &s.doneOrder, &s.tombOrder,
		&s.depth, &s.byKind, &s.openPacks, &s.onceOrder, &s.notesBytes,
	} {
		t.share()
	}
}
