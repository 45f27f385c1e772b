package ring

import (
	"encoding/json"
	"iter"
	"math"
	"time"

	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/id"
)

// Kind is what the bytes of an artifact are; each kind has its validator.
type Kind string

// Kinds of artifacts.
const (
	KindPack    Kind = "games"   // a game pack: a small SQLite file of finished games
	KindDataset Kind = "dataset" // NPZ
	KindModel   Kind = "model"
	KindMatches Kind = "matches" // JSON lines of rating.Match
	KindBackup  Kind = "backup"
	KindFile    Kind = "file" // anything an operator puts there
)

// Artifact is what the state knows of immutable bytes: who has them (by receipt) and where they come from.
type Artifact struct {
	Digest   id.Digest         `json:"sha256"`
	Kind     Kind              `json:"kind"`
	Config   id.Config         `json:"config,omitempty"`
	Bytes    int64             `json:"bytes"`
	Created  time.Time         `json:"created"`
	Origin   id.Node           `json:"origin"`  // the node that made it
	Holders  []id.Node         `json:"holders"` // sorted; nodes with a valid receipt
	Parents  []id.Digest       `json:"parents,omitempty"`
	Counters map[string]int64  `json:"counters,omitempty"` // games, samples, matches …, read from the bytes
	Labels   map[string]string `json:"labels,omitempty"`   // work id, generation …
	Seq      uint64            `json:"seq"`                // Raft index at which it was added: a stable order of arrival
	// Safe is set once a game pack has had all its receipts, and stays: what was counted is never uncounted, whatever
	// becomes of its holders later.
	Safe bool `json:"safe,omitempty"`
	// Joined is the pack that has this pack's games since. A pack that has been joined is counted no more, is in no list but
	// that of ListJoined, and its holders may delete it.
	Joined id.Digest `json:"joined,omitempty"`
	// Place and First are 0, or of a pack that was joined of others the greatest and the least Order of those.
	Place uint64 `json:"place,omitempty"`
	First uint64 `json:"first,omitempty"`
}

// ListJoined is no kind of an artifact: it lists the packs whose games are in another one by now, and the files that are to become
// such packs.
const ListJoined Kind = "joined"

// LabelJoins is on a file that is to become a pack joined of others of its config, with that config as value.
const LabelJoins = "joins"

// Order is where the artifact's contents stand among those of its kind: games that were joined stay where they were.
func (a Artifact) Order() uint64 {
	if a.Place != 0 {
		return a.Place
	}
	return a.Seq
}

// Counters of game packs.
const (
	CounterGames   = "games"
	CounterRepeats = "repeats" // of its games, those that an older pack with receipts has, too
)

// Games is how many games a pack adds to those of the older ones, as far as that is known: a game that two nodes have packed
// counts once.
func (a Artifact) Games() int64 {
	return max(0, max(0, a.Counters[CounterGames])-max(0, a.Counters[CounterRepeats]))
}

// AddGames adds up counters, which are what nodes have said: the largest number there is stays that, and does not become a negative one.
func AddGames(sum, more int64) int64 {
	if more > math.MaxInt64-sum {
		return math.MaxInt64
	}
	return sum + max(0, more)
}

// Repeat says how many games of a pack are in older packs that have their receipts, too. Older is by Order, then by Digest.
type Repeat struct {
	Digest id.Digest `json:"sha256"`
	Games  int64     `json:"games"`
}

// Receipted says whether a game pack has its receipts: as many as are wanted, or as many as the members' failure domains
// allow, at least one on a core node. The copy on the rented node that played the games counts neither as a receipt nor as
// a place for one.
func (a Artifact) Receipted(members iter.Seq[Member], copies int) bool {
	have, room, core := map[string]bool{}, map[string]bool{}, false
	for m := range members {
		if m.Revoked || m.Status == Left || m.ID == a.Origin && m.Class == id.Edge {
			continue
		}
		room[m.Domain()] = true
		if a.Held(m.ID) {
			have[m.Domain()] = true
			core = core || m.Class == id.Core
		}
	}
	return core && len(have) >= max(1, min(copies, len(room)))
}

// Held says whether n has a receipt for the artifact.
func (a Artifact) Held(n id.Node) bool {
	for _, h := range a.Holders {
		if h == n {
			return true
		}
	}
	return false
}

// Receipt is a node's statement that it holds the verified and fsynced bytes.
type Receipt struct {
	Node   id.Node   `json:"node"`
	Digest id.Digest `json:"sha256"`
}

// Name points to an artifact; it changes only by compare-and-set on Version.
type Name struct {
	Key      string             `json:"key"` // "model/connect4_2p"
	Version  uint64             `json:"version"`
	Digest   id.Digest          `json:"sha256"`
	Previous id.Digest          `json:"previous_sha256,omitempty"`
	At       time.Time          `json:"at"`
	By       Fence              `json:"by,omitzero"`
	Values   map[string]float64 `json:"values,omitempty"` // elo, games …
	History  []NameVersion      `json:"history,omitempty"`
}

// NameVersion is one past value of a name, oldest first in its history.
type NameVersion struct {
	Version uint64             `json:"version"`
	Digest  id.Digest          `json:"sha256"`
	At      time.Time          `json:"at"`
	Until   time.Time          `json:"until"`
	Values  map[string]float64 `json:"values,omitempty"`
}

// ModelName is the name that a config's champion has.
func ModelName(c id.Config) string { return "model/" + string(c) }

// Position is how far a singleton's durable subscriber has got.
type Position struct {
	Consumer string   `json:"consumer"`
	Seq      uint64   `json:"seq"`
	Epoch    id.Epoch `json:"epoch"`
}

// Note is a small record that a singleton keeps for its successor.
type Note struct {
	Daemon string          `json:"daemon"`
	Key    string          `json:"key"`
	Value  json.RawMessage `json:"value"`
	Epoch  id.Epoch        `json:"epoch"`
}

// OriginPos is how far the log has got with one outbox.
type OriginPos struct {
	Origin event.Origin `json:"origin"`
	Node   id.Node      `json:"node"`
	Last   uint64       `json:"last"`
	Hash   event.Hash   `json:"hash"` // running hash over the drafts up to Last
	At     time.Time    `json:"at"`
}

// DeadLetter is one (event, handler) pair that failed for good until somebody retries it.
type DeadLetter struct {
	ID          string     `json:"id"`
	EventID     string     `json:"event_id"`
	Seq         uint64     `json:"seq"`
	Type        event.Type `json:"type"`
	Handler     string     `json:"handler"`
	Node        id.Node    `json:"node"`
	Error       string     `json:"error"`
	Attempts    int        `json:"attempts"`
	FirstFailed time.Time  `json:"first_failed"`
	LastFailed  time.Time  `json:"last_failed"`
	Abandoned   bool       `json:"abandoned,omitempty"`
}

// LogHead is the end of the event log.
type LogHead struct {
	Seq  uint64     `json:"seq"`
	Hash event.Hash `json:"hash"`
}
